"""Step 4, stillness: does the run move at all? PROTOCOL section 10, step 4.

A run of no-op steps replays bit for bit; what it shows is nothing. Standing still is judged on the parameters:
learning rates of 0 as recorded, and parameters that do not move, or next to nothing, between stored checkpoints.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polledger.core.opened import IntervalResult
from polledger.core.report import Finding
from polledger.core.screening import nearly_still
from polledger.verify.lineage import Lineage
from polledger.verify.policy import Policy
from polledger.verify.scan import Scan

NAME = "stillness"


@dataclass(frozen=True, slots=True, kw_only=True)
class StillnessTask:
    """``declared``: intervals whose recorded learning rates are all 0 (step 4, structure)."""

    lineage: Lineage
    scan: Scan
    declared: tuple[int, ...]
    policy: Policy


def step_stillness(task: StillnessTask) -> list[Finding]:
    """``pass``: at most the policy's share of intervals stands still, and the whole run moves the published model.

    A segment between stored checkpoints stands still with all its intervals. One interval may always stand still: a
    warm-up from learning rate 0 has one. No finding, and so no ``pass``, where there is no interval.
    """
    if not task.lineage.intervals:
        return []
    if task.scan.problems:
        return [_unverifiable(task.scan.problems[0], "restore the object from a copy")]
    track = task.scan.track
    endless = {number for item in track.segments if not math.isfinite(item.pace) for number in item.intervals}
    if endless:
        # Beside an infinite way every other is next to none.
        detail = (
            f"how far the run moves is not known: parameters are not finite in intervals {_some(endless)}"
        )
        return [_unverifiable(detail, "see where the training diverged")]
    segments = nearly_still(track.segments, ratio=task.policy.structure.still_ratio)
    still = set(task.declared).union(*(segment.intervals for segment in segments))
    return list(_judge(task, still, task.scan.displacement))


def opened_stillness(results: Sequence[IntervalResult], *, policy: Policy) -> list[Finding]:
    """A finding where too many of the opened intervals left every parameter as it was, stored or not.

    What was not stored cannot be looked at without replay; what was drawn stands for the rest.
    """
    moved = [rates for result in results if (rates := _parameter_movements(result))]
    still = sum(not any(rates) for rates in moved)
    if still <= max(1, policy.structure.still_share * len(moved)):
        return []
    detail = f"{still} of {len(moved)} opened intervals move no parameter"
    return [_unverifiable(detail, "raise structure.still_share in the policy if you accept it")]


def _parameter_movements(result: IntervalResult) -> list[float]:
    """Displacements of the parameter groups."""
    return [item.measure.u for item in result.groups if item.measure.name.endswith("/parameters")]


def _unverifiable(detail: str, remedy: str) -> Finding:
    return Finding(step=4, name=NAME, outcome="unverifiable", detail=detail, remedy=remedy)


def _judge(task: StillnessTask, still: set[int], moved: float) -> Iterator[Finding]:
    total, bounds = len(task.lineage.intervals), task.policy.structure
    share = len(still) / total
    if len(still) > max(1, bounds.still_share * total):
        detail = f"{len(still)} of {total} intervals stand still (learning rate 0, or next to no way): {_some(still)}"
        yield _unverifiable(detail, "raise structure.still_share in the policy if you accept it")
    if not moved >= bounds.displacement:
        detail = f"the whole run moves the published model by {moved:.2g} of its norm, below {bounds.displacement:g}"
        yield _unverifiable(detail, "lower structure.displacement in the policy if you accept it")
    elif len(still) <= max(1, bounds.still_share * total):
        detail = f"{share:.1%} of intervals stand still; the run moves the model by {moved:.3g} of its norm"
        yield Finding(step=4, name=NAME, outcome="pass", detail=detail)


def _some(numbers: set[int]) -> str:
    first = sorted(numbers)[:5]
    return ", ".join(map(str, first)) + (", …" if len(numbers) > 5 else "")
