"""Distances for comparison with the literature, and the estimate of d_ref from one model."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from polledger.core.records import StateObject
from polledger.core.state import FlatState, TensorData
from polledger.errors import UsageError
from polledger.verify import compare
from polledger.verify.distances import measure_distances, reference_distances
from tests.verify.build import OBJECTS, Spec, build_state, flatten

MODEL = next(item for item in OBJECTS if item.name == "model")


def tensor(path: str, values: Any, dtype: str = "float32") -> TensorData:
    array = np.asarray(values, dtype=dtype)
    return TensorData(path=path, dtype=dtype, shape=array.shape, data=memoryview(array.tobytes()).cast("B"))


def flat(*tensors: TensorData) -> FlatState:
    return FlatState(skeletons=[], tensors=list(tensors))


def measured(ours: FlatState, theirs: FlatState, **references: float) -> dict[str, Any]:
    named = {f"model/{name}": value for name, value in references.items()}
    return measure_distances(replayed=ours, recorded=theirs, objects=[MODEL], references=named)


def test_every_distance_is_taken_over_the_whole_group() -> None:
    ours = flat(tensor("model/a", [3.0, 0.0]), tensor("model/b", [0.0, 4.0]))
    theirs = flat(tensor("model/a", [3.0, 1.0]), tensor("model/b", [-2.0, 2.0]))
    found = measured(ours, theirs, parameters=6.0)["model/parameters"]
    assert (found.l1, found.l2, found.linf) == (5.0, 3.0, 2.0)
    assert found.cosine == pytest.approx(1 - (9 + 8) / (5 * math.sqrt(9 + 1 + 4 + 4)))
    assert found.worst == "model/b"
    assert (found.reference, found.normalised) == (6.0, 0.5)


def test_a_tensor_that_is_equal_counts_for_the_cosine() -> None:
    same = tensor("model/a", [100.0, 100.0])
    alone = measured(flat(tensor("model/b", [1.0, 0.0])), flat(tensor("model/b", [0.0, 1.0])))
    beside = measured(flat(same, tensor("model/b", [1.0, 0.0])), flat(same, tensor("model/b", [0.0, 1.0])))
    assert alone["model/parameters"].cosine == pytest.approx(1.0)
    assert beside["model/parameters"].cosine == pytest.approx(1 / 20001)
    assert beside["model/parameters"].l2 == pytest.approx(math.sqrt(2))


def test_only_groups_that_differ_are_listed() -> None:
    ours, theirs = build_state(Spec()), build_state(Spec())
    theirs.mean = theirs.mean + np.float32(1)
    found = measure_distances(
        replayed=flatten(ours), recorded=flatten(theirs), objects=OBJECTS, references={}
    )
    assert set(found) == {"model/buffers"}
    assert found["model/buffers"].reference is None
    assert found["model/buffers"].normalised is None


def test_integers_and_other_forms_have_no_distance() -> None:
    ours = flat(tensor("model/n", [1], "int64"), tensor("model/a", [1.0]), tensor("model/b", [1.0]))
    theirs = flat(tensor("model/n", [2], "int64"), tensor("model/a", [1.0, 2.0]))
    assert measured(ours, theirs) == {}


def test_slices_do_not_change_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    ours, theirs = (flat(tensor("model/a", generator.normal(size=100))) for _ in range(2))
    whole = measured(ours, theirs)["model/parameters"]
    monkeypatch.setattr(compare, "SLICE", 7)
    cut = measured(ours, theirs)["model/parameters"]
    assert cut.l1 == pytest.approx(whole.l1)
    assert cut.cosine == pytest.approx(whole.cosine)
    assert cut.linf == whole.linf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_told_and_never_raises(bad: float) -> None:
    found = measured(flat(tensor("model/a", [bad, 0.0])), flat(tensor("model/a", [1.0, 0.0])))
    assert not math.isfinite(found["model/parameters"].l2)
    assert found["model/parameters"].worst == "model/a"
    # Never "parallel" or "no error" for what cannot be told.
    assert not math.isfinite(found["model/parameters"].linf)
    assert math.isnan(found["model/parameters"].cosine)


def test_what_is_not_finite_stays_so_in_the_other_tensors_and_in_d_ref() -> None:
    ours = flat(tensor("model/a", [math.nan]), tensor("model/b", [1.0]))
    found = measured(ours, flat(tensor("model/a", [1.0]), tensor("model/b", [2.0])))["model/parameters"]
    assert math.isnan(found.linf)
    assert math.isnan(reference_distances(ours, [MODEL])["model/parameters"])


def test_a_state_of_zeros_has_no_direction() -> None:
    found = measured(flat(tensor("model/a", [0.0])), flat(tensor("model/a", [1.0])))["model/parameters"]
    assert math.isnan(found.cosine)
    signs = measured(flat(tensor("model/a", [0.0])), flat(tensor("model/a", [-0.0])))["model/parameters"]
    assert signs.cosine == 0.0


def test_d_ref_of_independent_draws_is_estimated_from_one() -> None:
    generator = np.random.default_rng(11)

    def draw() -> FlatState:
        scale = tensor("model/a", 1 + 0.1 * generator.normal(size=20_000))
        return flat(scale, tensor("model/b", generator.normal(size=20_000)))

    one, other = draw(), draw()
    real = measured(one, other)["model/parameters"].l2
    # 40,000 numbers: both scatter by less than 1 %.
    assert reference_distances(one, [MODEL])["model/parameters"] == pytest.approx(real, rel=0.05)


def test_d_ref_is_for_parameters_only() -> None:
    assert set(reference_distances(flatten(build_state(Spec())), OBJECTS)) == {"model/parameters"}


def test_d_ref_of_single_numbers_is_zero() -> None:
    assert reference_distances(flat(tensor("model/a", 5.0)), [MODEL]) == {"model/parameters": 0.0}


def test_a_tensor_of_no_object_is_a_usage_error() -> None:
    stranger: StateObject = msgspec.structs.replace(MODEL, name="other")
    with pytest.raises(UsageError):
        reference_distances(flat(tensor("model/a", [1.0])), [stranger])
