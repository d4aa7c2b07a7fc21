"""Formats without a NumPy type, and one unit in the last place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polledger.verify.floats import bit_patterns, float8_values, moved_one_ulp, to_float64

FLOAT8 = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]


def patterns(dtype: str, width: int) -> np.ndarray:
    return np.arange(1 << (8 * width), dtype=f"<u{width}")


@pytest.mark.parametrize("dtype", [*FLOAT8, "bfloat16", "float16"])
def test_values_are_those_of_torch_for_every_bit_pattern(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    width = 1 if dtype in FLOAT8 else 2
    bits = patterns(dtype, width)
    storage = torch.from_numpy(bits.view(f"<i{width}").copy())
    expected = storage.view(getattr(torch, dtype)).to(torch.float32).double().numpy()
    found = to_float64(bits, dtype)
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("up", [True, False])
def test_neighbours_are_numpys(dtype: str, up: bool) -> None:
    generator = np.random.default_rng(1)
    kind = np.dtype(dtype).newbyteorder("<")
    special = [0.0, -0.0, 1.0, -1.0, np.finfo(kind).smallest_subnormal, -np.finfo(kind).smallest_subnormal]
    values = np.array([*special, *generator.normal(size=1000)], dtype=kind)
    expected = np.nextafter(values, np.array(np.inf if up else -np.inf, dtype=kind))
    bits = bit_patterns(memoryview(values.tobytes()), dtype)
    found = moved_one_ulp(bits, dtype, np.full(len(values), up))
    assert np.array_equal(found.view(kind), expected)


@pytest.mark.parametrize("dtype", [*FLOAT8[:4], "bfloat16"])
@pytest.mark.parametrize("up", [True, False])
def test_every_finite_value_moves_to_the_next_one(dtype: str, up: bool) -> None:
    bits = patterns(dtype, 1 if dtype in FLOAT8 else 2)
    before = to_float64(bits, dtype)
    finite = np.isfinite(before)
    after = to_float64(moved_one_ulp(bits, dtype, np.full(len(bits), up)), dtype)
    ordered = np.unique(before[finite])
    place = np.searchsorted(ordered, before[finite])
    wanted = ordered[np.clip(place + (1 if up else -1), 0, len(ordered) - 1)]
    assert np.array_equal(after[finite], wanted)
    assert np.array_equal(after[~finite], before[~finite], equal_nan=True)


def test_scales_without_sign_or_zero_move_within_their_range() -> None:
    bits = patterns("float8_e8m0fnu", 1)
    up = moved_one_ulp(bits, "float8_e8m0fnu", np.full(256, True))
    down = moved_one_ulp(bits, "float8_e8m0fnu", np.full(256, False))
    assert up[10] == 11
    assert down[10] == 9
    assert (up[254], up[255], down[0]) == (254, 255, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("precision", ["native", "bfloat16", "float16", "tfloat32"])
def test_values_that_are_not_finite_stay(dtype: str, bad: float, precision: str) -> None:
    values = np.array([bad], dtype=dtype)
    bits = bit_patterns(memoryview(values.tobytes()), dtype)
    moved = moved_one_ulp(bits, dtype, np.array([True]), precision=precision)  # type: ignore[arg-type]
    assert moved.tobytes() == values.tobytes()


@given(st.floats(min_value=-(2.0**99), max_value=2.0**99, width=32), st.booleans())
def test_a_coarse_move_changes_the_value_that_is_computed_with(value: float, up: bool) -> None:
    values = np.array([to_bfloat16(np.float32(value))], dtype="<f4")
    bits = bit_patterns(memoryview(values.tobytes()), "float32")
    moved = moved_one_ulp(bits, "float32", np.array([up]), precision="bfloat16").view("<f4")
    assert to_bfloat16(moved[0]) != values[0]
    assert (moved[0] > values[0]) == up


def to_bfloat16(value: np.float32) -> float:
    bits = np.array([value], dtype="<f4").view("<u4")[0]
    rounded = (int(bits) + 0x7FFF + ((int(bits) >> 16) & 1)) & 0xFFFF0000
    return float(np.array([rounded & 0xFFFFFFFF], dtype="<u4").view("<f4")[0])


def test_a_native_move_of_float32_would_be_rounded_away_in_bfloat16() -> None:
    values = np.array([1.0], dtype="<f4")
    bits = bit_patterns(memoryview(values.tobytes()), "float32")
    native = moved_one_ulp(bits, "float32", np.array([True])).view("<f4")
    assert to_bfloat16(native[0]) == 1.0


def test_float16_precision_moves_by_a_unit_of_float16() -> None:
    values = np.array([1.0, 2.0, 0.0, 1000.0], dtype="<f4")
    bits = bit_patterns(memoryview(values.tobytes()), "float32")
    moved = moved_one_ulp(bits, "float32", np.full(4, True), precision="float16").view("<f4")
    assert np.allclose(moved - values, [2.0**-10, 2.0**-9, 2.0**-24, 2.0**-1])


def test_tf32_moves_float32_by_its_own_unit_and_float64_by_none() -> None:
    up = np.full(4, True)
    values = np.array([1.0, 2.0, 0.0, 1e-40], dtype="<f4")
    bits = bit_patterns(memoryview(values.tobytes()), "float32")
    moved = moved_one_ulp(bits, "float32", up, precision="tfloat32").view("<f4")
    assert (moved - values).tolist() == [2.0**-10, 2.0**-9, 2.0**-136, 2.0**-136]
    doubles = values.astype("<f8")
    bits = bit_patterns(memoryview(doubles.tobytes()), "float64")
    assert np.array_equal(
        moved_one_ulp(bits, "float64", up, precision="tfloat32"), moved_one_ulp(bits, "float64", up)
    )


def test_complex_numbers_are_two_reals() -> None:
    values = np.array([1 + 2j, -3j], dtype="<c8")
    bits = bit_patterns(memoryview(values.tobytes()), "complex64")
    assert to_float64(bits, "complex64").tolist() == [1.0, 2.0, 0.0, -3.0]


def test_float8_tables_are_not_rebuilt() -> None:
    assert float8_values("float8_e5m2") is float8_values("float8_e5m2")
