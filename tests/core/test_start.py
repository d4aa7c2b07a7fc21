"""The first state of a run that starts from another model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polledger.core.encoding import real
from polledger.core.start import file_tensors, model_tensors, start_from
from polledger.core.state import FlatState, SkeletonEntry, TensorData
from polledger.errors import UsageError


def tensor(path: str, *values: float, shape: tuple[int, ...] | None = None) -> TensorData:
    data = np.array(values, dtype="<f4")
    shape = (len(values),) if shape is None else shape
    return TensorData(path=path, dtype="float32", shape=shape, data=memoryview(data.tobytes()))


def state(*, prefix: str = "", value: float = 0.0, more: tuple[str, ...] = ()) -> FlatState:
    """A model of two tensors and one that its ``state_dict`` leaves out, an optimizer, and objects like the model."""
    skeletons, tensors = [], []
    for name in ("model", *more):
        pairs: list[Any] = [[f"{prefix}{key}", ["tensor", f"{name}/{prefix}{key}"]] for key in ("b", "w")]
        outside = f"{name}/#0/mask"
        structure = ["map", [["#0", ["map", [["mask", ["tensor", outside]]]]], *pairs]]
        skeletons.append(SkeletonEntry(v=1, path=name, structure=structure))
        tensors += [tensor(f"{name}/{prefix}b", value), tensor(f"{name}/{prefix}w", value, value + 1)]
        tensors.append(tensor(outside, 9.0))
    optimizer = ["map", [["lr", ["float", real(0.1)]], ["slot", ["tensor", "optimizer/slot"]]]]
    skeletons.append(SkeletonEntry(v=1, path="optimizer", structure=optimizer))
    tensors.append(tensor("optimizer/slot", 3.0))
    return FlatState(skeletons=skeletons, tensors=tensors)


def values(flat: FlatState) -> dict[str, list[float]]:
    return {item.path: np.frombuffer(item.data, "<f4").tolist() for item in flat.tensors}


OTHER = file_tensors([tensor("b", 5.0), tensor("w", 6.0, 7.0)])


def test_a_model_takes_every_tensor_and_nothing_else_changes() -> None:
    built = state()
    found = start_from(built, OTHER)
    assert found.skeletons == built.skeletons
    assert values(found) == {
        **values(built),
        "model/b": [5.0],
        "model/w": [6.0, 7.0],
    }


def test_fresh_names_keep_the_value_of_the_seed_and_need_no_counterpart() -> None:
    source = file_tensors([tensor("w", 6.0, 7.0), tensor("old", 1.0)])
    assert values(start_from(state(), source, fresh=["b", "old"]))["model/b"] == [0.0]


def test_a_start_of_which_nothing_is_taken_is_none() -> None:
    with pytest.raises(UsageError, match="nothing would be taken"):
        start_from(state(), OTHER, fresh=["b", "w"])
    assert values(start_from(state(), OTHER, fresh=["b"]))["model/w"] == [6.0, 7.0]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([tensor("w", 6.0, 7.0)], "b of the model is not in what it starts from"),
        ([tensor("a", 1.0), tensor("b", 5.0), tensor("w", 6.0, 7.0)], "a has no place in the model"),
        ([tensor("b", 5.0, 5.0), tensor("w", 6.0)], r"b is float32 \[1\] in the model, float32 \[2\] in"),
        ([replace(tensor("b", 5.0), dtype="int32"), tensor("w", 6.0, 7.0)], r"float32 \[1\] .* int32 \[1\]"),
    ],
    ids=["missing", "left over", "shape", "dtype"],
)
def test_the_first_tensor_that_does_not_fit_is_named(source: list[TensorData], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        start_from(state(), file_tensors(source))


def test_prefixes_that_wrappers_add_are_left_out_on_both_sides() -> None:
    built = state(prefix="_orig_mod.")
    source = file_tensors([tensor("module.b", 5.0), tensor("module.w", 6.0, 7.0)])
    assert values(start_from(built, source))["model/_orig_mod.w"] == [6.0, 7.0]
    assert model_tensors(built, "model").keys() == {"b", "w"}


def test_a_copy_of_the_model_stays_one_and_another_object_stays_as_built() -> None:
    built = state(more=("ema",))
    other = state(value=2.0, more=())
    twin = [replace(item, path=item.path.replace("model/", "rival/")) for item in other.tensors[:3]]
    structure = [["b", ["tensor", "rival/b"]], ["w", ["tensor", "rival/w"]]]
    skeleton = SkeletonEntry(v=1, path="rival", structure=["map", structure])
    both = FlatState(skeletons=[*built.skeletons, skeleton], tensors=[*built.tensors, *twin[:2]])
    found = values(start_from(both, OTHER))
    assert (found["ema/w"], found["model/w"], found["rival/w"]) == ([6.0, 7.0], [6.0, 7.0], [2.0, 3.0])
    assert found["ema/#0/mask"] == [9.0]


def test_a_copy_is_one_to_its_last_byte() -> None:
    built = state(more=("ema",))
    changed = [tensor("ema/w", 0.0, 1.5) if item.path == "ema/w" else item for item in built.tensors]
    found = values(start_from(FlatState(skeletons=built.skeletons, tensors=changed), OTHER))
    assert found["ema/w"] == [0.0, 1.5]


def test_what_is_no_tensor_starts_nothing() -> None:
    pairs = [["extra", ["str", "x"]], ["w", ["tensor", "model/w"]]]
    flat = FlatState(
        skeletons=[SkeletonEntry(v=1, path="model", structure=["map", pairs])], tensors=[tensor("model/w", 1)]
    )
    with pytest.raises(UsageError, match="extra of 'model' is no tensor"):
        model_tensors(flat, "model")
    with pytest.raises(UsageError, match="no object 'other'"):
        model_tensors(flat, "other")
