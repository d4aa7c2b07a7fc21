"""Writes ``.polproof``, one file for what a prover shows. PROTOCOL section 11; core/proof.py has the frames.

No more is held than one frame and the list of what is opened. store/unpack.py reads it.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final

from polledger.core.digest import sha256
from polledger.core.encoding import encode
from polledger.core.proof import CHUNK, FRAME, ITEM, MAGIC, RECORD, Kind, ProofHeader
from polledger.errors import Unavailable
from polledger.files import open_regular, reported
from polledger.store.ledger import frame_of
from polledger.store.objects import ObjectMissing, ObjectStore

_LEVEL: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An opened example or batch: its number (index or step), salt, and bytes (none of a batch made of examples)."""

    number: int
    salt: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What goes into a proof. Of the two forms of the ledger the one of ``header.mode`` is taken.

    ``records``: all of them in full mode; in compact mode those that are opened, with ``leaves``, the 32-byte hashes of
    all. ``objects``: names, ascending; ``sketches`` come as one more object. Examples and batches are drawn from their
    iterators as they are written.
    """

    header: ProofHeader
    challenge: bytes
    seals: Sequence[bytes]
    renewals: Sequence[bytes]
    records: Iterable[tuple[int, bytes]]
    leaves: bytes = b""
    store: ObjectStore
    objects: Sequence[bytes]
    sketches: bytes = b""
    nodes: Sequence[bytes] = ()
    examples: Iterable[Opened] = ()
    batches: Iterable[Opened] = ()


def ledger_size(records: Iterable[bytes]) -> int:
    """Bytes that ``records`` take in a ledger."""
    return sum(len(frame_of(record)) for record in records)


def write_proof(contents: Contents) -> Iterator[bytes]:
    """The file, piece by piece. Raises Unavailable if an object is missing or changes while it is read."""
    digest = hashlib.sha256()
    for piece in _pieces(contents):
        digest.update(piece)
        yield piece
    yield _frame(Kind.END, digest.digest())


def _frame(kind: Kind, *parts: bytes | memoryview) -> bytes:
    return b"".join((FRAME.pack(kind, sum(map(len, parts))), *parts))


def _pieces(contents: Contents) -> Iterator[bytes]:
    yield MAGIC
    yield _frame(Kind.HEADER, encode(contents.header))
    yield _frame(Kind.CHALLENGE, contents.challenge)
    yield from (_frame(Kind.SEAL, data) for data in contents.seals)
    yield from (_frame(Kind.RENEWAL, data) for data in contents.renewals)
    if contents.header.mode == "full":
        yield from _pack(Kind.LEDGER, _compressed(record for _, record in contents.records))
    else:
        yield from _pack(Kind.LEAVES, [contents.leaves])
        yield from (_frame(Kind.RECORD, RECORD.pack(index), data) for index, data in contents.records)
    sketches = {sha256(contents.sketches): contents.sketches} if contents.sketches else {}
    for name in sorted({*contents.objects, *sketches}):
        data = sketches.get(name)
        if data is None:
            yield from _object(contents.store, name)
        else:
            yield from _item(Kind.OBJECT, ITEM.pack(0, name, len(data)), _cut(data))
    yield from _pack(Kind.NODES, contents.nodes)
    for kind, items in ((Kind.EXAMPLE, contents.examples), (Kind.BATCH, contents.batches)):
        for item in items:
            yield from _item(kind, ITEM.pack(item.number, item.salt, len(item.data)), _cut(item.data))


def _compressed(records: Iterable[bytes]) -> Iterator[bytes]:
    stream = zlib.compressobj(_LEVEL)
    for record in records:
        yield stream.compress(frame_of(record))
    yield stream.flush()


def _pack(kind: Kind, parts: Iterable[bytes]) -> Iterator[bytes]:
    """Frames of CHUNK bytes, the last one shorter; none where there is nothing."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) >= CHUNK:
            yield _frame(kind, bytes(held[:CHUNK]))
            del held[:CHUNK]
    if held:
        yield _frame(kind, bytes(held))


def _cut(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[start : start + CHUNK] for start in range(0, len(view), CHUNK))


def _item(kind: Kind, head: bytes, data: Iterator[memoryview] | Iterator[bytes]) -> Iterator[bytes]:
    yield _frame(kind, head, next(data, b""))
    yield from (_frame(Kind.DATA, piece) for piece in data)


def _object(store: ObjectStore, name: bytes) -> Iterator[bytes]:
    path = store.path(name)
    try:
        with open_regular(path) as (raw, size), reported(path, "read"):
            yield from _item(
                Kind.OBJECT, ITEM.pack(0, name, size), _blocks(BufferedReader(raw, CHUNK), path, size)
            )
    except FileNotFoundError:
        raise ObjectMissing(name, f"put it back at {path}") from None


def _blocks(file: BufferedReader, path: Path, size: int) -> Iterator[bytes]:
    for start in range(0, size, CHUNK):
        piece = file.read(min(CHUNK, size - start))
        if len(piece) != min(CHUNK, size - start):
            raise Unavailable(f"{path} became shorter while it was read")
        yield piece
