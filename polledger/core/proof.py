"""The frames of a ``.polproof`` file: their kinds, order and bounds. PROTOCOL section 11; docs/decisions/0030.

A file is MAGIC and frames ``u8 kind ‖ u32 length ‖ content``. Kinds come in the order of :class:`Kind`; nothing is
announced that is not there, nothing follows END, whose content is the SHA-256 of everything before it. That digest
finds damage, not forgery: whoever forges computes it again.
"""

import struct
from enum import IntEnum
from typing import ClassVar, Final, Literal

from msgspec import UNSET, UnsetType

from polledger.core.encoding import Limits, parse
from polledger.core.records import Count, Digest, RunId, _Struct
from polledger.errors import EXIT_UNVERIFIABLE, MalformedError

MAGIC: Final = b"polledger/proof/1\n"

CHUNK: Final = 1 << 20
"""Bytes of data in one frame; the last of a sequence has as many as are left."""

FRAME_BYTES: Final = CHUNK + 64
"""Longest content of a frame: what stands before the data of an example has 48 bytes."""

HEADER_LIMITS = Limits(size=1 << 10, depth=2, count=64)

LEDGER_RATIO: Final = 64
"""By how much a ledger may be compressed: its digests cannot be, and take more than a tenth of it."""

LEDGER_SLACK: Final = 1 << 22
"""Bytes that come on top: a genesis record, at most 1 MiB, may be as regular as it likes."""

FRAME = struct.Struct(">BI")

ITEM = struct.Struct(">Q32sQ")
"""Before the data of an object: 0, its name, its size; of an example or a batch: its number, salt and size."""

RECORD = struct.Struct(">Q")
"""Before the bytes of a record: its index."""


class ProofRejected(MalformedError):
    """A file that is no proof, or a damaged one: it shows nothing, against nobody."""

    exit_code: ClassVar[int] = EXIT_UNVERIFIABLE


class Kind(IntEnum):
    """What a frame holds, in the order in which kinds come. ``DATA`` continues what the frame before it began."""

    HEADER = 1
    CHALLENGE = 2
    """The encoded challenge that is answered."""
    SEAL = 3
    RENEWAL = 4
    LEDGER = 5
    """A piece of the zlib stream of ``ledger.log``; in full mode only."""
    LEAVES = 6
    """Leaf hashes of all records, 32,768 to a frame; in compact mode only."""
    RECORD = 7
    """Index and bytes of an opened record; in compact mode only."""
    OBJECT = 8
    NODES = 9
    """Nodes of the proof of all opened examples, 32 bytes each (core/merkle.py, ``verify_common``)."""
    EXAMPLE = 10
    BATCH = 11
    """Step, salt and, where the task makes its own, the bytes of a batch."""
    DATA = 12
    END = 13


class ProofHeader(_Struct, frozen=True, kw_only=True, tag_field="type", tag="proof"):
    """The first frame. ``size``: bytes of the ledger as it was before compression, or records in compact mode."""

    v: Literal[1]
    run: RunId
    challenge: Digest
    """SHA-256 of the challenge that is answered."""
    mode: Literal["full", "compact"]
    size: Count
    sketches: Digest | UnsetType = UNSET
    """Name of the object that holds the sketches, its SHA-256."""


def parse_header(data: bytes) -> ProofHeader:
    """The header that ``data`` encodes. Raises MalformedError."""
    header: ProofHeader = parse(data, ProofHeader, limits=HEADER_LIMITS)
    return header


def ledger_bound(compressed: int) -> int:
    """The most bytes that a ledger of ``compressed`` bytes may unpack to."""
    return LEDGER_RATIO * compressed + LEDGER_SLACK
