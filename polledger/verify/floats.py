"""Floating-point tensors as numbers, and one unit in the last place away: canonical bytes in, NumPy arrays out.

bfloat16 and the float8 formats have no NumPy type: the first is the upper half of a float32, the others are
read through tables of their 256 values.
"""

from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Precision = Literal["native", "bfloat16", "float16", "tfloat32"]
"""In which format a parameter is computed with: its own, or a coarser one that it is cast to. TF32, the products of a
GPU, takes float32 only."""

Array = NDArray[Any]

_PARTS = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}
_NUMPY = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}
_COARSE = {"bfloat16": (8, -133), "float16": (11, -24), "tfloat32": (11, -136)}
"""Bits of the significand, and the exponent of the smallest number above 0."""

_BITS = {"float16": "<u2", "bfloat16": "<u2", "float32": "<u4", "float64": "<u8"}

# (bits of the exponent, bits of the mantissa, bias, how the top of the range is used)
_FLOAT8 = {
    "float8_e4m3fn": (4, 3, 7, "nan"),
    "float8_e4m3fnuz": (4, 3, 8, "uz"),
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e5m2fnuz": (5, 2, 16, "uz"),
}


def real_dtype(dtype: str) -> str:
    """The format of the real numbers that a tensor of ``dtype`` consists of: complex ones have two per element."""
    return _PARTS.get(dtype, dtype)


def bit_patterns(data: memoryview, dtype: str) -> Array:
    """The numbers of a floating tensor as unsigned integers, flat; complex ones count twice."""
    return np.frombuffer(data, dtype=_BITS.get(real_dtype(dtype), "<u1"))


def to_float64(bits: Array, dtype: str) -> NDArray[np.float64]:
    """The values of :func:`bit_patterns` as float64, exactly."""
    name = real_dtype(dtype)
    # Signalling NaNs raise a flag when they are converted.
    with np.errstate(invalid="ignore"):
        if name in _NUMPY:
            return bits.view(_NUMPY[name]).astype(np.float64)
        if name == "bfloat16":
            return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return float8_values(name)[bits]


@cache
def float8_values(dtype: str) -> NDArray[np.float64]:
    """The 256 values of an 8-bit format, by bit pattern."""
    if dtype == "float8_e8m0fnu":
        values = np.ldexp(1.0, np.arange(256) - 127)
        values[255] = np.nan
        return values
    exponent_bits, mantissa_bits, bias, top = _FLOAT8[dtype]
    patterns = np.arange(256)
    sign = np.where(patterns >= 128, -1.0, 1.0)
    exponent = (patterns >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (patterns & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    normal = np.ldexp(1.0 + mantissa, exponent - bias)
    subnormal = np.ldexp(mantissa, 1 - bias)
    values = sign * np.where(exponent > 0, normal, subnormal)
    return _special(values, exponent, mantissa, sign, top=top, largest=(1 << exponent_bits) - 1)


def _special(
    values: NDArray[np.float64], exponent: Array, mantissa: Array, sign: Array, *, top: str, largest: int
) -> NDArray[np.float64]:
    if top == "uz":
        # One zero; its negative pattern is the only NaN.
        values[128] = np.nan
    elif top == "nan":
        values[[127, 255]] = np.nan
    else:
        values = np.where(exponent == largest, np.where(mantissa == 0, sign * np.inf, np.nan), values)
    return values


def moved_one_ulp(
    bits: Array, dtype: str, up: NDArray[np.bool_], *, precision: Precision = "native"
) -> Array:
    """``bits`` with every finite number moved to its neighbour, towards +∞ where ``up``, else towards −∞.

    With a coarser ``precision`` a float32 or (but for TF32) float64 number moves by one unit in the last place of that
    format, because a smaller move would be rounded away before it is computed with. Infinities and NaN stay.
    """
    name = real_dtype(dtype)
    coarse = ("float32",) if precision == "tfloat32" else ("float32", "float64")
    if precision != "native" and name in coarse:
        return _moved_coarsely(bits, name, up, precision)
    if name == "float8_e8m0fnu":
        return np.where(bits >= 254, bits, np.where(up | (bits == 0), bits + 1, bits - 1)).astype(bits.dtype)
    finite = np.isfinite(to_float64(bits, dtype))
    return np.where(finite, _neighbours(bits, name, up), bits).astype(bits.dtype)


def _neighbours(bits: Array, name: str, up: NDArray[np.bool_]) -> Array:
    """Sign and magnitude as one ordered integer, plus or minus 1. The largest finite number stays."""
    width = bits.dtype.itemsize * 8
    sign = bits.dtype.type(1 << (width - 1))
    negative = (bits & sign) != 0
    magnitude = bits & ~sign
    away = up != negative
    crossing = (magnitude == 0) & ~away
    stepped = np.where(away, magnitude + 1, np.where(crossing, 1, magnitude - np.minimum(magnitude, 1)))
    signed = np.where(negative != crossing, stepped | sign, stepped).astype(bits.dtype)
    if name.endswith("fnuz"):
        # These formats have no negative zero, and their largest magnitude is the last pattern.
        signed = np.where(signed == sign, 0, signed).astype(bits.dtype)
        signed = np.where(away & (magnitude == sign - 1), bits, signed)
    return np.where(np.isfinite(to_float64(signed, name)), signed, bits)


def _moved_coarsely(bits: Array, name: str, up: NDArray[np.bool_], precision: Precision) -> Array:
    values = bits.view(_NUMPY[name])
    with np.errstate(over="ignore", invalid="ignore"):
        moved = (values + np.where(up, 1, -1) * _coarse_ulp(values, precision)).astype(values.dtype)
    return np.where(np.isfinite(moved), moved, values).view(bits.dtype)


def _coarse_ulp(values: Array, precision: Precision) -> NDArray[np.float64]:
    """Unit in the last place of ``precision`` at each value."""
    significand, least = _COARSE[precision]
    magnitude = np.abs(np.where(np.isfinite(values), values, 0)).astype(np.float64)
    _, exponent = np.frexp(magnitude)
    exponent = np.where(magnitude == 0, least, np.maximum(exponent - significand, least))
    return np.ldexp(1.0, exponent)
