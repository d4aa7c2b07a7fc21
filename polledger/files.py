"""Reading and writing single files so that a crash, a full disk or a hostile directory does no harm.

A file that is written appears whole or not at all: evidence, keys, waiting requests.

Every OSError leaves here as Unavailable with one line naming the path.
"""

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader, FileIO
from pathlib import Path

from polledger.errors import Unavailable

PUBLIC_FILE = 0o666
"""Mode of what anybody may read; the process's umask takes from it."""

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700

TEMPORARY = ".tmp-"
"""How names of unfinished files begin; nothing else in a run directory begins so."""

_BLOCK = 1 << 22


@contextlib.contextmanager
def reported(path: Path, verb: str) -> Iterator[None]:
    """Turn an OSError into Unavailable: "cannot read R/ledger.log: Permission denied"."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"cannot {verb} {path}: {error.strerror or error}") from error


def sync_data(descriptor: int) -> None:
    """Wait until the file's content has reached the disk."""
    # macOS has no fdatasync.
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_directory(directory: Path) -> None:
    """Wait until the names in ``directory`` have reached the disk. Raises Unavailable."""
    with reported(directory, "sync"):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    """Wait until the content of the file at ``path`` has reached the disk. Raises Unavailable."""
    with reported(path, "sync"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            sync_data(descriptor)
        finally:
            os.close(descriptor)


def file_digest(path: Path) -> bytes:
    """SHA-256 of the file at ``path``, read in blocks. Raises Unavailable."""
    found = hashlib.sha256()
    with reported(path, "read"), path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.digest()


def make_directory(path: Path, *, mode: int = 0o777) -> None:
    """Make the directory ``path`` unless it is there. Raises Unavailable."""
    with reported(path, "make"):
        path.mkdir(mode=mode, exist_ok=True)


def write_atomic(
    path: Path, chunks: Iterable[bytes | memoryview], *, mode: int = PUBLIC_FILE, durable: bool = True
) -> None:
    """Put a file at ``path`` in one step: a reader, or a crash, sees the old content or all of the new.

    With ``durable`` content and name have reached the disk on return. Raises Unavailable.
    """
    with reported(path, "write"):
        temporary = temporary_path(path.parent)
        try:
            _write_new(temporary, chunks, mode=mode, durable=durable)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if durable:
        sync_directory(path.parent)


def append(path: Path, data: bytes, *, mode: int) -> None:
    """Add ``data`` to the file at ``path``, made if need be. Not durable. Raises Unavailable."""
    with reported(path, "write"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, mode)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)


def write_once(path: Path, data: bytes, *, mode: int) -> None:
    """Put a file at ``path``, where none may be: whole, durable, and never over another, whoever is faster.

    Raises FileExistsError if there is a file, Unavailable if it cannot be written.
    """
    temporary = temporary_path(path.parent)
    with reported(path, "write"):
        try:
            _write_new(temporary, [data], mode=mode, durable=True)
            is_new = _linked(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    if not is_new:
        raise FileExistsError(path)
    sync_directory(path.parent)


def temporary_path(directory: Path) -> Path:
    """Where an unfinished file of ``directory`` lies."""
    # A name of its own for every write, also where processes of several machines share a directory.
    return directory / f"{TEMPORARY}{secrets.token_hex(8)}"


def _linked(temporary: Path, path: Path) -> bool:
    """Give the file its name unless that is taken; whether it was free."""
    try:
        try:
            os.link(temporary, path)
        except PermissionError:
            # A file system without hard links: still never over a file that is there.
            path.touch(exist_ok=False)
            temporary.replace(path)
    except FileExistsError:
        return False
    return True


def _write_new(path: Path, chunks: Iterable[bytes | memoryview], *, mode: int, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        if durable:
            sync_data(descriptor)


def remove_temporaries(directory: Path) -> None:
    """Remove what interrupted writes left in ``directory``. Only for whoever holds the run's lock."""
    with reported(directory, "clean"):
        for path in directory.glob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[FileIO, int]]:
    """The regular file at ``path``, open for unbuffered reading, and its size.

    Raises FileNotFoundError if there is none, Unavailable for any other trouble. A symbolic link, device or
    pipe in its place is refused and never read: it could name a file outside or block for ever.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Unavailable(f"cannot read {path}: it is not a regular file")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield file, status.st_size


def fresh_memory(size: int) -> memoryview:
    """``size`` bytes of new memory."""
    return memoryview(bytearray(size))


def read_bounded(path: Path, *, limit: int, room: Callable[[int], memoryview] = fresh_memory) -> memoryview:
    """The content of the regular file at ``path``, read-only, as it was when read.

    ``room`` gives the memory for a number of bytes: many large files are read faster into memory that was used before.
    Raises FileNotFoundError if there is none, Unavailable for any other trouble or more than ``limit`` bytes.
    """
    with open_regular(path) as (file, size):
        buffer = room_for(path, size, limit=limit, room=room)
        with reported(path, "read"):
            filled = fill(file, buffer)
    return buffer[:filled].toreadonly()


def room_for(path: Path, size: int, *, limit: int, room: Callable[[int], memoryview]) -> memoryview:
    """Memory from ``room`` for the ``size`` bytes of ``path``. Raises Unavailable if they are too many."""
    if size > limit:
        raise Unavailable(f"cannot read {path}: it has {size} bytes, at most {limit} are expected")
    try:
        # A sparse file costs its owner nothing, whatever its size.
        return room(size)
    except MemoryError:
        raise Unavailable(f"cannot read {path}: its {size} bytes do not fit into memory") from None


def fill(file: "FileIO | BufferedReader[FileIO]", buffer: memoryview) -> int:
    """Read into ``buffer`` until it is full or the file ends; how many bytes there were."""
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled : filled + _BLOCK])
        if not count:
            break
        filled += count
    return filled


def hash_regular(path: Path) -> str:
    """SHA-256 in hex of the regular file at ``path``, read in pieces. Raises as :func:`open_regular` does."""
    with open_regular(path) as (file, _), reported(path, "read"):
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_content(path: Path, chunks: Iterable[bytes | memoryview]) -> bool:
    """Whether the regular file at ``path`` consists of ``chunks``. Raises as :func:`open_regular` does."""
    with open_regular(path) as (file, size), reported(path, "read"):
        for chunk in chunks:
            view = _flat(chunk)
            size -= len(view)
            if size < 0 or not _same_bytes(file, view):
                return False
    return size == 0


def _flat(chunk: bytes | memoryview) -> memoryview:
    view = memoryview(chunk)
    return view.cast("B") if view.nbytes else memoryview(b"")


def _same_bytes(file: FileIO, view: memoryview) -> bool:
    for start in range(0, len(view), _BLOCK):
        expected = view[start : start + _BLOCK]
        buffer = memoryview(bytearray(len(expected)))
        if fill(file, buffer) != len(expected) or buffer != expected:
            return False
    return True
