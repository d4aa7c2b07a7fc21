"""Step 4, hyperparameters: recorded values against the schedule (recipe) or the verifier's bounds (custom task)."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from polledger.core.config import decode_config
from polledger.core.records import Step
from polledger.core.report import Finding
from polledger.core.schedule import Schedule
from polledger.errors import MalformedError, UsageError
from polledger.verify.lineage import FINDINGS_KEPT, Lineage, Values, changed_values
from polledger.verify.policy import HyperparameterBounds

Number = float | int | bool
_Check = Callable[[Step, Values, Values], Iterator[Finding]]


def hyperparameter_findings(lineage: Lineage, bounds: HyperparameterBounds) -> list[Finding]:
    """What is wrong with the recorded hyperparameters, at most FINDINGS_KEPT findings; empty when nothing is.

    Recipe: a value that differs from the schedule computed from config, or that no schedule owns and that
    is not the one of step 0, is a ``fail``. Custom: values outside the policy's bounds, or that change without being
    listed as scheduled, are ``unverifiable``: the verifier's own terms are not met.
    """
    try:
        check = _check_of(lineage, bounds)
        return list(islice(_all_steps(lineage, check), FINDINGS_KEPT))
    except (MalformedError, UsageError) as error:
        detail = f"the schedule cannot be computed from the config: {error}"
        return [
            _finding("unverifiable", 0, detail, remedy="use the version of polledger that sealed the run")
        ]


def _check_of(lineage: Lineage, bounds: HyperparameterBounds) -> _Check:
    if lineage.genesis.kind == "recipe":
        return partial(_check_recipe, Schedule(decode_config(lineage.genesis.config)))
    return partial(_check_custom, bounds)


def _all_steps(lineage: Lineage, check: _Check) -> Iterator[Finding]:
    values: Values = {}
    first: Values | None = None
    for interval in lineage.intervals:
        shown = interval.shown
        for step in interval.steps:
            values = changed_values(values, step.groups)
            first = values if first is None else first
            if shown:
                yield from check(step, values, first)


def _check_recipe(schedule: Schedule, step: Step, values: Values, first: Values) -> Iterator[Finding]:
    expected = schedule.at(step.step)
    keys = sorted(values)
    if [index for _, index in keys] != list(range(len(expected))):
        detail = f"step {step.step}: the parameter groups are not those of the config"
        yield _finding("fail", step.index, detail, expected=len(expected), found=len(keys))
        return
    for key, owned in zip(keys, expected, strict=True):
        found = values[key]
        for name, value in owned.items():
            if name not in found or not same_value(found[name], value):
                detail = f"step {step.step}: {name} of group {key[1]} is not the schedule's"
                yield _finding("fail", step.index, detail, expected=value, found=found.get(name, "nothing"))
        for name, value, before in _changed(found, first.get(key, {})):
            if name not in owned:
                detail = f"step {step.step}: {name} of group {key[1]} changed, and no schedule owns it"
                yield _finding("fail", step.index, detail, expected=before, found=value)


def _check_custom(
    bounds: HyperparameterBounds, step: Step, values: Values, first: Values
) -> Iterator[Finding]:
    for key, found in values.items():
        place = f"of group {key[1]} of {key[0]}"
        for name, value in found.items():
            low, high = bounds.bounds.get(name, (-math.inf, math.inf))
            # Written so that NaN is outside.
            if not low <= value <= high:
                detail = f"step {step.step}: {name} {place} is outside the policy's [{low:g}, {high:g}]"
                remedy = f"set hyperparameters.bounds.{name} in the policy if you accept it"
                yield _finding("unverifiable", step.index, detail, found=value, remedy=remedy)
        for name, value, before in _changed(found, first.get(key, {})):
            if name not in bounds.scheduled:
                detail = (
                    f"step {step.step}: {name} {place} changed, and the policy does not list it as scheduled"
                )
                remedy = f"add {name!r} to hyperparameters.scheduled in the policy if you accept it"
                yield _finding(
                    "unverifiable", step.index, detail, expected=before, found=value, remedy=remedy
                )


def _changed(
    found: dict[str, Number], first: dict[str, Number]
) -> Iterator[tuple[str, Number, Number | str]]:
    for name, value in found.items():
        if name not in first or not same_value(value, first[name]):
            yield name, value, first.get(name, "nothing")


def same_value(a: Number, b: Number) -> bool:
    """Equal as numbers, and a boolean only to a boolean; NaN equals nothing."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _finding(
    outcome: Any,
    record: int,
    detail: str,
    *,
    expected: object = None,
    found: object = None,
    remedy: str | None = None,
) -> Finding:
    return Finding(
        step=4,
        name="structure",
        outcome=outcome,
        detail=detail,
        record=record,
        expected=None if expected is None else str(expected),
        found=None if found is None else str(found),
        remedy=remedy,
    )
