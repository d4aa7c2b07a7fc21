"""Hashing and writing behind a training's back: one thread of low priority, in order, and a few copies of the state.

The training thread copies a state into a block of memory that was used before and goes on. Where sealing is slower than
training it has to wait for a free block, and helps with the hashing meanwhile: nothing is dropped and nothing overtakes
anything.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from polledger.training.snapshot import Arena, Copy, State

BLOCKS: Final = 2
"""Copies of the state at a time: one is hashed and written while training goes on to the next one."""

NICE: Final = 19
"""Priority of the thread, where threads have their own (Linux): it takes what training leaves."""

Work = Callable[[], None]

T = TypeVar("T")
R = TypeVar("R")


class Pipeline:
    """Does what it is given in the order given, in a thread of its own that begins with the first work.

    Work that raises is the last that is done: what came after it is not, and every later call raises the error. For
    one giving thread. ``before`` is called once in the other thread, as long as that has the priority of this one.
    """

    def __init__(self, *, before: Work = lambda: None) -> None:
        self._before = before
        self._blocks = [Arena() for _ in range(BLOCKS)]
        self._free = deque(self._blocks)
        self._work: deque[tuple[Work, Copy | None]] = deque()
        self._pieces: deque[_Piece] = deque()
        # Of everything above and below, and notified of every change that somebody may wait for.
        self._changed = threading.Condition()
        self._given = self._done = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.waited = 0.0
        """Seconds that the giving thread has waited for a block: by how much sealing was slower than training."""

    def reserve(self, size: int) -> None:
        """Make memory for states of ``size`` bytes ready. Before the first copy. Raises Unavailable."""
        for block in self._blocks:
            block.reserve(size)

    def copy(self, state: State) -> Copy:
        """A copy of ``state``, to be given with the work on it; waits for a block if none is free.

        What is not hashed by now is hashed first: the other thread gets no time where training has every core, and what
        is hashed is written while training goes on.
        """
        began = time.perf_counter()
        while (piece := self._next_piece()) is not None:
            piece.run()
        self._wait_until(lambda: bool(self._free))
        self.waited += time.perf_counter() - began
        self.check()
        copy = self._free[0].copy(state)
        with self._changed:
            self._free.popleft()
        return copy

    def give(self, work: Work, copy: Copy | None = None) -> None:
        """Have ``work`` done after all that was given before; then the block of ``copy`` is free again."""
        self.check()
        with self._changed:
            self._work.append((work, copy))
            self._given += 1
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sealing", daemon=True)
            self._thread.start()

    def drain(self) -> None:
        """Wait until all that was given is done."""
        self._wait_until(lambda: self._done == self._given)
        self.check()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """As ``map``, for work: while the giving thread waits it takes part. ``function`` raises nothing."""
        pieces = [_Piece(function=function, item=item) for item in items]
        with self._changed:
            self._pieces.extend(pieces)
            self._changed.notify_all()
        for piece in pieces:
            while not piece.done:
                # One that the other thread has taken is done again rather than waited for: it may be interrupted.
                (self._next_piece() or piece).run()
            yield piece.result

    def check(self) -> None:
        """Raise what work raised."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Do what was given, then end the thread; what work raised is not raised here. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            thread.join()
        for block in self._blocks:
            block.close()

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for what the other thread does, and do pieces of it meanwhile."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: ready() or self._pieces)
                if ready():
                    return
            piece = self._next_piece()
            if piece is not None:
                piece.run()

    def _next_piece(self) -> "_Piece | None":
        with self._changed:
            return self._pieces.popleft() if self._pieces else None

    def _run(self) -> None:
        try:
            self._before()
        except BaseException as error:
            self._error = error
        _lower_priority()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._work or self._closing)
                if not self._work:
                    return
                work, copy = self._work.popleft()
            self._do(work, copy)

    def _do(self, work: Work, copy: Copy | None) -> None:
        try:
            if copy is not None:
                copy.wait()
            if self._error is None:
                work()
        except BaseException as error:
            self._error = error
        with self._changed:
            # Left over where work failed.
            self._pieces.clear()
            self._done += 1
            if copy is not None:
                self._free.append(copy.block)
            self._changed.notify_all()


@dataclass(slots=True, kw_only=True)
class _Piece:
    """A part of some work that any thread can do, also twice."""

    function: Callable[[Any], Any]
    item: Any
    result: Any = None
    done: bool = False

    def run(self) -> None:
        self.result = self.function(self.item)
        self.done = True


def _lower_priority() -> None:
    if os.name == "posix" and hasattr(os, "setpriority"):
        # Of this thread alone on Linux; elsewhere there is no such thing.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
