"""The verifier's policy: every bound a verdict depends on, from a TOML file. PROTOCOL section 10; docs/policy.md.

Nothing in it comes from a proof. Its digest goes into the sampling seed, so a sample drawn under one policy is
not the sample of another.
"""

import difflib
import math
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from polledger.core.digest import sha256
from polledger.core.encoding import encode, real
from polledger.core.screening import ScreeningRules
from polledger.core.tolerance import MARGIN, RHO, Rules
from polledger.errors import UsageError


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the policy's tables. Defaults are the default policy; docs/policy.md gives the reasons."""


class StructureBounds(_Table, frozen=True):
    """Step 4. ``every``: largest k in steps. ``still_share``: share of intervals that may stand still.

    ``still_ratio``: share of the run's mean movement per step below which an interval counts as still.
    ``displacement``: least l2 distance of the parameters over the whole run, relative to their first norm.
    """

    every: int = 100
    still_share: float = 0.05
    still_ratio: float = 1e-4
    displacement: float = 1e-6

    def __post_init__(self) -> None:
        _require(self.every >= 1, "structure.every is at least 1")
        _require(0 <= self.still_share <= 1, "structure.still_share is between 0 and 1")
        _require(0 <= self.still_ratio < 1, "structure.still_ratio is at least 0 and below 1")
        _require(self.displacement >= 0, "structure.displacement is not negative")


DEFAULT_BOUNDS: dict[str, tuple[float, float]] = {
    "lr": (0.0, 10.0),
    "momentum": (0.0, 0.9999),
    "dampening": (0.0, 0.9999),
    "weight_decay": (0.0, 1.0),
    "betas_0": (0.0, 0.99999),
    "betas_1": (0.0, 0.999999),
    "eps": (0.0, 0.1),
}


class HyperparameterBounds(_Table, frozen=True):
    """Step 4, custom tasks. ``scheduled``: names that may change from step to step; ``bounds``: [low, high] by name."""

    scheduled: list[str] = msgspec.field(
        default_factory=lambda: ["lr", "initial_lr", "max_lr", "min_lr", "base_lr", "momentum", "betas_0"]
    )
    bounds: dict[str, tuple[float, float]] = msgspec.field(default_factory=lambda: dict(DEFAULT_BOUNDS))

    def __post_init__(self) -> None:
        for name, (low, high) in self.bounds.items():
            _require(low <= high, f"hyperparameters.bounds.{name}: the lower bound is the greater one")


class ComparisonBounds(_Table, frozen=True):
    """Step 9. ``replicas``: one-ulp replays per interval. ``noise_seconds``: budget for all noise replays.

    ``lean_margin``: how much more than the verifier's own replays residuals may lean towards the final model.
    """

    margin: float = MARGIN
    rho: float = RHO
    replicas: int = 4
    noise_seconds: float = 1800.0
    lean_margin: float = 3.0

    def __post_init__(self) -> None:
        _require(self.margin >= 1, "comparison.margin is at least 1")
        _require(0 < self.rho < 1, "comparison.rho is between 0 and 1")
        _require(self.replicas >= 4, "comparison.replicas is at least 4")
        _require(self.noise_seconds >= 0, "comparison.noise_seconds is not negative")
        _require(self.lean_margin >= 1, "comparison.lean_margin is at least 1")

    @property
    def rules(self) -> Rules:
        """Margin and ρ as the comparison takes them."""
        return Rules(margin=self.margin, rho=self.rho)


class ScreeningBounds(_Table, frozen=True):
    """Step 5. ``jump``, ``neighbours``, ``arrival``, ``pace``, ``straight``, ``probes``: see core/screening.py.

    ``share`` of the intervals, or ``least`` if that is more: how many flags may have opened. ``compared``: least share
    of intervals in segments that could be compared with others, or were opened.
    """

    jump: float = 3.0
    neighbours: int = 32
    arrival: float = 0.5
    pace: float = 2.0
    straight: float = 0.9999
    probes: int = 2
    share: float = 0.1
    least: int = 32
    compared: float = 0.5

    def __post_init__(self) -> None:
        _require(self.jump > 1, "screening.jump is more than 1")
        _require(self.neighbours >= 4, "screening.neighbours is at least 4")
        _require(self.arrival > 0, "screening.arrival is positive")
        _require(self.pace > 1, "screening.pace is more than 1")
        _require(0 < self.straight < 1, "screening.straight is between 0 and 1")
        _require(self.probes >= 1, "screening.probes is at least 1")
        _require(0 <= self.share <= 1, "screening.share is between 0 and 1")
        _require(self.least >= 0, "screening.least is not negative")
        _require(0 <= self.compared <= 1, "screening.compared is between 0 and 1")

    @property
    def rules(self) -> ScreeningRules:
        """The bounds of the rules as they take them."""
        return ScreeningRules(
            jump=self.jump,
            neighbours=self.neighbours,
            arrival=self.arrival,
            pace=self.pace,
            straight=self.straight,
            probes=self.probes,
        )

    def budget(self, total: int) -> int:
        """How many of ``total`` intervals flags may have opened."""
        return max(self.least, math.floor(self.share * total))


class SampleBounds(_Table, frozen=True):
    """Step 6. When no sample size is given: ``odds`` against ``bogus`` share, at most ``seconds`` of replay.

    ``top``: how many of the intervals with the largest displacement are opened besides.
    """

    odds: float = 0.99
    bogus: float = 0.10
    seconds: float = 300.0
    top: int = 5

    def __post_init__(self) -> None:
        _require(0 < self.odds < 1, "sample.odds is between 0 and 1")
        _require(0 < self.bogus <= 1, "sample.bogus is between 0 and 1")
        _require(self.seconds > 0, "sample.seconds is positive")
        _require(self.top >= 0, "sample.top is not negative")


SLACK_SECONDS = 1e9
"""Largest slack of a clock, some 32 years: times with it added or taken away are still times."""

_ALGORITHM = re.compile(r"rsa[1-9]\d{2,4}|p256|p384|ed25519|sha256|sha384|sha512", re.ASCII)


class TimeBounds(_Table, frozen=True):
    """Step 3. ``quorum``: distinct operators of the trust file. ``skew``: seconds a genTime may lie ahead of the clock.

    ``accuracy``: seconds assumed where a token states none. ``accept_expired``: tokens whose certificates have ended
    count without a renewal. ``sunset``: by algorithm, the day from which it shows nothing any more by itself. ``pace``:
    steps a second that may lie between two external anchors; 0: any. ``witnesses``: distinct operators of witnesses
    that must have cosigned the last head.
    """

    quorum: int = 1
    skew: float = 300.0
    accuracy: float = 60.0
    accept_expired: bool = False
    sunset: dict[str, str] = msgspec.field(default_factory=dict)
    pace: float = 0.0
    witnesses: int = 0

    def __post_init__(self) -> None:
        for name, day in self.sunset.items():
            _require(
                _ALGORITHM.fullmatch(name) is not None, f"time.sunset: {name!r} is not like rsa2048 or sha256"
            )
            _require(_is_day(day), f'time.sunset.{name} is not a day in quotes, like "2031-01-01"')
        _require(self.quorum >= 1, "time.quorum is at least 1")
        _require(self.witnesses >= 0, "time.witnesses is not negative")
        _require(
            all(0 <= seconds <= SLACK_SECONDS for seconds in (self.skew, self.accuracy)),
            f"time.skew and time.accuracy are seconds from 0 to {SLACK_SECONDS:.0f}",
        )
        _require(self.pace >= 0, "time.pace is not negative")


class Requirements(_Table, frozen=True):
    """What VERIFIED needs beyond the default. ``isolation``: of code that is not polledger's own."""

    bitwise: bool = False
    recipe: bool = False
    external_time: bool = False
    dataset_root: bool = False
    isolation: bool = False


class DataBounds(_Table, frozen=True):
    """Step 7. ``known``: hex digests of data sets, one of which the run must be trained on; none: any will do."""

    known: list[str] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        for digest in self.known:
            _require(_is_digest(digest), f"data.known: {digest!r}")


class CodeBounds(_Table, frozen=True):
    """``trusted``: hex digests of task sources that may run without asking.

    ``patience``: seconds to wait for one message of the task's process, such as one step; code may hang.
    """

    trusted: list[str] = msgspec.field(default_factory=list)
    patience: float = 3600.0

    def __post_init__(self) -> None:
        _require(0 < self.patience <= 1e6, "code.patience is more than 0 and at most 1e6 seconds")
        for digest in self.trusted:
            _require(_is_digest(digest), f"code.trusted: {digest!r}")


class ReplaySettings(_Table, frozen=True):
    """Replay as another machine would: another thread count, CPU capability or kind of device than recorded."""

    threads: int | None = None
    capability: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        _require(self.threads is None or self.threads >= 1, "replay.threads is at least 1")
        known = (None, "DEFAULT", "AVX2", "AVX512")
        _require(self.capability in known, f"replay.capability is one of {', '.join(map(str, known[1:]))}")
        devices = ("cpu", "cuda", "mps")
        _require(self.device in (None, *devices), f"replay.device is one of {', '.join(devices)}")


class Policy(_Table, frozen=True):
    """A whole policy. A value that exists is within bounds; the default one is documented in docs/policy.md."""

    structure: StructureBounds = msgspec.field(default_factory=StructureBounds)
    hyperparameters: HyperparameterBounds = msgspec.field(default_factory=HyperparameterBounds)
    comparison: ComparisonBounds = msgspec.field(default_factory=ComparisonBounds)
    screening: ScreeningBounds = msgspec.field(default_factory=ScreeningBounds)
    sample: SampleBounds = msgspec.field(default_factory=SampleBounds)
    time: TimeBounds = msgspec.field(default_factory=TimeBounds)
    require: Requirements = msgspec.field(default_factory=Requirements)
    data: DataBounds = msgspec.field(default_factory=DataBounds)
    code: CodeBounds = msgspec.field(default_factory=CodeBounds)
    replay: ReplaySettings = msgspec.field(default_factory=ReplaySettings)

    def digest(self) -> bytes:
        """SHA-256 of the canonical encoding: equal for equal policies, however the file was written."""
        return sha256(encode(_canonical(msgspec.to_builtins(self))))


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _is_day(text: str) -> bool:
    try:
        day = date.fromisoformat(text)
        # The moment before it has to exist.
        return day > date.min and day.isoformat() == text
    except ValueError:
        return False


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _canonical(value: Any) -> Any:
    if isinstance(value, float):
        return real(value)
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return value


def parse_policy(text: str) -> Policy:
    """The policy written in ``text`` (TOML). Raises UsageError naming the key that is wrong or unknown."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the policy is not TOML: {error}") from None
    _refuse_unknown(values, Policy, "")
    _refuse_not_finite(values, "")
    _complete_bounds(values)
    try:
        return msgspec.convert(values, Policy, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(f"the policy: {error}") from None


def _complete_bounds(values: dict[str, Any]) -> None:
    """Bounds that are not given keep their default: writing one does not drop the others."""
    table = values.get("hyperparameters")
    given = table.get("bounds") if isinstance(table, dict) else None
    if isinstance(table, dict) and isinstance(given, dict):
        table["bounds"] = {**DEFAULT_BOUNDS, **given}


def load_policy(path: Path | None) -> Policy:
    """The policy in the file ``path``, or the default one. Raises UsageError."""
    if path is None:
        return Policy()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the policy file {path} cannot be read: {error}") from None
    return parse_policy(text)


def _refuse_unknown(values: dict[str, Any], table: type[_Table], prefix: str) -> None:
    # msgspec refuses unknown keys too; this says which ones exist.
    fields = {field.name: field for field in msgspec.structs.fields(table)}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=3, cutoff=0.5) or sorted(fields)
            raise UsageError(f"the policy has no key {prefix + key!r}; near: {', '.join(near)}")
        kind = fields[key].type
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, _Table):
            _refuse_unknown(value, kind, f"{prefix}{key}.")


def _refuse_not_finite(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_not_finite(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value:
            _refuse_not_finite(item, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"the policy: {path} is not a finite number")
