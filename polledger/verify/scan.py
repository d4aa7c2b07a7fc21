"""Reads every stored checkpoint of the final lineage once, rechecks its root and measures how the run moves.

PROTOCOL section 10, step 5. Where there is much to read, other processes read ahead.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from polledger.core.digest import sha256
from polledger.core.records import Checkpoint
from polledger.core.screening import Segment, Track
from polledger.core.state import FlatState, TensorData, escape
from polledger.errors import Unavailable
from polledger.store.objects import ObjectStore
from polledger.verify.compare import parameter_tensors
from polledger.verify.lineage import FINDINGS_KEPT, Interval, Lineage, Values
from polledger.verify.movement import Meter, Movement
from polledger.verify.optimizers import OptimizerRules
from polledger.verify.readers import read_with, reader_count
from polledger.verify.states import LoadedState, load_state

_SEED_LABEL = b"polledger/scan/1\x00"

Stored = tuple[int, Checkpoint]
"""A stored checkpoint, and the number of intervals before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTask:
    """``values[i]``: hyperparameters in force before interval i. ``nonce``: the verifier's own, made after the head.

    ``told`` is called with how many of how many checkpoints were read.
    """

    lineage: Lineage
    objects: ObjectStore
    values: Sequence[Values]
    nonce: bytes
    told: Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What the pass found. ``displacement``: of the published parameters over the whole run, relative to their norm.

    ``problems`` name stored checkpoints that are missing or damaged; segments then reach over them. ``read`` of
    ``stored`` checkpoints were read, of ``size`` bytes together.
    """

    track: Track
    displacement: float
    read: int
    stored: int
    size: int
    problems: tuple[str, ...]
    sketched: bool = False
    """Nothing was read: the track is that of the prover's sketches."""


def sketch_seed(nonce: bytes) -> bytes:
    """H("polledger/scan/1" ‖ 0 ‖ nonce): the seed of this verifier's own sketches."""
    return sha256(_SEED_LABEL + nonce)


def scan(task: ScanTask) -> Scan:
    """One pass over the stored checkpoints. Raises UsageError where genesis does not describe the states."""
    genesis = task.lineage.genesis
    meter = Meter(genesis.objects, seed=sketch_seed(task.nonce))
    stored = stored_checkpoints(task.lineage.intervals)
    return _Pass(task=task, meter=meter, rules=OptimizerRules(genesis, task.values)).read(stored)


def scan_ends(task: ScanTask) -> Scan:
    """First and last state only, without a track: what there is where a proof opens the run's ends and no sketches.

    Raises UsageError where genesis does not describe the states.
    """
    genesis, checkpoints = task.lineage.genesis, task.lineage.checkpoints
    meter = Meter(genesis.objects, seed=sketch_seed(task.nonce))
    problems, displacement = [], 0.0
    try:
        first, last = (load_state(task.objects, checkpoints[at].root).flat for at in (0, -1))
        displacement = _displacement(meter, _published(task.lineage, first), _published(task.lineage, last))
    except Unavailable as error:
        problems.append(str(error))
    return Scan(
        track=Track(segments=(), places={}),
        displacement=displacement,
        read=0 if problems else 2,
        stored=sum(checkpoint.stored for checkpoint in checkpoints),
        size=0,
        problems=tuple(problems),
    )


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One reading pass in progress."""

    task: ScanTask
    meter: Meter
    rules: OptimizerRules
    segments: list[Segment] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    at: int = -1
    """Number of intervals before the last state that was read; negative before the first."""
    size: int = 0
    first: list[TensorData] = field(default_factory=list)
    last: FlatState | None = None

    def read(self, stored: Sequence[Stored]) -> Scan:
        """Read these checkpoints, measure each, and say what was found."""
        roots = [checkpoint.root for _, checkpoint in stored]
        count = reader_count(self.task.objects, roots)
        with contextlib.closing(read_with(count, self.task.objects, roots)) as states:
            for number, ((before, _), state) in enumerate(zip(stored, states, strict=True)):
                if isinstance(state, Unavailable):
                    self.problems.append(str(state))
                else:
                    self._take(before, state)
                self.task.told(number + 1, len(stored))
            # While the memory of the last state is there.
            displacement = self._displacement()
        places = {group: [place.tolist() for place in found] for group, found in self.meter.sketches.items()}
        return Scan(
            track=Track(segments=self.segments, places=places),
            displacement=displacement,
            read=len(stored) - len(self.problems),
            stored=len(stored),
            size=self.size,
            problems=tuple(self.problems[:FINDINGS_KEPT]),
        )

    def _take(self, before: int, state: LoadedState) -> None:
        self.size += len(state.data)
        self.last = state.flat
        if self.at < 0:
            self.meter.take(state.flat)
            # The block is used again long before the last state is known.
            self.first = [_copied(tensor) for tensor in _published(self.task.lineage, state.flat)]
            self.at = before
        else:
            intervals, self.at = self.task.lineage.intervals[self.at : before], before
            movement = self.meter.take(state.flat, self.rules.expected(intervals))
            if movement is not None:
                self.segments.append(self._segment(intervals, movement))

    def _segment(self, intervals: Sequence[Interval], movement: Movement) -> Segment:
        return Segment(
            first=intervals[0].number,
            last=intervals[-1].number,
            steps=sum(len(interval.steps) for interval in intervals),
            moved=movement.moved,
            still=movement.still,
            lessened=movement.lessened,
            limited=self.rules.limited(intervals, movement),
        )

    def _displacement(self) -> float:
        """That between the first and last state read."""
        if self.last is None:
            return 0.0
        return _displacement(self.meter, self.first, _published(self.task.lineage, self.last))


def stored_checkpoints(intervals: Sequence[Interval]) -> list[Stored]:
    """The stored checkpoints in order, each with the number of intervals before it."""
    checkpoints = [(0, intervals[0].start)] if intervals else []
    checkpoints += [(interval.number + 1, interval.end) for interval in intervals]
    return [(before, checkpoint) for before, checkpoint in checkpoints if checkpoint.stored]


def _displacement(meter: Meter, first: Sequence[TensorData], last: Sequence[TensorData]) -> float:
    """l2 distance between two states over the norm of the first (of the last where it is 0)."""
    scale = meter.distance(first, []) or meter.distance(last, [])
    return meter.distance(last, first) / scale if scale else 0.0


def _copied(tensor: TensorData) -> TensorData:
    return replace(tensor, data=memoryview(bytes(tensor.data)))


def _published(lineage: Lineage, flat: FlatState) -> list[TensorData]:
    """The parameters of the object that ``final`` names: others may train beside one that never moves."""
    tensors = parameter_tensors(flat, lineage.genesis.objects)
    if lineage.final is None:
        return tensors
    name = escape(lineage.final.object)
    return [tensor for tensor in tensors if tensor.path.startswith(f"{name}/")]
