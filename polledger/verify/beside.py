"""Replays of later intervals in processes of their own, while the present one replays, on cores that it leaves.

A run that was recorded with few threads replays with as few, whatever machine verifies it. What replays here saves time
and decides nothing: a result is used where it is all that the records say, down to the last bit; anything else is
replayed in turn, alone, as if there had been nothing beside it.

Only where the system keeps the processes apart, and bits are owed. Even then no process is given a state that is, or
may become, what another one is asked for, and each gets its intervals in ascending order. PROTOCOL section 10.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from polledger.core.records import Environment
from polledger.core.replay import (
    AS_RECORDED,
    IsolationReport,
    OpenedBatch,
    RebuiltState,
    Replayer,
    ReplayJob,
    ReplayOutcome,
    Variant,
)
from polledger.machine import memory_limit, usable_cores
from polledger.verify.custom import REPLAY_ERRORS
from polledger.verify.lineage import Interval
from polledger.verify.openings import Wanted
from polledger.verify.replaytask import NotOpened, ReplayTask, job_of
from polledger.verify.states import LoadedState, load_state

WORTH: Final = 10.0
"""Seconds of replaying that have to be left for each process: its start takes a few."""

MOST: Final = 32
"""Processes at a time: what the data's process opens for them, and what is compared in turn, is done one by one."""

PROCESS: Final = 1 << 30
"""Bytes that a process with torch may take before it has a state: more than any example (docs/benchmarks.md)."""

STATES: Final = 8
"""How many times a state's bytes one replay may take, here and in its process: start, end, parameters, gradients."""

AHEAD: Final = 2
"""Stretches that are begun or wait, for each process: one that has ended finds the next."""

Batches = tuple[OpenedBatch, ...]
Run = Callable[[Replayer, ReplayJob], tuple[ReplayOutcome, LoadedState]]
"""Replays one interval in any thread. Raises NotOpened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What this machine has beside the present interval: ``count`` replays at a time, ``held`` intervals in memory."""

    count: int
    held: int


NOTHING: Final = Room(count=0, held=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A replay that ended: the ``batches`` it was given, what came of it, in how many ``seconds``, and if ``alone``."""

    batches: Batches
    outcome: ReplayOutcome
    state: LoadedState
    seconds: float
    alone: bool


def room_for(environment: Environment, *, state_bytes: int, batch_bytes: int) -> Room:
    """What this machine has cores and memory for: nothing where not on the CPU, or where one replay takes it.

    ``batch_bytes``: of the batches of the longest interval.
    """
    if environment.device != "cpu":
        return NOTHING
    memory = memory_limit()
    cores = usable_cores() // max(1, environment.threads)
    # Batches are there as they were opened and as they were consumed.
    batch_bytes *= 2
    count = min(cores, memory // 2 // (PROCESS + STATES * state_bytes + batch_bytes), MOST)
    # With one at a time nothing is beside another.
    return NOTHING if count < 2 else Room(count=count, held=memory // 4 // max(1, state_bytes + batch_bytes))


class Beside:
    """Replays under way, by interval. :meth:`stop` may be called in any thread; close it after use."""

    def __init__(
        self, task: ReplayTask, *, base: Variant, run: Run, wanted: Callable[[Interval], Wanted | None]
    ) -> None:
        self._task = task
        self._base = base
        self._run = run
        self._wanted = wanted
        self.replayers: list[Replayer] = []
        """All that ever ran here: what the system enforced on them is asked for."""
        self._own = threading.local()
        """The process of each thread: they take stretches in their order, and so each process gets them ascending."""
        self._opener: Replayer | None = None
        """Opens the data for all of them, one after the other."""
        self._opening = threading.Lock()
        self._under_way: dict[int, Future[Done]] = {}
        self._taken: Future[Done] | None = None
        self._stretches: list[list[Interval]] = []
        self._next = 0
        """Of the stretches, the first that was neither begun nor passed over: they begin in ascending order."""
        self._ends: dict[bytes, int] = {}
        """By the root of a state, the first interval that is asked for it."""
        self._after: dict[int, int] = {}
        """Steps that are opened after an interval."""
        self._pool: ThreadPoolExecutor | None = None
        self._count = 0
        """Replays at a time, at most, of the processes that were started."""
        self._begun: list[Future[None]] = []
        """Stretches of intervals that were begun or wait."""
        self.begun = 0
        """How many ever were."""
        self._stack = ExitStack()
        self._lock = threading.RLock()
        self._ending = threading.Lock()
        self._ended = False
        self._stopped = False

    @property
    def busy(self) -> bool:
        """Whether any replay is under way, or waits."""
        with self._lock:
            return not all(running.done() for running in self._begun)

    @property
    def alive(self) -> bool:
        """Whether there may be processes, which take memory also where they wait."""
        with self._lock:
            return self._pool is not None

    def expect(self, order: Sequence[Interval]) -> None:
        """Say which intervals will be opened, ascending."""
        self._stretches = list(_stretches(order))
        self._next = 0
        self._ends = {interval.end.root: interval.number for interval in reversed(order)}
        after = 0
        for interval in reversed(order):
            self._after[interval.number] = after
            after += len(interval.steps)

    def follow(self, present: Interval, room: Room, *, pace: float) -> None:
        """Begin what may begin of the intervals that are opened after ``present``, at ``pace`` seconds a step."""
        with self._lock:
            if self._pool is None:
                self._count = min(room.count, int(pace * self._after.get(present.number, 0) / WORTH))
            count = min(room.count, self._count)
            if count < 2:
                return
            for number in [number for number in self._under_way if number <= present.number]:
                # It was not taken: its data are not what was recorded.
                del self._under_way[number]
            self._begun = [running for running in self._begun if not running.done()]
            while not self._stopped and len(self._begun) < AHEAD * count:
                if not self._go_on(present, room):
                    return

    def _go_on(self, present: Interval, room: Room) -> bool:
        """Begin the next stretch, or pass it over; whether there is another one whose turn it can be."""
        if self._next == len(self._stretches):
            return False
        stretch = self._stretches[self._next]
        if stretch[0].number > present.number:
            if stretch[0].environment != present.environment:
                return False
            if self._under_way and len(self._under_way) + len(stretch) > room.held:
                return False
            if len(stretch) <= room.held and self._may_begin(stretch):
                self._begin(stretch)
        self._next += 1
        return True

    def take(self, number: int) -> Future[Done] | None:
        """The replay of interval ``number``, if that was begun; once."""
        with self._lock:
            self._taken = self._under_way.pop(number, None)
            return self._taken

    def stop(self) -> None:
        """End every process, and begin no more."""
        with self._lock:
            self._stopped = True
        self.end()

    def end(self) -> None:
        """End every process. Idempotent."""
        with self._ending:
            with self._lock:
                self._ended = True
                for done in (*self._under_way.values(), self._taken):
                    if done is not None:
                        done.cancel()
                pool, self._pool = self._pool, None
            # A thread that waits for its process learns that this has ended. What cannot be removed of its directory is
            # no reason to end a verification.
            with contextlib.suppress(OSError):
                self._stack.close()
            if pool is not None:
                pool.shutdown(cancel_futures=True)
            with self._lock:
                self._under_way.clear()
                self._opener = self._taken = None
                self._ended = False

    def _may_begin(self, stretch: Sequence[Interval]) -> bool:
        """Whether no other replay is, or may be, asked for what ``stretch`` starts from."""
        first = stretch[0]
        one_class = all(item.environment == first.environment for item in stretch)
        earlier = self._ends.get(first.start.root, first.number) < first.number
        return one_class and first.start.stored and not earlier and self._apart(first)

    def _apart(self, first: Interval) -> bool:
        """Whether a stored state lies between what is opened before ``first`` and its start.

        A replay that ends where nothing is stored may have to go on to the next state that is.
        """
        before = self._stretches[self._next - 1][-1].number if self._next else -1
        intervals = self._task.lineage.intervals
        return any(intervals[number].start.stored for number in range(before + 1, first.number))

    def _begin(self, stretch: Sequence[Interval]) -> None:
        begun = []
        for interval in stretch:
            wanted = self._wanted(interval)
            if wanted is None:
                break
            begun.append(_Begun(interval=interval, wanted=wanted))
        if not begun:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="beside")
        try:
            self._begun.append(self._pool.submit(self._replay_stretch, begun))
        except RuntimeError:
            # There are no more threads to be had: then this is all in turn.
            self._stopped = True
            for item in begun:
                item.done.cancel()
            return
        self.begun += 1
        self._under_way.update((item.interval.number, item.done) for item in begun)

    def _replay_stretch(self, stretch: Sequence["_Begun"]) -> None:
        """Replay one interval after the other in one process; what follows one that failed is not replayed."""
        start = None
        for item in stretch:
            if not item.done.set_running_or_notify_cancel():
                continue
            try:
                replayer = self._replayer(item.interval)
                start = start or load_state(self._task.objects, item.interval.start.root)
                if start.root != item.interval.start.root:
                    raise NotOpened("the interval before it does not lead to where it starts")
                found = self._replay(replayer, start, item)
            except Exception as error:
                item.done.set_exception(error)
                break
            item.done.set_result(found)
            start = found.state
        for item in stretch:
            item.done.cancel()

    def _replayer(self, interval: Interval) -> Replayer:
        """The process of this thread, which the system keeps apart: nothing was given to it before it said so."""
        found: Replayer | None = getattr(self._own, "replayer", None)
        if found is None:
            with self._lock:
                found = self._start(interval)
            kept = found.ready(variant=self._base)
            if not (kept.files and kept.network):
                raise NotOpened("the system does not keep its process apart")
            self._own.replayer = found
        return found

    def _start(self, interval: Interval) -> Replayer:
        if self._ended:
            raise NotOpened("replaying beside was ended")
        replayer = self._stack.enter_context(self._task.engines(interval.environment))
        self.replayers.append(replayer)
        return replayer

    def _replay(self, replayer: Replayer, start: LoadedState, item: "_Begun") -> Done:
        interval = item.interval
        with self._opening:
            if self._opener is None:
                with self._lock:
                    self._opener = self._start(interval)
            batches = tuple(
                self._task.openings.batches(item.wanted, self._opener, data_here=self._task.data_here)
            )
        began = self._task.clock()
        job = job_of(interval, start, batches)
        outcome, state = self._run(replayer, job)
        seconds = self._task.clock() - began
        return Done(batches=batches, outcome=outcome, state=state, seconds=seconds, alone=False)


class InTurn:
    """A replayer that tries once more, alone, what failed while others ran beside it: they may have had its memory."""

    def __init__(self, replayer: Replayer, beside: Beside) -> None:
        self._replayer = replayer
        self._beside = beside

    def rebuild(self, *, variant: Variant = AS_RECORDED, size: int | None = None) -> RebuiltState:
        """See :meth:`polledger.core.replay.Replayer.rebuild`. Nothing runs beside it."""
        return self._replayer.rebuild(variant=variant, size=size)

    def open_batches(self, steps: Wanted) -> Iterator[OpenedBatch]:
        """See :meth:`polledger.core.replay.Replayer.open_batches`."""
        crowded, opened = self._beside.alive, 0
        try:
            for batch in self._replayer.open_batches(steps):
                yield batch
                opened += 1
        except (*REPLAY_ERRORS, OSError, MemoryError):
            if not self._makes_room(crowded=crowded):
                raise
            yield from self._replayer.open_batches(steps[opened:])

    def replay(self, job: ReplayJob, *, variant: Variant = AS_RECORDED) -> ReplayOutcome:
        """See :meth:`polledger.core.replay.Replayer.replay`."""
        crowded = self._beside.alive
        try:
            return self._replayer.replay(job, variant=variant)
        except (*REPLAY_ERRORS, OSError, MemoryError):
            if not self._makes_room(crowded=crowded):
                raise
        return self._replayer.replay(job, variant=variant)

    def ready(self, *, variant: Variant = AS_RECORDED) -> IsolationReport:
        """See :meth:`polledger.core.replay.Replayer.ready`."""
        return self._replayer.ready(variant=variant)

    def isolation(self) -> IsolationReport:
        """See :meth:`polledger.core.replay.Replayer.isolation`."""
        return self._replayer.isolation()

    def _makes_room(self, *, crowded: bool) -> bool:
        """End what runs beside; whether anything did, now or when it was ``crowded``."""
        crowded = crowded or self._beside.alive
        self._beside.stop()
        return crowded


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """An interval, what its steps consume, and what came of its replay."""

    interval: Interval
    wanted: Wanted
    done: Future[Done] = field(default_factory=Future)


def _stretches(intervals: Sequence[Interval]) -> Iterator[list[Interval]]:
    """``intervals`` by stretches in which each starts where the one before it ends."""
    stretch: list[Interval] = []
    for interval in intervals:
        if stretch and interval.number != stretch[-1].number + 1:
            yield stretch
            stretch = []
        stretch.append(interval)
    if stretch:
        yield stretch
