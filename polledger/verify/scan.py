"""Reads every stored checkpoint of the final lineage once, rechecks its root and measures how the run moves.

PROTOCOL section 10, step 5. What takes long is cut into parts that are read by processes side by side.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise

from polledger.core.digest import sha256
from polledger.core.records import Checkpoint
from polledger.core.screening import Segment, Track
from polledger.core.state import FlatState, TensorData, escape
from polledger.errors import Unavailable
from polledger.helper import Worker
from polledger.store.objects import ObjectStore
from polledger.verify.compare import parameter_tensors
from polledger.verify.lineage import FINDINGS_KEPT, Interval, Lineage, Values
from polledger.verify.movement import Meter, Movement
from polledger.verify.optimizers import OptimizerRules
from polledger.verify.parts import Measured, Part, bounds, collect, job_of, join_places, part_count
from polledger.verify.states import LoadedState, load_state, read_states

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


def sketch_seed(nonce: bytes) -> bytes:
    """H("polledger/scan/1" ‖ 0 ‖ nonce): the seed of this verifier's own sketches."""
    return sha256(_SEED_LABEL + nonce)


def scan(task: ScanTask) -> Scan:
    """One pass over the stored checkpoints. Raises UsageError where genesis does not describe the states."""
    stored = stored_checkpoints(task.lineage.intervals)
    count = part_count(task.objects, [checkpoint.root for _, checkpoint in stored])
    if count > 1:
        # What is missing or damaged is reached over, which no part can: it is read again as a whole, and named.
        with contextlib.suppress(Unavailable):
            return _side_by_side(task, stored, count)
    alone = _begun(task)
    alone.read(stored, _Progress(task.told, len(stored)).step)
    return alone.scan(stored)


def _begun(task: ScanTask) -> "_Pass":
    genesis = task.lineage.genesis
    meter = Meter(genesis.objects, seed=sketch_seed(task.nonce))
    return _Pass(task=task, meter=meter, rules=OptimizerRules(genesis, task.values))


def _side_by_side(task: ScanTask, stored: Sequence[Stored], count: int) -> Scan:
    """The pass in ``count`` parts, the first of them in this process. Raises Unavailable where a state is."""
    own, progress = _begun(task), _Progress(task.told, len(stored))
    mine, *others = [stored[begin:end] for begin, end in bounds(len(stored), count)]
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(len(others)))
        workers = [stack.enter_context(Worker(job_of(own.part(stretch)))) for stretch in others]
        coming = [threads.submit(collect, worker, progress.step) for worker in workers]
        own.read(mine, progress.step)
        if own.problems:
            raise Unavailable(own.problems[0])
        for stretch, measured in zip(others, coming, strict=True):
            own.join(stretch, measured.result())
    own.last = load_state(task.objects, stored[-1][1].root).flat
    return own.scan(stored)


class _Progress:
    """Counts checkpoints as they are read, in whatever thread."""

    def __init__(self, told: Callable[[int, int], None], total: int) -> None:
        self._told, self._total, self._done = told, total, 0
        self._lock = threading.Lock()

    def step(self) -> None:
        """One more, unless all are: of two parts that meet at a checkpoint both read it."""
        with self._lock:
            self._done = min(self._done + 1, self._total)
            self._told(self._done, self._total)


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
    places: dict[str, list[list[float]]] = field(default_factory=dict)
    first: list[TensorData] = field(default_factory=list)
    last: FlatState | None = None

    def read(self, stored: Sequence[Stored], told: Callable[[], None]) -> None:
        """Read these checkpoints here, and measure; ``told`` is called after each."""
        states = read_states(self.task.objects, [checkpoint.root for _, checkpoint in stored])
        for (before, _), state in zip(stored, states, strict=True):
            if isinstance(state, Unavailable):
                self.problems.append(str(state))
            else:
                self._take(before, state)
            told()
        self.places = {
            group: [place.tolist() for place in found] for group, found in self.meter.sketches.items()
        }

    def _take(self, before: int, state: LoadedState) -> None:
        self.size += len(state.data)
        self.last = state.flat
        if self.at < 0:
            self.meter.take(state.flat)
            # The block is used again long before the last state is known.
            self.first = [_copied(tensor) for tensor in _published(self.task.lineage, state.flat)]
            self.at = before
        else:
            intervals = self.task.lineage.intervals[self.at : before]
            self._moved(before, self.meter.take(state.flat, self.rules.expected(intervals)))

    def _moved(self, before: int, movement: Movement | None) -> None:
        intervals, self.at = self.task.lineage.intervals[self.at : before], before
        if movement is not None:
            self.segments.append(self._segment(intervals, movement))

    def join(self, stored: Sequence[Stored], measured: Sequence[Measured]) -> None:
        """Add what another process measured of ``stored``; the first of them is the last that was read here."""
        for (before, _), item in zip(stored[1:], measured[1:], strict=True):
            self.size += item.size
            self._moved(before, item.movement)
        join_places(self.places, [item.places for item in measured])

    def part(self, stored: Sequence[Stored]) -> Part:
        """What another process needs to measure ``stored``."""
        intervals = self.task.lineage.intervals
        return Part(
            directory=str(self.task.objects.directory),
            objects=self.task.lineage.genesis.objects,
            seed=sketch_seed(self.task.nonce),
            roots=[checkpoint.root for _, checkpoint in stored],
            expected=[self.rules.expected(intervals[a:b]) for (a, _), (b, _) in pairwise(stored)],
        )

    def scan(self, stored: Sequence[Stored]) -> Scan:
        """What was found, all of ``stored`` being read."""
        return Scan(
            track=Track(segments=self.segments, places=self.places),
            displacement=self._displacement(),
            read=len(stored) - len(self.problems),
            stored=len(stored),
            size=self.size,
            problems=tuple(self.problems[:FINDINGS_KEPT]),
        )

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
        """l2 distance between the first and last state read over the norm of the first (of the last where it is 0)."""
        if self.last is None:
            return 0.0
        last = _published(self.task.lineage, self.last)
        scale = self.meter.distance(self.first, []) or self.meter.distance(last, [])
        return self.meter.distance(last, self.first) / scale if scale else 0.0


def stored_checkpoints(intervals: Sequence[Interval]) -> list[Stored]:
    """The stored checkpoints in order, each with the number of intervals before it."""
    checkpoints = [(0, intervals[0].start)] if intervals else []
    checkpoints += [(interval.number + 1, interval.end) for interval in intervals]
    return [(before, checkpoint) for before, checkpoint in checkpoints if checkpoint.stored]


def _copied(tensor: TensorData) -> TensorData:
    return replace(tensor, data=memoryview(bytes(tensor.data)))


def _published(lineage: Lineage, flat: FlatState) -> list[TensorData]:
    """The parameters of the object that ``final`` names: others may train beside one that never moves."""
    tensors = parameter_tensors(flat, lineage.genesis.objects)
    if lineage.final is None:
        return tensors
    name = escape(lineage.final.object)
    return [tensor for tensor in tensors if tensor.path.startswith(f"{name}/")]
