"""What a report's page shows, out of its JSON object: few enough things for a page, whatever the run's length."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from polledger.core.report import ADVISORY, STEP_NAMES
from polledger.core.reportform import (
    FindingForm,
    GroupForm,
    IntervalForm,
    Number,
    SealForm,
    TokenForm,
    TrajectoryForm,
    VerificationForm,
)
from polledger.core.reportwords import worst_group
from polledger.core.screening import is_parameters
from polledger.core.tolerance import Outcome

POINTS = 300
"""Intervals in the figure of errors: about one for every two points of its width."""

CELLS = 2000
"""Cells of the map of intervals."""

Item = TypeVar("Item")

Fate = Literal["failed", "unchecked", "drawn", "added", "closed"]
"""What became of an interval: the first that applies. ``drawn`` and ``added`` passed; ``closed`` was not opened."""

FATES: tuple[Fate, ...] = ("failed", "unchecked", "drawn", "added", "closed")

_LEAST = 1e-100
"""Numbers below this and above its inverse are not drawn: axes that reach so far overflow."""

_SEVERITY: dict[Outcome, int] = {"fail": 2, "unverifiable": 1, "pass": 0}


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of ``items``, evenly apart, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[at * (len(items) - 1) // (count - 1)] for at in range(count)]


def blocks(finding: FindingForm) -> bool:
    """As :attr:`polledger.core.report.Finding.blocks`."""
    unchecked = finding["outcome"] == "unverifiable" and finding["name"] not in ADVISORY
    return finding["outcome"] == "fail" or unchecked


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """What one numbered step came to; ``noted``: only remarks that block nothing. ``missing``: nothing was said."""

    step: int
    name: str
    state: Literal["pass", "fail", "unverifiable", "noted", "missing"]
    findings: tuple[FindingForm, ...]


def step_states(value: VerificationForm) -> list[StepState]:
    """Every step in order, those that were not asked for too."""
    by_step: dict[int, list[FindingForm]] = {step: [] for step in STEP_NAMES}
    for finding in value["findings"]:
        by_step.setdefault(finding["step"], []).append(finding)
    return [
        StepState(step=step, name=name, state=_state(by_step[step]), findings=tuple(by_step[step]))
        for step, name in STEP_NAMES.items()
    ]


def _state(
    findings: Sequence[FindingForm],
) -> Literal["pass", "fail", "unverifiable", "noted", "missing"]:
    outcomes = {finding["outcome"] for finding in findings if blocks(finding)}
    if "fail" in outcomes:
        return "fail"
    if outcomes:
        return "unverifiable"
    if any(finding["outcome"] == "pass" for finding in findings):
        return "pass"
    return "noted" if findings else "missing"


def finite(value: Number | None) -> float | None:
    """``value`` where it is a number that can be drawn; it is written in any case."""
    if not isinstance(value, int | float) or not abs(value) <= 1 / _LEAST:
        return None
    return value if not 0 < abs(value) < _LEAST else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorPoint:
    """One opened interval by its worst group: error, displacement and tolerance (l2), None where there is no number.

    ``bits``: whether states were equal, differed, or were never compared.
    """

    interval: int
    steps: Sequence[int]
    outcome: Outcome
    bits: Literal["equal", "differ", "not compared"]
    group: str
    e: Number | None
    u: Number | None
    nu: Number | None
    tolerance: float | None
    normalised: Number | None

    @property
    def closeness(self) -> tuple[int, float]:
        """What orders intervals by how much they have to tell: outcome first, then error over tolerance."""
        error, bound = finite(self.e), self.tolerance or finite(self.u)
        close = error / bound if error is not None and bound else 0.0
        return _SEVERITY[self.outcome], close if self.bits == "differ" else -1.0


def error_point(result: IntervalForm, *, margin: float) -> ErrorPoint:
    """``result`` by its worst group, with equal bits by its parameters; the tolerance is ``margin`` times the noise."""
    name, group = _telling_group(result) or ("", None)
    nu = finite(group.get("nu")) if group else None
    apart = result["distances"].get(name)
    return ErrorPoint(
        interval=result["interval"],
        steps=result["steps"],
        outcome=result["outcome"],
        bits="equal" if result["exact"] else "differ" if group else "not compared",
        group=name,
        e=group["e"] if group else None,
        u=group["u"] if group else None,
        nu=nu,
        tolerance=None if nu is None else margin * nu,
        normalised=apart.get("d_ref_normalised") if apart else None,
    )


def _telling_group(result: IntervalForm) -> tuple[str, GroupForm] | None:
    parameters = (item for item in result["groups"].items() if is_parameters(item[0]))
    return next(parameters, None) if result["exact"] else worst_group(result)


def error_points(value: VerificationForm, *, count: int = POINTS) -> tuple[list[ErrorPoint], int]:
    """Opened intervals in order, and how many each stands for: of several neighbours the one with most to tell."""
    margin = value["rules"]["margin"]
    points = [error_point(result, margin=margin) for result in value["intervals"]]
    merged = max(1, -(-len(points) // count))
    pieces = (points[at : at + merged] for at in range(0, len(points), merged))
    return [max(piece, key=lambda point: point.closeness) for piece in pieces], merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """``size`` intervals from ``first`` on: the worst fate among those opened, and whether screening flagged one."""

    first: int
    size: int
    fate: Fate
    flagged: bool


def fates(value: VerificationForm) -> dict[int, Fate]:
    """What became of every interval that was opened, or asked for and not opened."""
    sample = value["sample"]
    if sample is None:
        return {}
    drawn = set(sample["drawn_intervals"])
    found: dict[int, Fate] = dict.fromkeys(sample["intervals"], "unchecked")
    for result in value["intervals"]:
        passed: Fate = "drawn" if result["interval"] in drawn else "added"
        outcomes: dict[Outcome, Fate] = {"fail": "failed", "unverifiable": "unchecked", "pass": passed}
        found[result["interval"]] = outcomes[result["outcome"]]
    return found


def cells(value: VerificationForm, *, count: int = CELLS) -> list[Cell]:
    """All intervals of the run as at most ``count`` cells of one size."""
    sample = value["sample"]
    if sample is None or not sample["total"]:
        return []
    total, found = sample["total"], fates(value)
    size = -(-total // count)
    best: dict[int, Fate] = {}
    for interval, fate in found.items():
        at = interval // size
        best[at] = min(best.get(at, "closed"), fate, key=FATES.index)
    flagged = {interval // size for interval in sample["flagged"]}
    return [
        Cell(
            first=at * size,
            size=min(size, total - at * size),
            fate=best.get(at, "closed"),
            flagged=at in flagged,
        )
        for at in range(-(-total // size))
    ]


def step_at(trajectory: TrajectoryForm, interval: int) -> float:
    """The step at which ``interval`` begins, between the points of a trajectory by proportion."""
    intervals, steps = trajectory["intervals"], trajectory["steps"]
    at = min(max(bisect_right(intervals, interval) - 1, 0), len(intervals) - 2)
    share = (interval - intervals[at]) / (intervals[at + 1] - intervals[at])
    return steps[at] + min(max(share, 0.0), 1.0) * (steps[at + 1] - steps[at])


def moment(text: str | None) -> datetime | None:
    """A time of the report; None where there is none."""
    return None if text is None else datetime.fromisoformat(text)


def tokens(seals: Sequence[SealForm]) -> Iterator[tuple[SealForm, TokenForm]]:
    """Every listed token with its seal."""
    for seal in seals:
        for token in seal["tokens"]:
            yield seal, token


def lettered(names: Sequence[str]) -> dict[str, str]:
    """A letter for each name."""
    return {name: _letter(at) for at, name in enumerate(names)}


def _letter(at: int) -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[at % 26] + ("" if at < 26 else str(at // 26))


def flattened(environment: Mapping[str, object]) -> dict[str, str]:
    """Every value of an environment by its name, as the environment class calls it (``flags.NAME``)."""
    found: dict[str, str] = {}
    for name, item in environment.items():
        if isinstance(item, Mapping):
            found |= {f"{name}.{key}": str(inner) for key, inner in item.items()}
        else:
            found[name] = str(item)
    return found
