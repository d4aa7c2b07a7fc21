"""Writing large files past the page cache, in whole blocks.

A new file written through the page cache costs a copy into fresh pages and, at the seal, a wait until they are on disk.
Where a file system refuses (tmpfs, some network file systems) it is written ordinarily.
"""

import errno
import fcntl
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Final

from polledger.files import reported
from polledger.memory import large_memory

BLOCK: Final = 4 << 20
"""Bytes of one write: from here on a disk's rate does not grow."""

DEPTH: Final = 2
"""Writes at a time."""

ALIGNMENT: Final = 4096
"""Of the length of a write past the page cache; memory and positions are multiples of it anyway."""

_DIRECT: Final = getattr(os, "O_DIRECT", 0)
"""0 where the system has no such thing: files are then written through the page cache."""


class Disk:
    """What one large file after the other is written with: threads, and blocks of memory that was touched once.

    The threads have the priority of whoever calls :meth:`start`, or writes first. Close it after use.
    """

    def __init__(self) -> None:
        count = 2 + DEPTH
        memory = large_memory(count * BLOCK)
        blocks = (memory[index * BLOCK : (index + 1) * BLOCK] for index in range(count))
        self.first, self.current, *self._others = blocks
        self.writing = ThreadPoolExecutor(max_workers=DEPTH, thread_name_prefix="writing")

    def start(self) -> None:
        """Begin the threads now."""
        all_here = threading.Barrier(DEPTH)
        try:
            begun = [self.writing.submit(all_here.wait) for _ in range(DEPTH)]
        except BaseException:
            # Those that are here would wait for ever.
            all_here.abort()
            raise
        wait(begun)

    def turn(self) -> None:
        """Have the block that was used longest ago as ``current``."""
        self._others.append(self.current)
        self.current = self._others.pop(0)

    def close(self) -> None:
        """End the threads. Idempotent."""
        self.writing.shutdown()


class BlockFile:
    """A new file, written from front to back except its first ``head`` bytes, which come with :meth:`finish`.

    ``memory`` begins at a page. Blocks of the file that lie in it where they lie in the file are written from there,
    and the head is put before the first of them; of all others, a copy. Nobody else changes it before :meth:`finish`.

    Use as a context manager: leaving it closes the file as it is. Every method raises Unavailable if the file cannot be
    written. One file at a time may use ``disk``.
    """

    def __init__(
        self, path: Path, *, head: int, mode: int, disk: Disk, memory: memoryview | None = None
    ) -> None:
        self._path = path
        self._head = head
        # Whole units: so many are written.
        self._memory = memoryview(b"") if memory is None else memory[: _units(len(memory) - ALIGNMENT + 1)]
        self._address = _address(self._memory)
        # The block in which the head ends and the rest begins is not written before the head is known.
        self._first = head // BLOCK
        self._index, self._at = divmod(head, BLOCK)
        self._disk = disk
        self._block, self._in_place = self._begun()
        self._first_block = self._block
        self._writing: list[Future[None]] = []
        self._copies: deque[Future[None]] = deque()
        """Of the copied blocks that are being written, oldest first."""
        with reported(path, "write"):
            self._descriptor = _create(path, mode)

    def __enter__(self) -> "BlockFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Nothing is written from memory that has another use by then, nor to a descriptor that is somebody else's.
        for one in self._writing:
            one.cancel()
        wait(self._writing)
        os.close(self._descriptor)

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._descriptor

    def write(self, data: memoryview) -> None:
        """Add ``data``, which stays as it is until :meth:`finish`. What goes wrong a later call may raise."""
        while data:
            if self._at == BLOCK:
                self._end_block()
            part, data = data[: BLOCK - self._at], data[BLOCK - self._at :]
            if self._in_place and not self._lies(part):
                self._copy_block()
            if not self._in_place:
                _copy(part, self._block[self._at : self._at + len(part)])
            self._at += len(part)

    def finish(self, head: bytes) -> None:
        """Write the beginning and what is left. Not durable yet."""
        if len(head) != self._head:
            raise ValueError(f"a head of {len(head)} bytes where {self._head} were announced")
        for one in self._writing:
            one.result()
        size = self._index * BLOCK + self._at
        if self._index == self._first:
            self._first_block = self._block
        else:
            self._write(self._block, self._index, self._at)
        begin = self._first * BLOCK
        self._first_block[: len(head) - begin] = head[begin:]
        self._write(self._first_block, self._first, min(BLOCK, size - begin))
        for index in range(self._first):
            self._disk.current[:] = head[index * BLOCK : (index + 1) * BLOCK]
            self._write(self._disk.current, index, BLOCK)
        with reported(self._path, "write"):
            os.ftruncate(self._descriptor, size)

    def _begun(self) -> tuple[memoryview, bool]:
        """Where the block that begins lies, and whether that is in the memory."""
        place = self._memory[self._index * BLOCK : (self._index + 1) * BLOCK]
        if len(place) < _units(self._at + 1):
            return self._copied, False
        return place, True

    @property
    def _copied(self) -> memoryview:
        return self._disk.first if self._index == self._first else self._disk.current

    def _lies(self, part: memoryview) -> bool:
        """Whether ``part``, the next of the file, lies in the memory where it lies in the file."""
        return self._at + len(part) <= len(self._block) and _address(part) == (
            self._address + self._index * BLOCK + self._at
        )

    def _copy_block(self) -> None:
        """Go on with a copy of the block, which does not lie in the memory to its end."""
        begin = self._head % BLOCK if self._index == self._first else 0
        if self._at > begin:
            _copy(self._block[begin : self._at], self._copied[begin : self._at])
        self._block, self._in_place = self._copied, False

    def _end_block(self) -> None:
        if self._index == self._first:
            self._first_block = self._block
        else:
            self._give_block()
        self._index, self._at = self._index + 1, 0
        self._block, self._in_place = self._begun()

    def _give_block(self) -> None:
        """Have the block written; of copied ones at most :data:`DEPTH` at a time, so that the next one is free."""
        if not self._in_place and len(self._copies) == DEPTH:
            self._copies.popleft().result()
        given = self._disk.writing.submit(self._write, self._block, self._index, BLOCK)
        self._writing.append(given)
        if not self._in_place:
            self._copies.append(given)
            self._disk.turn()

    def _write(self, block: memoryview, index: int, length: int) -> None:
        """Write the beginning of ``block``, rounded up to whole units: what is too much is cut off at the end."""
        view, position = block[: _units(length)], index * BLOCK
        with reported(self._path, "write"):
            while view:
                count = self._write_some(view, position)
                view, position = view[count:], position + count

    def _write_some(self, view: memoryview, position: int) -> int:
        try:
            return os.pwrite(self._descriptor, view, position)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        # Another alignment is wanted here, or was left by a write that ended early. Whoever writes beside this may
        # have found that out already: what the flags are now does not say what they were.
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
        return os.pwrite(self._descriptor, view, position)


def _units(size: int) -> int:
    """``size`` rounded up to what is written at a time."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _address(data: memoryview) -> int:
    import numpy as np

    address: int = np.frombuffer(data, np.uint8).__array_interface__["data"][0] if data else 0
    return address


def _copy(source: memoryview, place: memoryview) -> None:
    import numpy as np

    # Lets other threads run meanwhile, which assigning to a memoryview does not: they hash.
    np.copyto(np.frombuffer(place, np.uint8), np.frombuffer(source, np.uint8))


def _create(path: Path, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags | _DIRECT, mode)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Some make the file before they refuse.
    path.unlink(missing_ok=True)
    return os.open(path, flags, mode)
