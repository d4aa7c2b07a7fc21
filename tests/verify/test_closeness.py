"""What a file is that is not the model: in words, with the distance, and per tensor."""

import math

import numpy as np
import pytest

from polledger.core.state import FlatState, TensorData, TensorEntry, tensor_entries
from polledger.verify.closeness import Closeness, measure

RANDOM = np.random.default_rng(3)
WEIGHTS = RANDOM.standard_normal((40, 30)).astype(np.float32)
BIAS = RANDOM.standard_normal(30).astype(np.float32)
MODEL = {"w": WEIGHTS, "b": BIAS}
Tensors = dict[str, np.ndarray]


def flat(tensors: Tensors, dtypes: dict[str, str] | None = None) -> FlatState:
    found = [
        TensorData(
            path=name,
            dtype=(dtypes or {}).get(name, str(value.dtype)),
            shape=value.shape,
            data=memoryview(value.tobytes()),
        )
        for name, value in sorted(tensors.items())
    ]
    return FlatState(skeletons=[], tensors=found)


def entries(state: FlatState) -> list[TensorEntry]:
    return tensor_entries(state.tensors)


def close(file: Tensors, *, dtypes: dict[str, str] | None = None, known: bool = True) -> Closeness:
    model, other = flat(MODEL), flat(file, dtypes)
    return measure(model if known else None, entries(model), other, entries(other))


def relative(file: Tensors) -> float:
    apart = sum(float(((MODEL[name] - file[name]).astype(np.float64) ** 2).sum()) for name in MODEL)
    return math.sqrt(apart / sum(float((value.astype(np.float64) ** 2).sum()) for value in MODEL.values()))


def test_half_precision_is_a_copy_in_another_format() -> None:
    found = close({name: value.astype(np.float16) for name, value in MODEL.items()})
    assert found.sentence == "a copy in another format: the same numbers, rounded to float16"
    # One number that is not the rounded one: no copy.
    other = {name: value.astype(np.float16) for name, value in MODEL.items()}
    other["b"][3] = np.nextafter(other["b"][3], np.float16(9))
    assert "fine-tuned" in close(other).sentence


def test_bfloat16_rounds_to_nearest_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF818000], dtype=np.uint32)
    model = flat({"w": bits.view(np.float32)})
    rounded = np.array([0x3F80, 0x3F82, 0x3F81, 0xBF82], dtype=np.uint16)
    other = flat({"w": rounded}, {"w": "bfloat16"})
    found = measure(model, entries(model), other, entries(other))
    assert found.sentence.startswith("a copy in another format")


def test_zeros_are_pruning_only_where_all_else_is_equal() -> None:
    pruned = {"w": np.where(np.abs(WEIGHTS) < 0.5, np.float32(0), WEIGHTS), "b": BIAS}
    count = int((np.abs(WEIGHTS) < 0.5).sum())
    assert close(pruned).sentence == (
        f"a pruned copy: {count} of {WEIGHTS.size} numbers set to zero, all others equal"
    )
    pruned["w"][0, 0] += 1
    assert "pruned" not in close(pruned).sentence


@pytest.mark.parametrize("noise", [1e-3, 0.1])
def test_a_fine_tuned_model_is_close_by_its_relative_distance(noise: float) -> None:
    tuned = {
        name: (value + noise * RANDOM.standard_normal(value.shape)).astype(np.float32)
        for name, value in MODEL.items()
    }
    found = close(tuned)
    assert found.sentence == (
        "close to it, as a fine-tuned copy would be: relative distance "
        f"{relative(tuned):.2g} (2 tensors changed)"
    )
    [b, w] = found.differing
    assert w.detail.startswith("w: relative distance ")
    assert (b.expected, b.found) == (entries(flat(MODEL))[0].root.hex(), entries(flat(tuned))[0].root.hex())


def test_an_unrelated_model_is_far() -> None:
    other = {name: RANDOM.standard_normal(value.shape).astype(np.float32) for name, value in MODEL.items()}
    assert 1.2 < relative(other) < 1.6
    assert close(other).sentence.startswith("far from it: relative distance 1.")


def test_whole_numbers_are_a_quantised_copy_if_one_scale_fits() -> None:
    scale = float(np.abs(WEIGHTS).max()) / 127
    quantised = {"w": np.round(WEIGHTS / scale).astype(np.int8), "b": BIAS}
    assert close(quantised).sentence.startswith("a quantised copy: int8 instead of float32, within 0.0")
    noise = {"w": RANDOM.integers(-127, 127, WEIGHTS.shape, dtype=np.int8), "b": BIAS}
    assert "quantised" not in close(noise).sentence


def test_other_shapes_and_names_are_said() -> None:
    assert "1 of 2 tensors have another shape" in close({"w": WEIGHTS.T.copy(), "b": BIAS}).sentence
    found = close({"w": WEIGHTS, "more": BIAS})
    assert found.sentence == (
        "it has 1 tensor of the model missing and 1 tensor that the model does not have; the others are: "
        "the model's tensors, unchanged"
    )
    assert [one.detail for one in found.differing] == ["b: not in the file", "more: not in the model"]
    assert close({"x": BIAS}).sentence == "it has no tensor of the model's names and shapes"


def test_without_the_model_only_the_roots_are_compared() -> None:
    found = close({"w": WEIGHTS * 2, "b": BIAS}, known=False)
    assert found.sentence == "1 of 2 tensors differ; how far is known only with the run at hand"
    assert [one.detail for one in found.differing] == ["w: other bytes"]


def test_values_that_are_no_numbers_are_far() -> None:
    broken = {"w": np.full_like(WEIGHTS, np.nan), "b": BIAS}
    assert close(broken).sentence.startswith("far from it: relative distance nan")


def test_complex_numbers_against_real_ones_have_no_distance() -> None:
    found = close({"w": WEIGHTS.astype(np.complex64), "b": BIAS})
    assert found.differing[0].detail == "w: complex64 instead of float32"
    assert found.sentence.startswith("another kind of tensor")
