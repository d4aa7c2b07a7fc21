"""Reads every stored checkpoint of the final lineage once, rechecks its root and measures how the run moves.

PROTOCOL section 10, step 5. Other threads read and hash the next states while this one is measured; blocks of memory
are used in turn, because memory that was never touched costs more than the hashing.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

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
from polledger.verify.states import STATE_BYTES, LoadedState, check_state

_SEED_LABEL = b"polledger/scan/1\x00"


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
    genesis = task.lineage.genesis
    meter = Meter(genesis.objects, seed=sketch_seed(task.nonce))
    return _Pass(task=task, meter=meter, rules=OptimizerRules(genesis, task.values)).run()


AHEAD = 2
"""States on the way while the caller looks at one: one is read, the one before it hashed."""


def read_states(objects: ObjectStore, roots: Sequence[bytes]) -> Iterator[LoadedState | Unavailable]:
    """The state of each root in turn, every byte hashed, or why it cannot be read.

    While the caller looks at one, the next is hashed and the one after it read. A state is valid until two more were
    asked for: its memory is used again.
    """
    memory = _Memory(objects)
    before: bytearray | None = None
    with ThreadPoolExecutor(max_workers=1) as reading, ThreadPoolExecutor(max_workers=1) as hashing:
        waiting = deque(memory.begin(root, reading, hashing) for root in roots[:AHEAD])
        coming = iter(roots[AHEAD:])
        while waiting:
            state, block = waiting.popleft().result()
            waiting.extend(memory.begin(root, reading, hashing) for root in islice(coming, 1))
            yield state
            # The caller is done with the state before this one.
            if isinstance(state, Unavailable):
                memory.free.append(block)
                continue
            if before is not None:
                memory.free.append(before)
            before = block


Read = tuple[LoadedState | Unavailable, bytearray]


@dataclass(slots=True)
class _Memory:
    """Blocks in turn: of the last state, this one, the one being hashed and the one being read."""

    objects: ObjectStore
    free: list[bytearray] = field(default_factory=lambda: [bytearray() for _ in range(AHEAD + 2)])

    def begin(self, root: bytes, reading: Executor, hashing: Executor) -> Future[Read]:
        """Start to read the state of ``root`` into a free block, and then to hash it."""
        block = self.free.pop()
        return hashing.submit(_checked, reading.submit(self._read, root, block), root, block)

    def _read(self, root: bytes, block: bytearray) -> tuple[memoryview, bytearray]:
        def room(size: int) -> memoryview:
            nonlocal block
            if len(block) < size:
                block = bytearray(size)
            return memoryview(block)[:size]

        return self.objects.read(root, limit=STATE_BYTES, room=room), block


def _checked(read: Future[tuple[memoryview, bytearray]], root: bytes, block: bytearray) -> Read:
    try:
        data, block = read.result()
        return check_state(data, root), block
    except Unavailable as error:
        return error, block


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

    def run(self) -> Scan:
        stored = stored_checkpoints(self.task.lineage.intervals)
        states = read_states(self.task.objects, [checkpoint.root for _, checkpoint in stored])
        for done, ((before, _), state) in enumerate(zip(stored, states, strict=True), start=1):
            if isinstance(state, Unavailable):
                self.problems.append(str(state))
            else:
                self._take(before, state)
            self.task.told(done, len(stored))
        return Scan(
            track=Track(segments=self.segments, places=self._places()),
            displacement=self._displacement(),
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
        else:
            intervals = self.task.lineage.intervals[self.at : before]
            movement = self.meter.take(state.flat, self.rules.expected(intervals))
            if movement is not None:
                self.segments.append(self._segment(intervals, movement))
        self.at = before

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

    def _places(self) -> dict[str, list[list[float]]]:
        return {group: [place.tolist() for place in places] for group, places in self.meter.sketches.items()}

    def _displacement(self) -> float:
        """l2 distance between the first and last state read over the norm of the first (of the last where it is 0)."""
        if self.last is None:
            return 0.0
        last = _published(self.task.lineage, self.last)
        scale = self.meter.distance(self.first, []) or self.meter.distance(last, [])
        return self.meter.distance(last, self.first) / scale if scale else 0.0


def stored_checkpoints(intervals: Sequence[Interval]) -> list[tuple[int, Checkpoint]]:
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
