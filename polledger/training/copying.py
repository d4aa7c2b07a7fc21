"""Copying what training waits for: with several threads where one does not use what the memory can do."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

import numpy as np
import torch

from polledger.helper import usable_cores

LARGE: Final = 1 << 18
"""Bytes from which it pays to copy something with several threads, or to let other threads run meanwhile."""

PIECE: Final = 1 << 22
"""Bytes that a thread takes at a time: where it is interrupted it holds the other one up by so many."""

TOGETHER: Final = 1 << 23
"""Bytes from which a second thread is worth its start."""

Pair: TypeAlias = tuple[bytes | memoryview, memoryview]
"""What is copied, and where to; as long as each other, and both of single bytes."""


def copy_all(pairs: Sequence[Pair]) -> None:
    """:func:`copy_bytes` for each of ``pairs``; with a second thread where torch has one and there are more cores."""
    large = [pair for pair in pairs if len(pair[0]) >= LARGE]
    if (
        torch.get_num_threads() > 1
        or usable_cores() == 1
        or sum(len(source) for source, _ in large) < TOGETHER
    ):
        for source, place in pairs:
            copy_bytes(source, place)
        return
    for source, place in pairs:
        if len(source) < LARGE:
            copy_bytes(source, place)
    pieces = deque(
        (source[begin : begin + PIECE], place[begin : begin + PIECE])
        for source, place in large
        for begin in range(0, len(source), PIECE)
    )
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="copying") as other:
        helped = other.submit(_copy_pieces, pieces)
        _copy_pieces(pieces)
        helped.result()


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


def _copy_pieces(pieces: deque[Pair]) -> None:
    """Copy what is left of ``pieces``, which another thread may take from as well."""
    while True:
        try:
            source, place = pieces.popleft()
        except IndexError:
            return
        _copy(source, place)


def _copy(source: bytes | memoryview, place: memoryview) -> None:
    np.copyto(np.frombuffer(place, np.uint8), np.frombuffer(source, np.uint8))
