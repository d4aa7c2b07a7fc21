"""SHA-256 and the fixed-width integers that go into it. PROTOCOL, first paragraph."""

from hashlib import sha256 as _sha256
from typing import TypeAlias

from polledger.errors import UsageError

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What can be hashed without a copy; a memoryview must be C-contiguous."""

DIGEST_BYTES = 32

ZERO = bytes(DIGEST_BYTES)
"""Stands where a digest belongs and none exists: the head before the first one."""


def sha256(data: Buffer) -> bytes:
    """The 32-byte SHA-256 digest of ``data``."""
    return _sha256(data).digest()


def u64(number: int) -> bytes:
    """``number`` in 8 bytes, unsigned big-endian. Raises UsageError outside 0 … 2^64−1."""
    return _unsigned(number, 8)


def u32(number: int) -> bytes:
    """``number`` in 4 bytes, unsigned big-endian. Raises UsageError outside 0 … 2^32−1."""
    return _unsigned(number, 4)


def u8(number: int) -> bytes:
    """``number`` in 1 byte, unsigned. Raises UsageError outside 0 … 255."""
    return _unsigned(number, 1)


def _unsigned(number: int, width: int) -> bytes:
    try:
        return number.to_bytes(width, "big")
    except OverflowError:
        raise UsageError(f"{number} is not an unsigned integer of {8 * width} bits") from None


def require_digest(value: bytes, name: str) -> bytes:
    """``value`` itself. Raises UsageError, naming it ``name``, unless it has 32 bytes.

    Values of fixed width are concatenated without separators before hashing: a wrong width would move the
    boundary between two of them.
    """
    if len(value) != DIGEST_BYTES:
        raise UsageError(f"{name} has {DIGEST_BYTES} bytes, found {len(value)}")
    return value
