"""PL-MP/1: the canonical subset of MessagePack in which every hashed byte string of polledger is written.

One gate for bytes from outside: :func:`parse`. It bounds size, depth and count before anything is decoded,
decodes into a typed struct, and accepts only what re-encodes to the same bytes. See PROTOCOL section 3.
"""

import struct
from functools import lru_cache
from typing import Any, Final, TypeVar, overload

import msgspec

from polledger.core.scan import INT_MAX, EncodingRejected, Limits, scan
from polledger.errors import MalformedError, UsageError

__all__ = [
    "ENCODE_LIMITS",
    "INT_MAX",
    "RECORD_LIMITS",
    "SEAL_LIMITS",
    "SOURCE_LIMITS",
    "STATE_LIMITS",
    "VERSION",
    "EncodingRejected",
    "Limits",
    "encode",
    "encode_unchecked",
    "from_real",
    "parse",
    "real",
]

T = TypeVar("T")

VERSION: Final = 1
"""The major version that this code reads and writes in the field ``v``."""

RECORD_LIMITS = Limits(size=1 << 20, depth=24, count=200_000)
"""Genesis is the largest record: 64 KiB of config plus one line per buffer of a large model."""

SEAL_LIMITS = Limits(size=1 << 20, depth=8, count=10_000)
"""A seal manifest holds one note and a few token references."""

SOURCE_LIMITS = Limits(size=1 << 20, depth=8, count=100_000)
"""A source description has about 120 bytes per file and per imported distribution."""

STATE_LIMITS = Limits(size=1 << 26, depth=64, count=4_000_000)
"""A state manifest has an entry of about 120 bytes per tensor; 64 MiB covers half a million tensors."""

ENCODE_LIMITS = Limits(size=1 << 40, depth=64, count=1 << 40)
"""What we write ourselves: only the depth is bounded, by the deepest of the limits above."""

_REAL = struct.Struct(">d")


def real(value: float) -> bytes:
    """The 8 bytes, IEEE-754 big-endian, in which PL-MP/1 carries a real number."""
    return _REAL.pack(value)


def from_real(data: bytes) -> float:
    """The float64 that :func:`real` encoded. Raises MalformedError unless ``data`` has 8 bytes."""
    if len(data) != _REAL.size:
        raise MalformedError(f"a real has 8 bytes, found {len(data)}")
    value: float = _REAL.unpack(data)[0]
    return value


_ENCODER = msgspec.msgpack.Encoder(order="sorted")


@lru_cache(maxsize=128)
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


# A lone surrogate raises UnicodeEncodeError, a ValueError.
_CANNOT_ENCODE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def encode(value: Any, *, scanned: bool = False) -> bytes:
    """Canonical bytes of a struct (or of plain str, bytes, int, bool, list, dict; a tuple becomes a list).

    What comes out for a struct is what :func:`parse` accepts for its type. Raises UsageError when ``value``
    holds something PL-MP/1 cannot carry or that breaks the struct's own bounds. Sizes are not bounded here.
    ``scanned``: text and depth were checked, by :func:`polledger.core.structure.encode_value`.
    """
    try:
        data = _ENCODER.encode(value)
        if not scanned:
            scan(data, ENCODE_LIMITS)
        # Structs do not check types when constructed; decoding their own bytes does (under a microsecond).
        if isinstance(value, msgspec.Struct):
            _decoder(type(value)).decode(data)
    except (*_CANNOT_ENCODE, MalformedError) as error:
        raise UsageError(f"cannot be encoded: {error}") from None
    return data


def encode_unchecked(value: msgspec.Struct) -> bytes:
    """The bytes of a struct that is canonical by construction: the checks of :func:`encode` cost ten times as much.

    What comes from outside was checked on its way in: values by :func:`polledger.core.structure.encode_value`, records
    by whoever makes them.
    """
    return _ENCODER.encode(value)


@overload
def parse(data: bytes | bytearray | memoryview, kind: type[T], *, limits: Limits) -> T: ...
@overload
def parse(data: bytes | bytearray | memoryview, kind: Any, *, limits: Limits) -> Any: ...
def parse(data: bytes | bytearray | memoryview, kind: Any, *, limits: Limits) -> Any:
    """Decode untrusted ``data`` as the struct type or union ``kind``: the only way in for bytes from outside.

    Raises EncodingRejected, a MalformedError that names the defect, on anything that is not the one canonical
    encoding of a valid value within ``limits``.
    """
    if not isinstance(data, bytes):
        data = _bounded_copy(data, limits)
    scan(data, limits)
    try:
        value = _decoder(kind).decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        _check_version(data)
        raise EncodingRejected("schema", f"not a valid value: {error}") from None
    if _ENCODER.encode(value) != data:
        raise EncodingRejected("reencoding", "not the canonical encoding: re-encoding gives other bytes")
    return value


def _bounded_copy(data: bytearray | memoryview, limits: Limits) -> bytes:
    size = memoryview(data).nbytes
    if size > limits.size:
        raise EncodingRejected("size", f"{size} bytes, at most {limits.size} are allowed")
    return bytes(data)


class _Versioned(msgspec.Struct):
    v: int


def _check_version(data: bytes) -> None:
    """Another version may differ anywhere, so it is named before whatever else did not decode."""
    try:
        version = _decoder(_Versioned).decode(data).v
    except (msgspec.MsgspecError, RecursionError):
        return
    if version != VERSION:
        raise EncodingRejected("version", f"version {version} is not known here, only version {VERSION} is")
