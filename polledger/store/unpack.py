"""Reads ``.polproof`` into a directory of the reader's, in the shape of a run directory. docs/decisions/0030.

No more is held than one frame and the list of what was opened, and nothing is decoded beyond what its place needs.
"""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Final

from polledger.core.challenge import Challenge, parse_challenge
from polledger.core.digest import DIGEST_BYTES, sha256
from polledger.core.merkle import leaf_hash
from polledger.core.proof import (
    CHUNK,
    FRAME,
    FRAME_BYTES,
    ITEM,
    MAGIC,
    RECORD,
    Kind,
    ProofHeader,
    ProofRejected,
    ledger_bound,
    parse_header,
)
from polledger.core.records import parse_seal
from polledger.core.renewal import parse_renewal
from polledger.errors import MalformedError, Unavailable
from polledger.files import make_directory, open_regular, reported
from polledger.store.bundle import Opened
from polledger.store.objects import ObjectStore
from polledger.store.run import RunDirectory

REMEDY: Final = "ask the prover for a proof that has it"

_HEAD_BYTES: Final = len(MAGIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    salt: bytes
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A proof that was read whole. ``run``: its seals, objects and, in full mode, ledger, as a run directory has them.

    ``leaves`` and ``records`` are those of compact mode; every record has its leaf hash. ``nodes``: 32 bytes each.
    """

    header: ProofHeader
    challenge: Challenge
    run: RunDirectory
    leaves: bytes
    records: dict[int, bytes]
    nodes: bytes
    objects: tuple[bytes, ...]
    """Names of all objects, ascending."""
    _examples: dict[int, _Place]
    _batches: dict[int, _Place]

    def examples(self) -> list[int]:
        """Indices of the opened examples, ascending."""
        return sorted(self._examples)

    def example(self, index: int) -> Opened | None:
        """An opened example. Raises Unavailable if it cannot be read."""
        return self._opened(self._examples, index)

    def batch(self, step: int) -> Opened | None:
        """What was opened of the batch of a step. Raises Unavailable if it cannot be read."""
        return self._opened(self._batches, step)

    def example_salt(self, index: int) -> bytes | None:
        """The salt of an opened example."""
        return self._examples[index].salt if index in self._examples else None

    def batch_salt(self, step: int) -> bytes | None:
        """The salt of an opened batch."""
        return self._batches[step].salt if step in self._batches else None

    def _opened(self, places: dict[int, _Place], number: int) -> Opened | None:
        place = places.get(number)
        if place is None:
            return None
        path = _data_path(self.run.path)
        with open_regular(path) as (file, _), reported(path, "read"):
            file.seek(place.offset)
            return Opened(number=number, salt=place.salt, data=BufferedReader(file).read(place.size))


def _data_path(directory: Path) -> Path:
    return directory / "opened"


def is_proof(path: Path) -> bool:
    """Whether the file at ``path`` begins as a proof does. Raises Unavailable if it cannot be read."""
    try:
        with open_regular(path) as (file, _), reported(path, "read"):
            return file.read(_HEAD_BYTES) == MAGIC
    except FileNotFoundError:
        return False


def read_proof(path: Path, into: Path) -> Proof:
    """Read the proof at ``path``, whatever its size, into the empty directory ``into``.

    Guaranteed: frames in order, bounded, none twice, none cut off, and nothing behind them; the ledger unpacks to
    what it states; records of compact mode have their leaf hashes. Checked is nothing else. Raises ProofRejected,
    Unavailable if the file cannot be read or the directory not be written.
    """
    try:
        with open_regular(path) as (raw, size), reported(path, "read"), _Unpacker(into, size) as unpacker:
            for kind, content in _frames(BufferedReader(raw, CHUNK), size):
                unpacker.take(kind, content)
            return unpacker.finish()
    except FileNotFoundError:
        raise Unavailable(f"{path} does not exist") from None


def _frames(file: BufferedReader, size: int) -> Iterator[tuple[Kind, bytes]]:
    """Every frame but the last, which is checked."""
    digest = hashlib.sha256()
    head = file.read(_HEAD_BYTES)
    if head != MAGIC:
        raise ProofRejected("the file is no proof: it does not begin as one")
    digest.update(head)
    number = 0
    while True:
        head = file.read(FRAME.size)
        if len(head) < FRAME.size:
            raise ProofRejected(f"the proof is cut off behind frame {number}")
        number += 1
        value, length = FRAME.unpack(head)
        if value not in Kind.__members__.values() or length > FRAME_BYTES:
            raise ProofRejected(
                f"frame {number} of the proof is damaged: no kind {value} of {length} bytes is known"
            )
        content = file.read(length)
        if len(content) < length:
            raise ProofRejected(f"the proof is cut off in frame {number}")
        if value == Kind.END:
            break
        digest.update(head)
        digest.update(content)
        yield Kind(value), content
    if content != digest.digest():
        raise ProofRejected("the proof is damaged: its bytes do not have the digest at its end")
    if file.read(1):
        raise ProofRejected("bytes follow the end of the proof")


@dataclass(slots=True)
class _Unpacker:
    """Takes frames in order. ``size``: bytes of the file; nothing that only a frame says to be large is made."""

    into: Path
    size: int
    header: ProofHeader | None = None
    challenge: Challenge | None = None
    records: dict[int, bytes] = field(default_factory=dict)
    examples: dict[int, _Place] = field(default_factory=dict)
    batches: dict[int, _Place] = field(default_factory=dict)
    leaves: bytearray = field(default_factory=bytearray)
    nodes: bytearray = field(default_factory=bytearray)
    objects: list[bytes] = field(default_factory=list)
    _run: RunDirectory = field(init=False)
    _last: Kind | None = None
    _number: int = -1
    """Of the last seal, renewal or record."""
    _name: bytes = b""
    _left: int = 0
    """Bytes of data that the present item still lacks."""
    _file: BufferedWriter | None = None
    _stream: "zlib._Decompress" = field(default_factory=zlib.decompressobj)
    _ledger: int = 0
    _data: int = 0

    def __enter__(self) -> "_Unpacker":
        self._run = RunDirectory(self.into)
        self._run.objects = ObjectStore(self.into / "objects", remedy=REMEDY)
        for name in ("seals", "objects"):
            make_directory(self.into / name)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def take(self, kind: Kind, content: bytes) -> None:
        """One frame."""
        self._check_order(kind)
        try:
            _TAKE[kind](self, content)
        except ProofRejected:
            raise
        except (MalformedError, zlib.error) as error:
            raise ProofRejected(f"the {kind.name.lower()} in the proof cannot be read: {error}") from None
        if kind is not Kind.DATA:
            self._last = kind

    def _check_order(self, kind: Kind) -> None:
        if (kind is Kind.DATA) != (self._left > 0):
            raise ProofRejected("the proof is damaged: data are missing or stand where none belong")
        if kind is Kind.DATA:
            return
        expected = {None: Kind.HEADER, Kind.HEADER: Kind.CHALLENGE}.get(self._last, kind)
        single = kind in (Kind.HEADER, Kind.CHALLENGE) and kind == self._last
        if kind != expected or single or (self._last is not None and kind < self._last):
            raise ProofRejected(f"the proof is damaged: a frame of kind {kind.name.lower()} is out of place")
        if kind != self._last:
            self._number, self._name = -1, b""
            self._close()

    def _header(self, content: bytes) -> None:
        self.header = parse_header(content)

    def _challenge(self, content: bytes) -> None:
        self.challenge = parse_challenge(content)
        if (
            self.header is None
            or sha256(content) != self.header.challenge
            or self.challenge.run != self.header.run
        ):
            raise ProofRejected("the challenge in the proof is not the one that its header names")

    def _seal(self, content: bytes) -> None:
        index = self._next(parse_seal(content).index)
        self._write(self._run.seal_path(index), content)

    def _renewal(self, content: bytes) -> None:
        index = self._next(parse_renewal(content).index)
        path = self._run.renewal_path(index)
        make_directory(path.parent)
        self._write(path, content)

    def _next(self, number: int) -> int:
        if number <= self._number:
            raise ProofRejected(f"the proof is damaged: number {number} follows {self._number}")
        self._number = number
        return number

    def _unpack(self, content: bytes) -> None:
        header = self._of_mode("full")
        if header.size > ledger_bound(self.size):
            raise ProofRejected(f"the ledger states {header.size} bytes: no ledger packs so well")
        while content:
            room = header.size - self._ledger
            # A frame of zeros unpacks to a thousand times its bytes.
            data = self._stream.decompress(content, min(room + 1, CHUNK))
            if len(data) > room or self._stream.unused_data:
                raise ProofRejected(f"the ledger unpacks to more than the {header.size} bytes that it states")
            self._ledger += len(data)
            self._append(self._run.ledger_path, data)
            content = self._stream.unconsumed_tail

    def _leaf_hashes(self, content: bytes) -> None:
        self._of_mode("compact")
        self.leaves += content

    def _record(self, content: bytes) -> None:
        self._of_mode("compact")
        if len(content) < RECORD.size:
            raise ProofRejected("the proof is damaged: a record has no index")
        index = self._next(RECORD.unpack_from(content)[0])
        record = content[RECORD.size :]
        if leaf_hash(sha256(record)) != self.leaves[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]:
            raise ProofRejected(f"record {index} is not the one that its leaf hash commits to")
        self.records[index] = record

    def _of_mode(self, mode: str) -> ProofHeader:
        if self.header is None or self.header.mode != mode:
            raise ProofRejected("the proof is damaged: its mode and its ledger do not go together")
        return self.header

    def _object(self, content: bytes) -> None:
        number, name, _ = self._begin(content)
        if number or name <= self._name:
            raise ProofRejected("the proof is damaged: objects are not in order")
        self._name = name
        self.objects.append(name)
        path = self._run.objects.path(name)
        make_directory(path.parent)
        self._close()
        self._append(path, content[ITEM.size :])

    def _example(self, content: bytes) -> None:
        self._place(self.examples, content)

    def _batch(self, content: bytes) -> None:
        self._place(self.batches, content)

    def _place(self, places: dict[int, _Place], content: bytes) -> None:
        number, salt, size = self._begin(content)
        if number in places:
            raise ProofRejected(f"the proof is damaged: number {number} is opened twice")
        places[number] = _Place(salt=salt, offset=self._data, size=size)
        self._data += size
        self._append(_data_path(self.into), content[ITEM.size :])

    def _begin(self, content: bytes) -> tuple[int, bytes, int]:
        if len(content) < ITEM.size:
            raise ProofRejected("the proof is damaged: a frame is too short")
        number, name, size = ITEM.unpack_from(content)
        self._left = size
        self._use(len(content) - ITEM.size)
        return number, name, size

    def _continue(self, content: bytes) -> None:
        self._use(len(content))
        if self._file is None:
            raise ProofRejected("the proof is damaged: data follow nothing")
        self._file.write(content)

    def _use(self, count: int) -> None:
        # Cut in one way only: no two files say the same.
        if count != min(CHUNK, self._left):
            raise ProofRejected("the proof is damaged: data are not as long as stated")
        self._left -= count

    def _nodes(self, content: bytes) -> None:
        self.nodes += content

    def _write(self, path: Path, content: bytes) -> None:
        with reported(path, "write"):
            path.write_bytes(content)

    def _append(self, path: Path, content: bytes) -> None:
        with reported(path, "write"):
            if self._file is None:
                self._file = path.open("ab")
            self._file.write(content)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> Proof:
        """What was read, once the end is there. Raises ProofRejected if something is missing."""
        self._close()
        header, challenge = self.header, self.challenge
        if header is None or challenge is None or self._left:
            raise ProofRejected("the proof ends before what it announces")
        whole = self._stream.eof and self._ledger == header.size
        if not whole if header.mode == "full" else len(self.leaves) != header.size * DIGEST_BYTES:
            raise ProofRejected("the ledger in the proof is not as long as stated")
        return Proof(
            header=header,
            challenge=challenge,
            run=self._run,
            leaves=bytes(self.leaves),
            records=self.records,
            nodes=bytes(self.nodes),
            objects=tuple(self.objects),
            _examples=self.examples,
            _batches=self.batches,
        )


_TAKE = {
    Kind.HEADER: _Unpacker._header,
    Kind.CHALLENGE: _Unpacker._challenge,
    Kind.SEAL: _Unpacker._seal,
    Kind.RENEWAL: _Unpacker._renewal,
    Kind.LEDGER: _Unpacker._unpack,
    Kind.LEAVES: _Unpacker._leaf_hashes,
    Kind.RECORD: _Unpacker._record,
    Kind.OBJECT: _Unpacker._object,
    Kind.NODES: _Unpacker._nodes,
    Kind.EXAMPLE: _Unpacker._example,
    Kind.BATCH: _Unpacker._batch,
    Kind.DATA: _Unpacker._continue,
}
