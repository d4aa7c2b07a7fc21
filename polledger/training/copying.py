"""Copying what training waits for: with several threads where one does not use what the memory can do."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import numpy as np
import torch

from polledger.machine import usable_cores

LARGE: Final = 1 << 18
"""Bytes from which it pays to copy something with several threads, or to let other threads run meanwhile."""

TOGETHER: Final = 1 << 24
"""Bytes of large things from which a second thread is worth its start."""

SHARE: Final = 1 << 22
"""Bytes that a thread takes at a time: where it is interrupted it holds the other one up by so many."""

Pair: TypeAlias = tuple[bytes | memoryview, memoryview]
"""What is copied, and where to; as long as each other, and both of single bytes."""


def copy_all(pairs: Sequence[Pair]) -> None:
    """:func:`copy_bytes` for each of ``pairs``; with a second thread where torch has one and there are more cores."""
    if not _pays(pairs):
        for source, place in pairs:
            copy_bytes(source, place)
        return
    for source, place in pairs:
        if len(source) < LARGE:
            copy_bytes(source, place)
    _Shared(pair for pair in pairs if len(pair[0]) >= LARGE).copy()


def copy_bytes(source: bytes | memoryview, place: memoryview) -> None:
    """Copy ``source`` to ``place``. Other threads run while much is copied."""
    if len(source) < LARGE:
        # With the lock of the interpreter, for some microseconds.
        place[:] = source
    elif torch.get_num_threads() == 1 or memoryview(source).readonly:
        # Faster than what torch does with one thread; and of what is read-only torch makes no tensor without a warning.
        _copy(source, place)
    else:
        # With as many threads as training has.
        torch.frombuffer(place, dtype=torch.uint8).copy_(torch.frombuffer(source, dtype=torch.uint8))


def _pays(pairs: Sequence[Pair]) -> bool:
    """Whether a second thread pays: torch has none, a core may be free, and much is to be copied."""
    if torch.get_num_threads() > 1 or usable_cores() == 1:
        return False
    return sum(len(source) for source, _ in pairs if len(source) >= LARGE) >= TOGETHER


class _Shared:
    """Pieces that the calling thread and another copy."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._pieces = deque(
            (source[begin : begin + SHARE], place[begin : begin + SHARE])
            for source, place in pairs
            for begin in range(0, len(source), SHARE)
        )
        self._copying = threading.Lock()
        """Held while the other thread copies a piece."""
        self._error: BaseException | None = None

    def copy(self) -> None:
        """Copy all. Whatever happens, nothing is written to once this is left."""
        try:
            with contextlib.suppress(RuntimeError):
                # Where no thread can be started there is one that copies.
                threading.Thread(target=self._help, name="copying", daemon=True).start()
            while (piece := self._next()) is not None:
                _copy(*piece)
        finally:
            # The other thread may not have begun: it finds nothing to do then.
            self._pieces.clear()
            with self._copying:
                pass
        if self._error is not None:
            raise self._error

    def _help(self) -> None:
        while True:
            with self._copying:
                piece = self._next()
                if piece is None:
                    return
                try:
                    _copy(*piece)
                except BaseException as error:
                    self._error = error
                    return

    def _next(self) -> Pair | None:
        try:
            return self._pieces.popleft()
        except IndexError:
            return None


def _copy(source: bytes | memoryview, place: memoryview) -> None:
    np.copyto(np.frombuffer(place, np.uint8), np.frombuffer(source, np.uint8))
