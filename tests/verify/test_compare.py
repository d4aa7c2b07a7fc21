"""Distances between states per group."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polledger.core.state import FlatState, TensorData
from polledger.core.tolerance import GroupMeasure
from polledger.errors import UsageError
from polledger.verify import compare
from polledger.verify.compare import (
    compare_states,
    parameter_tensors,
    residual_cosine,
    same_bytes,
    squared_distance,
)
from tests.verify.build import OBJECTS, Spec, Weights, build_state, flatten


def state(**changes: Any) -> Weights:
    made = build_state(Spec())
    made.momentum = [np.ones_like(made.w), np.ones_like(made.b)]
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def measures(replayed: Weights, recorded: Weights, start: Weights) -> dict[str, GroupMeasure]:
    found = compare_states(
        replayed=flatten(replayed), recorded=flatten(recorded), start=flatten(start), objects=OBJECTS
    )
    return {measure.name: measure for measure in found.measures}


def test_groups_are_parameters_buffers_each_slot_and_scalars() -> None:
    found = measures(state(), state(), state())
    assert set(found) == {
        "model/parameters",
        "model/buffers",
        "optimizer/momentum_buffer",
        "optimizer/scalars",
    }
    assert all(measure.exact and measure.e == 0 for measure in found.values())


def test_error_and_displacement_are_l2_over_the_group() -> None:
    start = state()
    recorded = state(w=start.w + np.float32(3), b=start.b + np.float32(4))
    replayed = state(w=recorded.w, b=recorded.b + np.float32(2))
    found = measures(replayed, recorded, start)["model/parameters"]
    assert not found.exact
    assert found.strict_equal
    assert found.e == pytest.approx(2 * math.sqrt(3), rel=1e-6)
    assert found.u == pytest.approx(math.sqrt(15 * 9 + 3 * 16), rel=1e-6)


def test_difference_in_one_group_leaves_the_others_exact() -> None:
    found = measures(state(mean=np.full(5, 0.5, dtype=np.float32)), state(), state())
    assert [name for name, measure in found.items() if not measure.exact] == ["model/buffers"]


def test_an_integer_that_differs_is_not_covered_by_tolerance() -> None:
    found = measures(state(count=np.array(5)), state(), state())["model/buffers"]
    assert (found.exact, found.strict_equal) == (False, False)


def test_a_slot_that_start_lacks_is_displaced_by_its_own_norm() -> None:
    found = measures(state(), state(), state(momentum=None))["optimizer/momentum_buffer"]
    assert found.u == pytest.approx(math.sqrt(18))


def test_a_tensor_that_only_one_side_has_is_a_difference_of_structure() -> None:
    for replayed, recorded in ((state(momentum=None), state()), (state(), state(momentum=None))):
        found = measures(replayed, recorded, state())
        assert not found["optimizer/momentum_buffer"].strict_equal
        assert not found["optimizer/scalars"].strict_equal


@pytest.mark.parametrize("change", [{"w": np.zeros((3, 5), np.float32)}, {"w": np.zeros((5, 3), np.int64)}])
def test_another_shape_or_dtype_is_a_difference_of_structure(change: dict[str, Any]) -> None:
    assert not measures(state(**change), state(), state())["model/parameters"].strict_equal


def test_floats_inside_a_structure_form_their_own_group() -> None:
    found = measures(state(lr=0.2), state(lr=0.1), state(lr=0.05))["optimizer/scalars"]
    assert (found.exact, found.strict_equal) == (False, True)
    assert found.e == pytest.approx(0.1)
    assert found.u == pytest.approx(0.05)


def test_values_that_are_not_finite_count_nothing_where_bits_are_equal() -> None:
    w = state().w.copy()
    w[0, 0] = np.nan
    w[0, 1] = np.inf
    found = measures(state(w=w, b=np.ones(3, np.float32)), state(w=w), state(w=w))["model/parameters"]
    assert found.e == pytest.approx(math.sqrt(3))
    assert found.u == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_difference_that_is_not_finite_is_infinite(bad: float) -> None:
    w = state().w.copy()
    w[0, 0] = bad
    found = measures(state(w=w), state(), state())["model/parameters"]
    assert found.e == math.inf
    assert measures(state(), state(w=w), state())["model/parameters"].u == math.inf


def test_negative_zero_differs_in_bits_and_not_in_distance() -> None:
    found = measures(state(b=np.array([-0.0, 0, 0], np.float32)), state(), state())["model/parameters"]
    assert (found.exact, found.e) == (False, 0.0)


def test_worst_path_is_named() -> None:
    replayed = state(w=state().w + np.float32(1), b=state().b + np.float32(0.5))
    found = compare_states(
        replayed=flatten(replayed), recorded=flatten(state()), start=flatten(state()), objects=OBJECTS
    )
    assert found.worst == {"model/parameters": "model/w"}


def test_a_state_that_genesis_does_not_describe_cannot_be_compared() -> None:
    with pytest.raises(UsageError):
        compare_states(
            replayed=flatten(state()), recorded=flatten(state()), start=flatten(state()), objects=OBJECTS[:1]
        )


def test_noise_is_set_by_group_and_missing_where_not_measured() -> None:
    found = compare_states(
        replayed=flatten(state()), recorded=flatten(state()), start=flatten(state()), objects=OBJECTS
    ).with_noise({"model/parameters": 0.5})
    noise = {measure.name: measure.nu for measure in found.measures}
    assert noise["model/parameters"] == 0.5
    assert noise["model/buffers"] is None


def test_slices_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (np.random.default_rng(i).normal(size=1000).astype(np.float32) for i in (1, 2))
    left, right = (
        TensorData(path="x", dtype="float32", shape=(1000,), data=memoryview(item.tobytes()))
        for item in (a, b)
    )
    whole = squared_distance(left, right)
    monkeypatch.setattr(compare, "SLICE", 7)
    assert squared_distance(left, right) == pytest.approx(whole, rel=1e-12)
    assert whole == pytest.approx(float(((a.astype(float) - b) ** 2).sum()), rel=1e-12)


def test_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "COMPARED", 4)
    data = bytes(range(10))
    assert same_bytes(data, memoryview(data))
    assert not same_bytes(data, data[:-1])
    assert not same_bytes(data, data[:9] + b"x")
    assert same_bytes(b"", b"")


def test_parameters_are_the_floating_ones_of_modules() -> None:
    paths = [tensor.path for tensor in parameter_tensors(flatten(state()), OBJECTS)]
    assert paths == ["model/b", "model/w"]


def test_without_a_module_every_floating_tensor_is_a_parameter() -> None:
    objects = [replace_kind(item) for item in OBJECTS]
    paths = [tensor.path for tensor in parameter_tensors(flatten(state()), objects)]
    assert "model/w" in paths
    assert "model/count" not in paths


def replace_kind(item: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(item, kind="other", buffers=msgspec.UNSET)


def cosine(found: Weights, replayed: Weights, start: Weights, final: Weights) -> float:
    flats = [flatten(item) for item in (found, replayed, start, final)]
    return residual_cosine(found=flats[0], replayed=flats[1], start=flats[2], final=flats[3], objects=OBJECTS)


def test_residual_towards_the_final_model_has_cosine_one() -> None:
    base = state()
    final = state(w=base.w + np.float32(8))
    biased = state(w=base.w + np.float32(0.25))
    assert cosine(biased, base, base, final) == pytest.approx(1.0)
    assert cosine(state(w=base.w - np.float32(0.25)), base, base, final) == pytest.approx(-1.0)


def test_residual_of_nothing_has_cosine_zero() -> None:
    base = state()
    assert cosine(base, base, base, state(w=base.w + np.float32(8))) == 0.0
    assert cosine(state(w=base.w + np.float32(1)), base, base, base) == 0.0


def test_residual_at_a_right_angle_has_cosine_zero() -> None:
    base = state()
    final = state(w=base.w + np.float32(8))
    assert cosine(state(b=base.b + np.float32(1)), base, base, final) == pytest.approx(0.0)


def test_empty_tensors_have_no_distance() -> None:
    empty = TensorData(path="x", dtype="float32", shape=(0,), data=memoryview(b""))
    assert squared_distance(empty, replace(empty)) == 0.0
    assert FlatState(skeletons=[], tensors=[empty]).tensors == [empty]
