"""The append-only log of records. PROTOCOL section 2.

A frame is u32 length ‖ u32 CRC-32 of the record ‖ record, big-endian. The CRC finds damage and torn writes, not
forgery: that is the tree's work. Nothing here decodes more of a record than its index or its step.
"""

import contextlib
import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Self, overload

import msgspec

from polledger.core.encoding import INT_MAX, RECORD_LIMITS
from polledger.errors import Unavailable, UsageError
from polledger.files import PUBLIC_FILE, open_regular, reported, sync_data, sync_directory

RECORD_BYTES = RECORD_LIMITS.size
"""Longest record; a frame that states more is damaged."""

_HEAD = struct.Struct(">II")
_READ_BUFFER = 1 << 20
_BLOCK = 1 << 18
_WRITE_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerDamage:
    """A frame that cannot be read: the record's index, the byte at which its frame begins, and why."""

    index: int
    offset: int
    reason: str


class Records(Sequence[bytes | None]):
    """Records one behind the other in one buffer: 8 bytes each besides their own, an object of each would take 41.

    None where a record is missing. ``missing`` are the indices of these, ascending.
    """

    __slots__ = ("_data", "_ends", "missing")

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("Q", [0])
        self.missing = array("Q")

    def append(self, record: bytes | None) -> None:
        """Add one."""
        if record is None:
            self.missing.append(len(self))
        else:
            self._data += record
        self._ends.append(len(self._data))

    def cut(self) -> None:
        """Drop the last one, which is missing."""
        self.missing.pop()
        self._ends.pop()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> bytes | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes | None]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes | None] | None:
        if isinstance(index, slice):
            return [self._at(at) for at in range(*index.indices(len(self)))]
        return self._at(index if index >= 0 else range(len(self))[index])

    def __iter__(self) -> Iterator[bytes | None]:
        return map(self._at, range(len(self)))

    def _at(self, index: int) -> bytes | None:
        begin, end = self._ends[index], self._ends[index + 1]
        # No record is empty.
        return bytes(self._data[begin:end]) if end > begin else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerScan:
    """All that can be read of a ledger.

    ``records[i]`` is None where record i is damaged but later ones are readable; the last is never None.
    ``offsets[i]`` is the byte at which frame i begins, ``end`` the byte after the last whole frame.
    ``damage`` is the first damage in the file, a torn tail included.
    """

    records: Records
    offsets: "array[int]"
    end: int
    damage: LedgerDamage | None


def frame_of(record: bytes) -> bytes:
    """The frame that holds ``record`` in a ledger."""
    return _HEAD.pack(len(record), zlib.crc32(record)) + record


class _Indexed(msgspec.Struct):
    index: int


class _Stepped(msgspec.Struct):
    step: Annotated[int, msgspec.Meta(ge=0, le=INT_MAX)]


_INDEX = msgspec.msgpack.Decoder(_Indexed)
_STEP = msgspec.msgpack.Decoder(_Stepped)


def iter_records(path: Path) -> Iterator[bytes | LedgerDamage]:
    """Record 0, 1, 2 … of the ledger at ``path``, reading as it goes: memory does not grow with the ledger.

    In place of a record that cannot be read comes its LedgerDamage. Reading goes on behind it if the next frame
    is whole and holds the next index; otherwise it ends there. Raises Unavailable if the file cannot be read.
    """
    with _opened(path) as (file, size):
        for _, item in _items(file, size):
            yield item


def read_ledger(path: Path) -> LedgerScan:
    """Everything that can be read of the ledger at ``path``. Raises Unavailable if the file cannot be read."""
    records = Records()
    offsets = array("Q")
    damage: LedgerDamage | None = None
    end = 0
    with _opened(path) as (file, size):
        for offset, item in _items(file, size):
            offsets.append(offset)
            if isinstance(item, bytes):
                records.append(item)
                end = offset + _HEAD.size + len(item)
            else:
                records.append(None)
                damage = damage or item
    if records and records[-1] is None:
        records.cut()
        offsets.pop()
    return LedgerScan(records=records, offsets=offsets, end=end, damage=damage)


class LedgerCursor:
    """The records of the ledger at ``path`` from an index on, without reading again all that lies before it.

    Not for two threads at once; while another appends, only what was flushed whole is read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index = self._offset = 0

    def records(self, begin: int) -> Iterator[bytes]:
        """Record ``begin`` and what follows; none where the ledger ends before it.

        Cheap where ``begin`` is not far behind the one of the last call. Raises Unavailable for a record that cannot
        be read.
        """
        if begin < self._index:
            self._index = self._offset = 0
        with _opened(self._path) as (file, size):
            index, offset = self._index, self._offset
            file.seek(offset)
            while offset < size:
                if index == begin:
                    self._index, self._offset = index, offset
                content, length = _read_frame(file, size - offset)
                if not isinstance(content, bytes):
                    raise _unusable(self._path, index, content)
                if index >= begin:
                    yield content
                index, offset = index + 1, offset + length


def step_of(record: bytes) -> int | None:
    """The step that a step or checkpoint record states; None if there is none. Nothing else of it is looked at."""
    try:
        return _STEP.decode(record).step
    except (msgspec.MsgspecError, RecursionError):
        return None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    try:
        with open_regular(path) as (raw, size), reported(path, "read"):
            yield BufferedReader(raw, _READ_BUFFER), size
    except FileNotFoundError:
        raise Unavailable(f"{path} is missing") from None


def _items(file: BufferedReader, size: int) -> Iterator[tuple[int, bytes | LedgerDamage]]:
    """Offset and content of every frame that can be reached."""
    offset = index = begin = 0
    block = b""
    while offset < size:
        if offset >= begin + len(block):
            file.seek(offset)
            block, begin = file.read(min(_BLOCK, size - offset)), offset
        for record in _whole(block, offset - begin):
            yield offset, record
            offset += _HEAD.size + len(record)
            index += 1
        if offset >= size:
            return
        # What lies across the end of the block, or is damaged.
        file.seek(offset)
        content, length = _read_frame(file, size - offset)
        if isinstance(content, bytes):
            yield offset, content
        else:
            yield offset, LedgerDamage(index=index, offset=offset, reason=content)
            if not _goes_on(file, size, offset + length, index + 1):
                return
        offset += length
        index += 1


def _whole(block: bytes, at: int) -> Iterator[bytes]:
    """The records of the frames from byte ``at`` of ``block`` on, up to one that is damaged or does not end in it."""
    unpack, checksum_of, head = _HEAD.unpack_from, zlib.crc32, _HEAD.size
    last = len(block) - head
    while at <= last:
        length, checksum = unpack(block, at)
        at += head
        record = block[at : at + length]
        if not 0 < length <= RECORD_BYTES or len(record) != length or checksum_of(record) != checksum:
            return
        yield record
        at += length


def _read_frame(file: BufferedReader, room: int) -> tuple[bytes | str, int]:
    """The record of the frame that begins where ``file`` stands, or why it is not whole; and what to skip.

    ``room`` bytes are left in the file.
    """
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return "its frame is cut short", room
    length, checksum = _HEAD.unpack(head)
    # An empty record is none: zeros, as some file systems leave behind after a crash, would read as one.
    if not 0 < length <= RECORD_BYTES:
        return f"its frame states a length of {length} bytes", room
    if _HEAD.size + length > room:
        return f"its frame states {length} bytes, {room - _HEAD.size} are left", room
    record = file.read(length)
    if zlib.crc32(record) != checksum:
        return "its bytes do not match their checksum", _HEAD.size + length
    return record, _HEAD.size + length


def _goes_on(file: BufferedReader, size: int, offset: int, index: int) -> bool:
    """Whether record ``index`` begins at ``offset``: then the damage before it left the length alone."""
    if offset >= size:
        return False
    file.seek(offset)
    record, _ = _read_frame(file, size - offset)
    try:
        return isinstance(record, bytes) and _INDEX.decode(record).index == index
    except (msgspec.MsgspecError, RecursionError):
        return False


class LedgerWriter:
    """Appends records to one ledger file. Holds no records: time and memory per append do not grow.

    Not for two processes at once: whoever opens it holds the run's lock. ``append`` belongs to one thread;
    ``sync`` may run in another at the same time.
    """

    def __init__(self, path: Path, descriptor: int, *, records: int, end: int) -> None:
        self._path = path
        self._file = os.fdopen(descriptor, "ab", buffering=_WRITE_BUFFER)
        self._records = records
        self._end = end
        self._failed = False

    @classmethod
    def open(cls, path: Path, *, truncate_to: int | None = None, sealed: int = 0) -> Self:
        """Open the ledger at ``path`` for appending (made if it is not there), a torn tail cut off.

        ``truncate_to`` cuts the file further, at the byte after a whole frame. The first ``sealed`` records are
        never cut. Raises Unavailable if these are not all whole, if whole records follow a damaged one or if
        the file cannot be opened; UsageError if ``truncate_to`` is not such a byte.
        """
        with reported(path, "open"):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            descriptor = os.open(path, flags, PUBLIC_FILE)
        try:
            records, end = _tail(path, truncate_to=truncate_to, sealed=sealed)
            with reported(path, "write"):
                os.ftruncate(descriptor, end)
                os.fsync(descriptor)
            sync_directory(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, records=records, end=end)

    @property
    def records(self) -> int:
        """How many records the ledger holds, appended ones included: the index that the next one gets."""
        return self._records

    def tell(self) -> int:
        """The byte after the last appended frame."""
        return self._end

    def append(self, record: bytes) -> int:
        """Add ``record`` and return its index. It has reached the disk only after :meth:`sync`.

        Raises UsageError for an empty or oversized record; Unavailable if it cannot be written, and from then
        on always: the file may end in part of a frame, which :meth:`open` cuts off.
        """
        if not 0 < len(record) <= RECORD_BYTES:
            raise UsageError(f"a record has 1 to {RECORD_BYTES} bytes, not {len(record)}")
        frame = frame_of(record)
        self._check_usable()
        try:
            self._file.write(frame)
        except OSError as error:
            raise self._broken(error) from error
        index = self._records
        self._records += 1
        self._end += len(frame)
        return index

    def flush(self) -> None:
        """Hand everything appended to the operating system: it outlives this process, not the machine.

        Raises Unavailable.
        """
        self._check_usable()
        try:
            self._file.flush()
        except OSError as error:
            raise self._broken(error) from error

    def sync(self) -> None:
        """Wait until everything appended before this call has reached the disk. Raises Unavailable."""
        self.flush()
        try:
            sync_data(self._file.fileno())
        except OSError as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Write out what is buffered (without waiting for the disk) and close. Raises Unavailable."""
        try:
            self._file.close()
        except OSError as error:
            if not self._failed:
                raise self._broken(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_usable(self) -> None:
        if self._failed:
            raise Unavailable(f"an earlier write to {self._path} failed, open it again")

    def _broken(self, error: OSError) -> Unavailable:
        self._failed = True
        return Unavailable(f"cannot write {self._path}: {error.strerror or error}")


def _tail(path: Path, *, truncate_to: int | None, sealed: int) -> tuple[int, int]:
    """How many records are kept and the byte after the last of them."""
    records = end = 0
    damage: LedgerDamage | None = None
    with _opened(path) as (file, size):
        for offset, item in _items(file, size):
            if offset == truncate_to:
                break
            if isinstance(item, LedgerDamage):
                damage = item
            elif damage is not None:
                raise _unusable(path, damage.index, damage.reason)
            else:
                records, end = records + 1, offset + _HEAD.size + len(item)
    if records < sealed:
        raise _unusable(path, records, damage.reason if damage else "it is missing, but was sealed")
    if truncate_to is not None and truncate_to != end:
        raise UsageError(f"{path}: no record ends at byte {truncate_to}")
    return records, end


def _unusable(path: Path, index: int, reason: str) -> Unavailable:
    return Unavailable(f"{path}: record {index} cannot be read ({reason}): restore the file from a copy")
