"""Displacements, sketches and what optimizers' slots do, from states; every number against a plain computation."""

import math
from typing import Any

import numpy as np
import pytest

from polledger.core.dtypes import DTYPE_BYTES, is_floating
from polledger.core.records import StateObject
from polledger.core.sketch import DIRECTIONS
from polledger.core.state import FlatState, TensorData
from polledger.verify.compare import squared_distance
from polledger.verify.movement import ROW, Expected, Meter, Projection, random_bits

SEED = b"s" * 32
OBJECTS = [
    StateObject(name="model", kind="module", buffers=["model/mean"]),
    StateObject(name="optimizer", kind="optimizer"),
]


def tensor(path: str, values: Any, dtype: str = "float32") -> TensorData:
    array = np.asarray(
        values, dtype={"float32": "<f4", "float64": "<f8", "int64": "<i8", "float16": "<f2"}[dtype]
    )
    return TensorData(path=path, dtype=dtype, shape=array.shape, data=memoryview(array.tobytes()))


def bfloat16(path: str, values: Any) -> TensorData:
    bits = (np.asarray(values, dtype="<f4").view(np.uint32) >> 16).astype("<u2")
    return TensorData(path=path, dtype="bfloat16", shape=bits.shape, data=memoryview(bits.tobytes()))


def state(*tensors: TensorData) -> FlatState:
    return FlatState(skeletons=[], tensors=list(tensors))


def meter(
    *states: FlatState, seed: bytes = SEED, expected: Expected | None = None
) -> tuple[Meter, list[Any]]:
    found = Meter(OBJECTS, seed=seed)
    return found, [found.take(flat, expected) for flat in states]


def slot(number: int, name: str) -> str:
    return f"optimizer/state/#{number}/{name}"


def test_displacement_is_taken_per_group_and_skips_what_does_not_float() -> None:
    one = state(tensor("model/w", [0.0, 0.0]), tensor("model/b", [1.0]), tensor("model/mean", [1.0]))
    two = state(
        tensor("model/w", [3.0, 4.0]),
        tensor("model/b", [13.0]),
        tensor("model/mean", [1.5]),
        tensor("model/count", [7], "int64"),
        tensor(slot(0, "momentum_buffer"), [2.0]),
    )
    _, (first, movement) = meter(one, two)
    assert first is None
    # A slot that was not there before counts from zero.
    assert movement.moved == {
        "model/parameters": 13.0,
        "model/buffers": 0.5,
        "optimizer/momentum_buffer": 2.0,
    }


@pytest.mark.parametrize("count", [1, ROW - 1, ROW, 64 * ROW, 64 * ROW + 1, 200_000])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_displacement_equals_that_of_the_comparison(count: int, dtype: str) -> None:
    rng = np.random.default_rng(count)
    a = tensor("model/w", rng.normal(size=count), dtype)
    b = tensor("model/w", rng.normal(size=count), dtype)
    _, (_, movement) = meter(state(a), state(b))
    exact = math.sqrt(squared_distance(b, a))
    assert movement.moved["model/parameters"] == pytest.approx(exact, rel=1e-5)


def test_numbers_that_float32_sums_lose_are_kept() -> None:
    for scale in (1e-30, 1e-25, 1e25):
        a, b = tensor("model/w", [0.0, 0.0]), tensor("model/w", [3 * scale, 4 * scale])
        _, (_, movement) = meter(state(a), state(b))
        assert movement.moved["model/parameters"] == pytest.approx(5 * scale, rel=1e-6)


def test_bfloat16_is_measured_too() -> None:
    _, (_, movement) = meter(state(bfloat16("model/w", [1.0, 2.0])), state(bfloat16("model/w", [4.0, 6.0])))
    assert movement.moved["model/parameters"] == 5.0


def test_what_is_not_finite_is_infinitely_far_unless_its_bits_are_equal() -> None:
    poisoned, clean = tensor("model/w", [math.nan, 1.0]), tensor("model/w", [0.0, 1.0])
    found, (_, moved, kept, infinite) = meter(
        state(clean), state(poisoned), state(poisoned), state(tensor("model/w", [0.0, math.inf]))
    )
    assert (moved.moved["model/parameters"], kept.moved["model/parameters"]) == (math.inf, 0.0)
    assert infinite.moved["model/parameters"] == math.inf
    assert all(np.isfinite(place).all() for place in found.sketches["model/parameters"])


@pytest.mark.filterwarnings("error")
def test_a_sketch_of_changes_whose_sums_overflow_float32_is_still_one() -> None:
    """Otherwise one huge number once would leave every later place without a distance to any other."""
    rng = np.random.default_rng(3)
    walk = [np.zeros(5 * ROW), 2e38 * rng.choice([-1.0, 1.0], size=5 * ROW)]
    found, _ = meter(*(state(tensor("model/w", values)) for values in walk))
    _, place = found.sketches["model/parameters"]
    assert np.linalg.norm(place) == pytest.approx(2e38 * math.sqrt(5 * ROW), rel=0.4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", sorted(name for name in DTYPE_BYTES if is_floating(name)))
@pytest.mark.parametrize("count", [0, 1, ROW, 64 * ROW + 3])
def test_any_bits_of_any_format_are_measured(dtype: str, count: int) -> None:
    """A state holds what its prover put there: NaN of every kind, infinities, denormal and huge numbers."""
    rng = np.random.default_rng(5)
    expected = Expected(
        steps=3,
        decay={"optimizer/sum": 0.9},
        counters=frozenset({"optimizer/sum"}),
        reached=frozenset({"model/parameters"}),
    )
    tensors = [
        TensorData(
            path=path, dtype=dtype, shape=(count,), data=memoryview(rng.bytes(DTYPE_BYTES[dtype] * count))
        )
        for path in ("model/w", "model/w", slot(0, "sum"), slot(0, "sum"))
    ]
    old, new, before, after = tensors
    found, (_, movement) = meter(state(old, before), state(new, after), expected=expected)
    with np.errstate(all="ignore"):
        exact = math.sqrt(squared_distance(new, old))
    assert movement.moved["model/parameters"] == pytest.approx(exact, rel=1e-5)
    assert np.isfinite(found.sketches["model/parameters"][-1]).all()


def test_a_counter_that_becomes_no_number_hides_the_growth_of_no_other() -> None:
    before, after = np.zeros(65 * ROW), np.zeros(65 * ROW)
    after[5], after[-1] = math.nan, 7.0
    path = slot(0, "step")
    expected = Expected(counters=frozenset({"optimizer/step"}))
    for values, grown in ((after, math.inf), (np.nan_to_num(after), 7.0), (-np.nan_to_num(after), 0.0)):
        _, (_, movement) = meter(state(tensor(path, before)), state(tensor(path, values)), expected=expected)
        assert movement.grown == {"optimizer/step": grown}


def test_still_means_equal_bits_of_every_parameter() -> None:
    w, mean = tensor("model/w", [1.0, 0.0]), tensor("model/mean", [1.0])
    cases = [
        (state(w, mean), True),
        (state(w, tensor("model/mean", [2.0])), True),  # buffers are no parameters
        (state(tensor("model/w", [1.0, -0.0]), mean), False),
        (state(tensor("model/w", [1.0, 1e-9]), mean), False),
    ]
    for after, still in cases:
        assert meter(state(w, mean), after)[1][1].still == still


def test_a_sketch_estimates_the_distance_of_any_two_states() -> None:
    rng = np.random.default_rng(3)
    points = [rng.normal(size=5000).astype("<f4") for _ in range(12)]
    found, _ = meter(*(state(tensor("model/a", p[:1500]), tensor("model/b", p[1500:])) for p in points))
    places = found.sketches["model/parameters"]
    assert [len(place) for place in places] == [DIRECTIONS] * 12
    ratios = [
        np.linalg.norm(places[i] - places[j]) / np.linalg.norm(points[i] - points[j])
        for i in range(12)
        for j in range(i)
    ]
    assert min(ratios) > 0.6
    assert max(ratios) < 1.4
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


def test_a_sketch_depends_on_the_seed_and_is_unbiased_over_seeds() -> None:
    a, b = np.zeros(3000, dtype="<f4"), np.full(3000, 0.1, dtype="<f4")
    squares = []
    for seed in range(200):
        found, _ = meter(state(tensor("model/w", a)), state(tensor("model/w", b)), seed=bytes([seed]) * 32)
        squares.append(float((found.sketches["model/parameters"][1] ** 2).sum()))
    assert len(set(squares)) == 200
    # One constant vector is the worst case for signs per row: the mean still has to be right.
    assert np.mean(squares) == pytest.approx(30.0, rel=0.1)


def test_a_sketch_is_the_documented_sum() -> None:
    rng = np.random.default_rng(4)
    change = rng.normal(size=ROW + 5).astype("<f4")
    found, _ = meter(state(tensor("model/w", np.zeros_like(change))), state(tensor("model/w", change)))
    rows = np.zeros((2, ROW))
    rows.ravel()[: len(change)] = change

    def signs(purpose: bytes, count: int) -> Any:
        bits = np.unpackbits(random_bits(SEED, purpose, count * DIRECTIONS // 8)).reshape(count, DIRECTIONS)
        return np.where(bits, 1.0, -1.0)

    expected = ((rows @ signs(b"G", ROW)) * signs(b"smodel/parameters", 2)).sum(axis=0) / 8
    assert found.sketches["model/parameters"][1] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_rows_of_a_projection_go_on_where_the_last_ended() -> None:
    rows = np.random.default_rng(5).normal(size=(300, ROW)).astype("<f4")
    whole, parts = Projection(SEED, "g"), Projection(SEED, "g")
    expected = whole.project(rows)
    assert parts.project(rows[:100]) + parts.project(rows[100:]) == pytest.approx(
        expected, rel=1e-3, abs=1e-2
    )
    whole.start()
    assert whole.project(rows) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("after", "count"),
    [
        ([0.5, 0.25], 0),
        ([0.5, 0.25 * (1 - 2.0**-52)], 0),  # a rounding
        ([0.5, 0.2], 1),
        ([0.0, 0.0], 2),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_that_fell_too_far_are_counted(after: list[float], count: int, dtype: str) -> None:
    path = slot(0, "exp_avg_sq")
    expected = Expected(steps=1, decay={"optimizer/exp_avg_sq": 0.25})
    _, (_, movement) = meter(
        state(tensor(path, [2.0, 1.0], dtype)), state(tensor(path, after, dtype)), expected=expected
    )
    assert movement.lessened == {"optimizer/exp_avg_sq": count}


def test_sums_below_the_smallest_normal_number_may_be_flushed() -> None:
    path = slot(0, "exp_avg_sq")
    expected = Expected(steps=2, decay={"optimizer/exp_avg_sq": 0.99})
    _, (_, movement) = meter(state(tensor(path, [1e-39])), state(tensor(path, [0.0])), expected=expected)
    assert movement.lessened == {"optimizer/exp_avg_sq": 0}


def test_counters_and_single_changes_are_measured_where_asked() -> None:
    before = state(
        tensor(slot(0, "step"), 4.0), tensor(slot(1, "step"), 4.0), tensor("model/w", [1.0, -3.0, 0.0])
    )
    after = state(
        tensor(slot(0, "step"), 6.0), tensor(slot(1, "step"), 9.0), tensor("model/w", [1.5, -5.0, 0.0])
    )
    expected = Expected(counters=frozenset({"optimizer/step"}), reached=frozenset({"model/parameters"}))
    _, (_, movement) = meter(before, after, expected=expected)
    assert movement.grown == {"optimizer/step": 5.0}
    assert movement.reach == {"model/parameters": (2.0, 5.0)}
    _, (_, unasked) = meter(before, after)
    assert (unasked.grown, unasked.reach, unasked.lessened) == ({}, {}, {})


def test_distance_of_two_sets_of_tensors() -> None:
    a = [tensor("model/w", [2.0] * 15), tensor("model/b", [0.0] * 3)]
    b = [tensor("model/w", [1.0] * 15), tensor("model/b", [[0.0]])]
    found = Meter(OBJECTS, seed=SEED)
    assert found.distance(a, []) == pytest.approx(math.sqrt(60))
    assert found.distance(a, b) == pytest.approx(math.sqrt(15))
    assert found.distance([tensor("model/w", [1.0] * 4)], b) == pytest.approx(2.0)
