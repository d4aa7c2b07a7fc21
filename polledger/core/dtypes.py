"""Element types of tensors by the name torch gives them, and bytes per element. Canonical bytes are little-endian."""

from collections.abc import Sequence

from polledger.core.scan import INT_MAX
from polledger.errors import MalformedError

DTYPE_BYTES = {
    "bool": 1,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
}

MAX_DIMENSIONS = 64
"""Dimensions of one tensor: NumPy's own limit; torch uses at most 25 in its kernels."""


def byte_size(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor. Raises MalformedError for an unknown dtype, a dimension or a size that no record holds."""
    if dtype not in DTYPE_BYTES:
        raise MalformedError(f"unknown dtype {dtype[:40]!r}")
    if len(shape) > MAX_DIMENSIONS or any(not 0 <= length <= INT_MAX for length in shape):
        raise MalformedError(f"not a shape: {list(shape)[:8]}")
    size = DTYPE_BYTES[dtype]
    for length in shape:
        size *= length
    if size > INT_MAX:
        raise MalformedError(f"a tensor of more than 2^53-1 bytes: {list(shape)[:8]}")
    return size


def is_floating(dtype: str) -> bool:
    """Whether values of ``dtype`` are real or complex floating-point numbers."""
    return dtype.startswith(("float", "bfloat", "complex"))
