"""A recipe's hyperparameters at every step, computed from config alone. PROTOCOL sections 4, 9 and 10 (step 4).

Recorder and verifier call the same code, and only operations that IEEE 754 rounds exactly are used (no ``cos``, no
``pow`` of the C library), so what was recorded equals what is computed on every machine.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from polledger.core.optimizers import OPTIMIZERS
from polledger.errors import UsageError

Number: TypeAlias = float | int | bool

DEFAULTS: dict[str, Any] = {
    "schedule": "constant",
    "warmup": 0,
    "final_lr": 0.0,
    "clip": 0.0,
    "accumulate": 1,
    "precision": "fp32",
    "ema": 0.0,
}
"""Recipe keys that may be left out of config. Keys of one schedule are in :data:`SHAPES`."""


PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where a step lies: ``step`` of ``steps``, the first ``warmup`` of which are the warm-up; the schedule's keys."""

    step: int
    steps: int
    warmup: int
    final: float
    keys: Mapping[str, Any]

    @property
    def after(self) -> int:
        """Steps since the warm-up ended."""
        return self.step - self.warmup

    @property
    def progress(self) -> float:
        """Share of the steps after the warm-up that is done: 0 at the first, below 1 at the last."""
        return min(1.0, self.after / max(1, self.steps - self.warmup))

    def down(self, share: float) -> float:
        """From 1 (share 1) to the final fraction (share 0)."""
        return self.final + (1.0 - self.final) * share


def _constant(_: Span) -> float:
    return 1.0


def _linear(span: Span) -> float:
    return span.down(1.0 - span.progress)


def _cosine(span: Span) -> float:
    return span.down(half_cosine(span.progress))


def _polynomial(span: Span) -> float:
    return span.down(integer_power(1.0 - span.progress, span.keys["power"]))


def _exponential(span: Span) -> float:
    return integer_power(span.keys["gamma"], span.after)


def _step(span: Span) -> float:
    return integer_power(span.keys["gamma"], span.after // span.keys["step_size"])


def _multistep(span: Span) -> float:
    return integer_power(span.keys["gamma"], sum(span.step >= passed for passed in span.keys["milestones"]))


def _inverse_sqrt(span: Span) -> float:
    return math.sqrt(max(1, span.warmup) / max(1, span.warmup, span.step + 1))


def _wsd(span: Span) -> float:
    tail = span.keys["decay_steps"]
    return span.down(min(1.0, max(0.0, (span.steps - span.step) / tail)))


def _onecycle(span: Span) -> float:
    peak = span.warmup or max(1, 3 * span.steps // 10)
    if span.step < peak:
        start: float = span.keys["start_lr"]
        return start + (1.0 - start) * (1.0 - half_cosine(span.step / peak))
    return span.down(half_cosine(min(1.0, (span.step - peak) / max(1, span.steps - peak))))


SHAPES: dict[str, tuple[Callable[[Span], float], dict[str, Any]]] = {
    "constant": (_constant, {}),
    "linear": (_linear, {}),
    "cosine": (_cosine, {}),
    "polynomial": (_polynomial, {"power": 2}),
    "exponential": (_exponential, {"gamma": 0.99}),
    "step": (_step, {"step_size": 100, "gamma": 0.1}),
    "multistep": (_multistep, {"milestones": [], "gamma": 0.1}),
    "inverse_sqrt": (_inverse_sqrt, {}),
    "wsd": (_wsd, {"decay_steps": 100}),
    "onecycle": (_onecycle, {"start_lr": 0.04}),
}
"""Schedules by name: factor on the learning rate, and the schedule's own config keys with their defaults."""


def half_cosine(share: float) -> float:
    """(1 + cos(π·share))/2 for share in [0, 1]: from 1 down to 0, the same bits everywhere (error < 2e-16)."""
    return 0.5 * (1.0 + _cos_pi(share))


def _cos_pi(share: float) -> float:
    if share > 0.5:
        return -_cos_pi(1.0 - share)
    if share > 0.25:
        x = math.pi * (0.5 - share)
        return x * _series(x * x, first=21)
    x = math.pi * share
    return _series(x * x, first=20)


def _series(square: float, *, first: int) -> float:
    """Taylor series of cos x (first even) or sin x / x (first odd) for x up to π/4: the last term is below 1e-20."""
    value = 1.0
    for k in range(first, 1, -2):
        value = 1.0 - square * value / (k * (k - 1))
    return value


def integer_power(base: float, exponent: int) -> float:
    """``base`` to a non-negative integer power by repeated squaring: a fixed order of exact-rounded products."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


class Schedule:
    """The hyperparameters that ``config`` and its schedule own, for any step.

    Raises UsageError, naming the key, for a config no recipe can run with: see :func:`check_recipe`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._steps: int = _positive(config, "steps")
        self._warmup: int = _at_least(config, "warmup", DEFAULTS["warmup"], 0)
        self._final = _real(config, "final_lr", DEFAULTS["final_lr"])
        name = config.get("schedule", DEFAULTS["schedule"])
        if not isinstance(name, str) or name not in SHAPES:
            raise UsageError(f"config key 'schedule': {name!r} is unknown{near(name, SHAPES)}")
        self._shape, defaults = SHAPES[name]
        self._keys = {key: _schedule_key(config, key, default) for key, default in defaults.items()}
        self.optimizer: str = optimizer_name(config)
        self._groups = [_group_values(config, self.optimizer, group) for group in trained_groups(config)]

    def lr_factor(self, step: int) -> float:
        """What the learning rate is multiplied with at ``step``, from 0. During warm-up (step + 1)/warmup."""
        span = Span(step=step, steps=self._steps, warmup=self._warmup, final=self._final, keys=self._keys)
        if step < self._warmup and self._shape is not _onecycle:
            return (step + 1) / self._warmup
        return self._shape(span)

    def at(self, step: int) -> list[dict[str, Number]]:
        """Owned hyperparameters of every parameter group at ``step``; ``betas`` are ``betas_0`` and ``betas_1``."""
        factor = self.lr_factor(step)
        return [{**values, "lr": values["lr"] * factor} for values in self._groups]


def hyperparameters(config: Mapping[str, Any], step: int) -> list[dict[str, Number]]:
    """:meth:`Schedule.at` for one step: per parameter group, every number that config owns at ``step``.

    Groups are the config's ``groups`` that are not frozen, in order, then the one of all other parameters.
    What config does not mention (an optimizer's defaults) is not listed. Raises UsageError as :class:`Schedule`.
    """
    return Schedule(config).at(step)


def check_recipe(config: Mapping[str, Any]) -> None:
    """Raise UsageError, naming the key, unless a recipe can run with ``config``. Unknown keys are the user's own."""
    Schedule(config)
    _positive(config, "batch_size")
    if _at_least(config, "accumulate", 1, 1) and config["batch_size"] % config.get("accumulate", 1):
        raise UsageError("config key 'accumulate': batch_size must be a multiple of it")
    precision = config.get("precision", DEFAULTS["precision"])
    if precision not in PRECISIONS:
        raise UsageError(f"config key 'precision': {precision!r} is not one of {', '.join(PRECISIONS)}")
    if _real(config, "clip", DEFAULTS["clip"]) < 0:
        raise UsageError("config key 'clip': a norm cannot be negative (0 means no clipping)")
    if not 0 <= _real(config, "ema", DEFAULTS["ema"]) < 1:
        raise UsageError("config key 'ema': a decay lies in [0, 1) (0 means no EMA)")


GROUP_KEYS = ("name", "match", "lr", "lr_scale", "frozen")


def all_groups(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """``config["groups"]``, checked. Raises UsageError for an unknown key or a group without ``match``."""
    groups = config.get("groups", [])
    if not isinstance(groups, list | tuple) or not all(isinstance(group, Mapping) for group in groups):
        raise UsageError("config key 'groups': expected a list of tables")
    allowed = {*GROUP_KEYS, *OPTIMIZERS[optimizer_name(config)]}
    for i, group in enumerate(groups):
        for key in group:
            if key not in allowed:
                raise UsageError(f"config key 'groups[{i}].{key}' is unknown{near(key, allowed)}")
        match = group.get("match")
        if not isinstance(match, list | tuple) or not match or not all(isinstance(p, str) for p in match):
            raise UsageError(
                f"config key 'groups[{i}].match': expected a list of patterns of parameter names"
            )
        if not isinstance(group.get("frozen", False), bool):
            raise UsageError(f"config key 'groups[{i}].frozen': expected true or false")
    return list(groups)


def trained_groups(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Groups the optimizer gets: those that are not frozen, then an empty table for all other parameters."""
    return [group for group in all_groups(config) if not group.get("frozen", False)] + [{}]


def optimizer_name(config: Mapping[str, Any]) -> str:
    """``config["optimizer"]``. Raises UsageError unless it is an optimizer a recipe can use."""
    name = config.get("optimizer")
    if name == "LBFGS":
        raise UsageError(
            "config key 'optimizer': LBFGS evaluates the loss several times a step; override step()"
        )
    if not isinstance(name, str) or name not in OPTIMIZERS:
        found = "is missing" if name is None else f"{name!r} is not a class of torch.optim"
        raise UsageError(f"config key 'optimizer': {found}{near(name, OPTIMIZERS)}")
    return name


def optimizer_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of ``config`` that are constructor arguments of its optimizer, besides ``lr``."""
    return {key: config[key] for key in OPTIMIZERS[optimizer_name(config)] if key in config and key != "lr"}


def _group_values(config: Mapping[str, Any], optimizer: str, group: Mapping[str, Any]) -> dict[str, Number]:
    merged = {**config, **group}
    values: dict[str, Number] = {}
    for key in OPTIMIZERS[optimizer]:
        if key in merged and key != "lr":
            values.update(flatten_value(key, merged[key]))
    scale = _real(group, "lr_scale", 1.0)
    values["lr"] = _real(merged, "lr", None) * scale
    return values


def flatten_value(key: str, value: Any) -> dict[str, Number]:
    """Numbers of one hyperparameter by recorded name: itself, ``KEY_0, KEY_1, …`` of a sequence, none of a text."""
    if isinstance(value, bool | int | float):
        return {key: value}
    if isinstance(value, list | tuple):
        return {f"{key}_{i}": item for i, item in enumerate(value) if isinstance(item, bool | int | float)}
    return {}


def near(name: object, known: Iterable[str]) -> str:
    """`` (did you mean …?)`` for names close to ``name``, else an empty text."""
    close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.5)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def _schedule_key(config: Mapping[str, Any], key: str, default: Any) -> Any:
    if key == "milestones":
        value = config.get(key, default)
        if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
            raise UsageError("config key 'milestones': expected a list of step numbers")
        return value
    return _at_least(config, key, default, 1) if isinstance(default, int) else _real(config, key, default)


def _positive(config: Mapping[str, Any], key: str) -> int:
    return _at_least(config, key, None, 1)


def _at_least(config: Mapping[str, Any], key: str, default: int | None, least: int) -> int:
    value = config.get(key, default)
    if type(value) is not int or value < least:
        raise UsageError(f"config key {key!r}: expected an integer of at least {least}, found {value!r}")
    return value


def _real(config: Mapping[str, Any], key: str, default: float | None) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"config key {key!r}: expected a finite number, found {value!r}")
    return float(value)
