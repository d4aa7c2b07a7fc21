"""Stored states in fewer bytes: the bytes of all elements sorted by significance, and compressed where that helps.

The significand of a floating-point number is all but random; what a compressor finds is in sign and exponent, the most
significant byte. Only what is worth it is compressed, so that packing takes about as long as hashing.

    MAGIC ‖ u64 bytes of the plain file ‖ blocks until those are complete, each:
    u32 plain bytes ‖ u8 bytes of an element, w ‖ w times u32 compressed bytes, 0 where it is not compressed
    ‖ first byte of each element ‖ second byte of each element ‖ …

Integers of the packing are big-endian. What is unpacked is **not** checked here: a state is hashed by whoever reads it
(core/state.py). Nothing is taken on trust that this check would find out too late: no memory is given for a length that
a file states, beyond the plain size, which the file's own length bounds.
"""

import struct
from collections.abc import Iterable, Iterator
from io import BufferedReader, FileIO
from typing import TYPE_CHECKING, Any, Final

import zstandard

from polledger.errors import MalformedError
from polledger.files import fill

if TYPE_CHECKING:
    import numpy as np

    Bytes = np.ndarray[Any, np.dtype[np.uint8]]

MAGIC: Final = b"\xffplpack\x01"
"""A plain state file begins with a length of at most 2^26: no file is both."""

BLOCK: Final = 1 << 20
"""Plain bytes of a block, at most: they stay in a core's cache while they are sorted."""

RATIO: Final = 64
"""How many times as long as the packed file the plain one may be: bytes that arrive bound the memory they ask for."""

WIDEST: Final = 16
"""Bytes of an element, at most."""

PROBE: Final = 4096
"""Bytes by which it is told whether more of them are worth compressing."""

_HEAD: Final = struct.Struct(">8sQ")
_BLOCK_HEAD: Final = struct.Struct(">IB")

HEAD_BYTES: Final = _HEAD.size

_LEVEL: Final = 1
"""Others find next to nothing more in exponents, and take longer."""


def packed(size: int, parts: Iterable[tuple[int, memoryview]]) -> Iterator[bytes | memoryview]:
    """The packed file of ``size`` plain bytes, piece by piece, each valid until the next one.

    ``parts`` are the plain bytes, one after the other, each with the bytes of its elements, 1 for what is no array.
    """
    import numpy as np

    yield _HEAD.pack(MAGIC, size)
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    scratch = np.empty(BLOCK, np.uint8)
    for width, data in parts:
        for start in range(0, len(data), BLOCK):
            block = np.frombuffer(data[start : start + BLOCK], np.uint8)
            yield from _packed_block(block, width if len(block) % width == 0 else 1, compressor, scratch)


def _packed_block(
    block: "Bytes", width: int, compressor: zstandard.ZstdCompressor, scratch: "Bytes"
) -> Iterator[bytes | memoryview]:
    planes = scratch[: len(block)].reshape(width, -1)
    elements = block.reshape(-1, width)
    for place in range(width):
        planes[place] = elements[:, place]
    found = [_compressed(plane.data, compressor) for plane in planes]
    lengths = [0 if small is None else len(small) for small in found]
    yield _BLOCK_HEAD.pack(len(block), width) + struct.pack(f">{width}I", *lengths)
    for plane, small in zip(planes, found, strict=True):
        yield plane.data if small is None else small


def _compressed(plane: memoryview, compressor: zstandard.ZstdCompressor) -> bytes | None:
    """``plane`` in fewer bytes, None if a compressor finds next to nothing."""
    if len(plane) > PROBE and len(compressor.compress(plane[:PROBE])) > PROBE * 15 // 16:
        return None
    small = compressor.compress(plane)
    return small if len(small) < len(plane) else None


def plain_size(head: bytes, size: int) -> int | None:
    """Bytes of the plain file whose packed one, of ``size`` bytes, begins with ``head``; None where it is not packed.

    Raises MalformedError if they are more than RATIO to 1.
    """
    if len(head) < HEAD_BYTES:
        return None
    magic, plain = _HEAD.unpack(head[:HEAD_BYTES])
    if magic != MAGIC:
        return None
    if plain > RATIO * size:
        raise MalformedError(
            f"a packed state of {size} bytes states {plain}, more than {RATIO} times as many"
        )
    return int(plain)


def unpack(file: FileIO, into: memoryview) -> None:
    """Fill ``into``, as long as the plain file, from a packed one that was read up to the end of its head.

    Raises MalformedError for anything but such a file, whole and with nothing behind it.
    """
    decompressor = zstandard.ZstdDecompressor()
    scratch = memoryview(bytearray(BLOCK))
    # Blocks of small tensors are small.
    source = BufferedReader(file, BLOCK)
    try:
        position = 0
        while position < len(into):
            length, width = _BLOCK_HEAD.unpack(_read(source, scratch[: _BLOCK_HEAD.size]))
            if not (0 < length <= min(BLOCK, len(into) - position) and 0 < width <= WIDEST) or length % width:
                raise MalformedError("a packed state has a block of a wrong length")
            _unpack_block(source, into[position : position + length], width, scratch, decompressor)
            position += length
        if source.read(1):
            raise MalformedError("a packed state has bytes after its last block")
    finally:
        # Otherwise it would close the file.
        source.detach()


def _unpack_block(
    file: "BufferedReader[FileIO]",
    block: memoryview,
    width: int,
    scratch: memoryview,
    decompressor: zstandard.ZstdDecompressor,
) -> None:
    import numpy as np

    elements = np.frombuffer(block, np.uint8).reshape(-1, width)
    lengths = struct.unpack(f">{width}I", _read(file, scratch[: 4 * width]))
    for place, length in enumerate(lengths):
        if length >= len(elements):
            raise MalformedError("a packed state has a block of a wrong length")
        plane: bytes | memoryview = _read(file, scratch[: length or len(elements)])
        if length:
            plane = _decompressed(plane, len(elements), decompressor)
        elements[:, place] = np.frombuffer(plane, np.uint8)


def _decompressed(data: bytes | memoryview, size: int, decompressor: zstandard.ZstdDecompressor) -> bytes:
    try:
        # A frame may state any size, and would be given memory for it.
        if zstandard.frame_content_size(data) == size:
            return decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MalformedError(f"a packed state cannot be decompressed: {error}") from None
    raise MalformedError("a packed state has a block of a wrong length")


def _read(file: "BufferedReader[FileIO]", place: memoryview) -> memoryview:
    if fill(file, place) != len(place):
        raise MalformedError("a packed state ends early")
    return place
