"""Content-addressed payloads: ``objects/ab/cd…``, each written once and named by 32 bytes. PROTOCOL section 2.

Most objects are named by their SHA-256 and checked when read (:meth:`ObjectStore.get`). Others carry their own
check, such as a state file named by its state root; :meth:`ObjectStore.read` hands those out unchecked. State files
may be packed (store/packed.py): :meth:`ObjectStore.read_state` gives the plain bytes of either kind.
"""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.files import (
    PUBLIC_FILE,
    fill,
    fresh_memory,
    make_directory,
    open_regular,
    read_bounded,
    remove_temporaries,
    reported,
    room_for,
    same_content,
    sync_directory,
    sync_file,
    temporary_path,
    write_atomic,
)
from polledger.store.blockfile import BlockFile, Disk
from polledger.store.packed import HEAD_BYTES, RATIO, packed, plain_size, unpack

NAME_BYTES = 32


class ObjectMissing(Unavailable):
    """No object of that name is here. ``name`` is its 32 bytes, ``remedy`` what helps."""

    def __init__(self, name: bytes, remedy: str) -> None:
        super().__init__(f"object {name.hex()} is missing: {remedy}")
        self.name = name


class ObjectDamaged(Unavailable):
    """The object of that name cannot be read as a whole or has other bytes. ``name`` is its 32 bytes."""

    def __init__(self, name: bytes, reason: str, remedy: str) -> None:
        super().__init__(f"object {name.hex()} is damaged ({reason}): {remedy}")
        self.name = name


class ObjectStore:
    """The objects below one directory.

    Names are checked to be 32 bytes, so none leads out of the directory. Writing belongs to whoever holds the
    run's lock, in any of its threads. What was put has reached the disk only after :meth:`sync`. ``remedy``: what helps
    where an object is missing or damaged, if that is not to put the file back.
    """

    def __init__(self, directory: Path, *, remedy: str = "") -> None:
        self.directory = directory
        self._remedy = remedy
        self._unsynced: set[Path] = set()
        self._lock = threading.Lock()

    def path(self, name: bytes) -> Path:
        """Where the object ``name`` lies, whether or not it is there. Raises UsageError unless it has 32 bytes."""
        if not isinstance(name, bytes) or len(name) != NAME_BYTES:
            raise UsageError(f"an object is named by {NAME_BYTES} bytes, not {name!r}")
        text = name.hex()
        return self.directory / text[:2] / text[2:]

    def has(self, name: bytes) -> bool:
        """Whether there is a file of that name; its content is not looked at."""
        path = self.path(name)
        with reported(path, "read"):
            return path.is_file()

    def state_size(self, name: bytes) -> int:
        """Bytes of the state file of that name, unpacked, by its length or its first bytes; none is checked.

        Raises ObjectMissing, or ObjectDamaged if it is no regular file or cannot be read.
        """
        path = self.path(name)
        with self._found(name), open_regular(path) as (file, size):
            plain = _plain_size(file, size, path)
        return size if plain is None else plain

    def check_state_size(self, name: bytes, size: int) -> None:
        """Raise ObjectMissing, or ObjectDamaged unless :meth:`state_size` is ``size``."""
        found = self.state_size(name)
        if found != size:
            raise self._damaged(name, f"it has {found} bytes, {size} are expected")

    def put(self, data: bytes | memoryview) -> bytes:
        """Store ``data`` under its SHA-256 and return that. Raises Unavailable if it cannot be written."""
        name = hashlib.sha256(data).digest()
        self.put_named(name, [data])
        return name

    def put_named(self, name: bytes, chunks: Sequence[bytes | memoryview]) -> None:
        """Store the concatenation of ``chunks`` under ``name``; that it deserves the name is not checked.

        Nothing happens if it is there already. Other content of that name (a crash may leave a file whose bytes
        never reached the disk) is replaced. Raises Unavailable if it cannot be written.
        """
        path = self.path(name)
        if not _holds(path, chunks):
            make_directory(self.directory)
            make_directory(path.parent)
            write_atomic(path, chunks, durable=False)
        # What an earlier process wrote and did not sync is synced too.
        self.sync_later(name)

    def put_packed(self, name: bytes, size: int, parts: Sequence[tuple[int, memoryview]]) -> None:
        """Store a state file of ``size`` bytes under ``name``, packed; that it deserves the name is not checked.

        ``parts``: as in :func:`polledger.store.packed.packed`. Nothing happens if it is there, packed or
        not. Stored plain where it packs to so little that nobody would unpack it. Raises Unavailable if it cannot be
        written.
        """
        if self._holds_state(name, parts):
            self.sync_later(name)
            return
        path = self.path(name)
        make_directory(self.directory)
        make_directory(path.parent)
        try:
            write_atomic(path, _readable(packed(size, parts), size), durable=False)
        except _TooSmall:
            write_atomic(path, [data for _, data in parts], durable=False)
        self.sync_later(name)

    def _holds_state(self, name: bytes, parts: Sequence[tuple[int, memoryview]]) -> bool:
        try:
            there = self.read_state(name, limit=sum(len(data) for _, data in parts))
        except Unavailable:
            return False
        for _, data in parts:
            if there[: len(data)] != data:
                return False
            there = there[len(data) :]
        return not there

    def sync_later(self, name: bytes) -> None:
        """Have the next :meth:`sync` wait for what was stored under ``name``, by whomever."""
        with self._lock:
            self._unsynced.add(self.path(name))

    @contextlib.contextmanager
    def new(self, *, head: int, disk: Disk, memory: memoryview | None = None) -> "Iterator[NewObject]":
        """An object whose name, and first ``head`` bytes, are known when the rest is written.

        Nothing is left of it unless it is finished in the block. ``memory``: as in :class:`BlockFile`. Raises
        Unavailable if it cannot be written.
        """
        make_directory(self.directory)
        path = temporary_path(self.directory)
        try:
            with BlockFile(path, head=head, mode=PUBLIC_FILE, disk=disk, memory=memory) as file:
                yield NewObject(store=self, file=file, path=path)
        finally:
            path.unlink(missing_ok=True)

    def adopt(self, path: Path, name: bytes) -> None:
        """Give the file at ``path`` the name ``name``, in place of what is there."""
        final = self.path(name)
        make_directory(final.parent)
        with reported(final, "write"):
            path.replace(final)
        self.sync_later(name)

    def get(self, digest: bytes, *, limit: int) -> bytes:
        """The bytes whose SHA-256 is ``digest``, hashed again; at most ``limit`` of them.

        Raises ObjectMissing, or ObjectDamaged if the file is larger, has other bytes or cannot be read.
        """
        data = bytes(self.read(digest, limit=limit))
        found = hashlib.sha256(data).digest()
        if found != digest:
            raise self._damaged(digest, f"its bytes have the digest {found.hex()}")
        return data

    def read(
        self, name: bytes, *, limit: int, room: Callable[[int], memoryview] = fresh_memory
    ) -> memoryview:
        """The bytes stored under ``name``, **not** checked: only for what checks itself. Read-only and private:
        later changes to the file do not reach them. ``room`` gives the memory they are read into.

        Raises ObjectMissing, or ObjectDamaged if the file has more than ``limit`` bytes or cannot be read.
        """
        with self._found(name):
            return read_bounded(self.path(name), limit=limit, room=room)

    def read_state(
        self, name: bytes, *, limit: int, room: Callable[[int], memoryview] = fresh_memory
    ) -> memoryview:
        """As :meth:`read`, for a state file: its plain bytes, at most ``limit``, whether or not it is packed."""
        path = self.path(name)
        with self._found(name), open_regular(path) as (file, size):
            plain = _plain_size(file, size, path)
            buffer = room_for(path, size if plain is None else plain, limit=limit, room=room)
            with reported(path, "read"):
                if plain is not None:
                    unpack(file, buffer)
                    return buffer.toreadonly()
                file.seek(0)
                return buffer[: fill(file, buffer)].toreadonly()

    @contextlib.contextmanager
    def _found(self, name: bytes) -> Iterator[None]:
        """What goes wrong in reading ``name`` is raised as ObjectMissing or ObjectDamaged."""
        try:
            yield
        except FileNotFoundError:
            raise self._missing(name) from None
        except (Unavailable, MalformedError) as error:
            raise self._damaged(name, str(error)) from error

    def _missing(self, name: bytes) -> ObjectMissing:
        return ObjectMissing(name, self._remedy or f"put it back at {self.path(name)}")

    def _damaged(self, name: bytes, reason: str) -> ObjectDamaged:
        return ObjectDamaged(name, reason, self._remedy or f"restore {self.path(name)} from a copy")

    def sync(self) -> None:
        """Wait until everything that was put, and its names, have reached the disk. Raises Unavailable."""
        with self._lock:
            pending, self._unsynced = self._unsynced, set()
        try:
            for path in pending:
                sync_file(path)
            for directory in {self.directory, *(path.parent for path in pending)} if pending else ():
                sync_directory(directory)
        except BaseException:
            with self._lock:
                self._unsynced |= pending
            raise

    def clean(self) -> None:
        """Remove what interrupted writes left behind. Only for whoever holds the run's lock."""
        with reported(self.directory, "clean"):
            directories = [path for path in self.directory.glob("[0-9a-f][0-9a-f]") if path.is_dir()]
        for directory in (self.directory, *directories):
            remove_temporaries(directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewObject:
    """An object in the making, from :meth:`ObjectStore.new`."""

    store: ObjectStore
    file: BlockFile
    path: Path

    def write(self, data: memoryview) -> None:
        """Add ``data`` behind what is there; it stays as it is until :meth:`finish`. Raises Unavailable."""
        self.file.write(data)

    def finish(self, name: bytes, head: bytes) -> None:
        """Write the beginning and store the whole under ``name``; that it deserves the name is not checked."""
        self.file.finish(head)
        self.store.adopt(self.path, name)


def _holds(path: Path, chunks: Sequence[bytes | memoryview]) -> bool:
    try:
        return same_content(path, chunks)
    except (FileNotFoundError, Unavailable):
        return False


def _plain_size(file: FileIO, size: int, path: Path) -> int | None:
    head = bytearray(HEAD_BYTES)
    with reported(path, "read"):
        return plain_size(bytes(head[: fill(file, memoryview(head))]), size)


class _TooSmall(Exception):
    """A packed file states more bytes than a reader believes it."""


def _readable(pieces: Iterator[bytes | memoryview], size: int) -> Iterator[bytes | memoryview]:
    """``pieces`` of the packed file of ``size`` bytes. Raises _TooSmall behind the last one."""
    count = 0
    for piece in pieces:
        count += len(piece)
        yield piece
    if size > RATIO * count:
        raise _TooSmall
