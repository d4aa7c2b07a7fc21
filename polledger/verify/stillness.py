"""Step 4, stillness: does the run move at all? PROTOCOL section 10, step 4.

A run of no-op steps replays bit for bit; what it shows is nothing. Standing still is judged on the parameters:
learning rates of 0 as recorded, and parameters whose roots do not change between stored checkpoints.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polledger.core.records import Checkpoint
from polledger.core.report import Finding, IntervalResult
from polledger.core.state import Entry, Groups, TensorData, TensorEntry, escape
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.store.objects import ObjectStore
from polledger.verify.compare import distance, norm, parameter_tensors
from polledger.verify.lineage import Lineage
from polledger.verify.policy import Policy
from polledger.verify.states import LoadedState, load_state, read_entries

NAME = "stillness"


@dataclass(frozen=True, slots=True, kw_only=True)
class StillnessTask:
    """``declared``: intervals whose recorded learning rates are all 0 (step 4, structure)."""

    lineage: Lineage
    objects: ObjectStore
    declared: tuple[int, ...]
    policy: Policy


def step_stillness(task: StillnessTask) -> list[Finding]:
    """``pass``: at most the policy's share of intervals stands still, and the whole run moves the published model.

    Reads the manifest of every stored checkpoint and the first and last state. One interval may always stand still: a
    warm-up from learning rate 0 has one. No finding, and so no ``pass``, where there is no interval.
    """
    if not task.lineage.intervals:
        return []
    try:
        still = set(task.declared) | _unmoved(task)
        moved = _total_displacement(task)
    except (Unavailable, MalformedError, UsageError) as error:
        return [_unverifiable(str(error), "restore the object from a copy")]
    return list(_judge(task, still, moved))


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
        detail = (
            f"{len(still)} of {total} intervals stand still (learning rate or displacement 0): {_some(still)}"
        )
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


def _unmoved(task: StillnessTask) -> set[int]:
    """Intervals between stored checkpoints with equal parameters; others are not known to be still."""
    groups = Groups(task.lineage.genesis.objects)
    still = set()
    before: frozenset[tuple[str, bytes]] | None = None
    for interval in task.lineage.intervals:
        if before is None:
            before = _parameters(task.objects, interval.start, groups)
        after = _parameters(task.objects, interval.end, groups)
        if before is not None and before == after:
            still.add(interval.number)
        before = after
    return still


def _parameters(
    objects: ObjectStore, checkpoint: Checkpoint, groups: Groups
) -> frozenset[tuple[str, bytes]] | None:
    if not checkpoint.stored:
        return None
    entries = read_entries(objects, checkpoint.root)
    return frozenset((entry.path, entry.root) for entry in _chosen(entries, groups))


def _chosen(entries: Sequence[Entry], groups: Groups) -> list[TensorEntry]:
    tensors = [entry for entry in entries if isinstance(entry, TensorEntry)]
    inside = [entry for entry in tensors if groups.of(entry.path).endswith("/parameters")]
    return inside or tensors


def _total_displacement(task: StillnessTask) -> float:
    """l2 distance between first and last parameters over the norm of the first (of the last where that is 0).

    Where ``final`` names the published object, its parameters alone: others may train beside one that never moves.
    """
    intervals = task.lineage.intervals
    first = _published(task.lineage, load_state(task.objects, intervals[0].start.root))
    last = _published(task.lineage, load_state(task.objects, intervals[-1].end.root))
    scale = norm(first) or norm(last)
    return distance(last, first) / scale if scale else 0.0


def _published(lineage: Lineage, state: LoadedState) -> list[TensorData]:
    tensors = parameter_tensors(state.flat, lineage.genesis.objects)
    if lineage.final is None:
        return tensors
    name = escape(lineage.final.object)
    return [tensor for tensor in tensors if tensor.path.startswith(f"{name}/")]
