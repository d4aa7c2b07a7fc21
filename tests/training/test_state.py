"""Objects to a flat state and back: paths, kinds, and loading that does not let anything slip."""

from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polledger.core.published import file_root, model_root
from polledger.core.state import FlatState, encode_state, parse_state
from polledger.errors import EnvironmentMismatch, UsageError
from polledger.training.state import describe_objects, first_difference, flatten_objects, load_objects


class Holder:
    """An object that keeps whatever it is given."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def state_dict(self) -> Any:
        return self.values

    def load_state_dict(self, values: Any) -> None:
        self.values = values


class Buffered(nn.Module):
    """One parameter, one persistent and two other buffers, one of them not there yet."""

    late: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("hidden", torch.zeros(3), persistent=False)
        self.register_buffer("late", None, persistent=False)
        self.inner = nn.BatchNorm1d(2)


def paths(flat: FlatState) -> list[str]:
    return [tensor.path for tensor in flat.tensors]


def through_bytes(flat: FlatState) -> FlatState:
    encoded = encode_state(flat)
    return parse_state(b"".join(bytes(part) for part in encoded.chunks()), root=encoded.root)


def test_paths_name_object_key_slot_and_place() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    flat = flatten_objects({"model": model, "opt": optimizer, "a/b": Holder({"x": [torch.ones(1)]})})
    assert paths(flat) == [
        "a~1b/x/0",
        "model/bias",
        "model/weight",
        "opt/state/#0/exp_avg",
        "opt/state/#0/exp_avg_sq",
        "opt/state/#0/step",
        "opt/state/#1/exp_avg",
        "opt/state/#1/exp_avg_sq",
        "opt/state/#1/step",
    ]


def test_slots_lie_in_memory_as_their_parameters_do() -> None:
    def build() -> dict[str, Any]:
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)}

    def train(objects: dict[str, Any], seed: int) -> None:
        torch.manual_seed(seed)
        objects["optimizer"].zero_grad()
        objects["model"](torch.randn(2, 3, 8, 8)).square().sum().backward()
        objects["optimizer"].step()

    one, other = build(), build()
    train(one, 1)
    load_objects(other, through_bytes(flatten_objects(one)))
    for objects in (one, other):
        train(objects, 2)
    assert first_difference(flatten_objects(one), flatten_objects(other)) is None


def test_buffers_outside_the_state_dict_are_part_of_the_state() -> None:
    flat = flatten_objects({"model": Buffered()})
    assert "model/#0/hidden" in paths(flat)
    assert "model/mean" in paths(flat)


def test_parameters_that_a_state_dict_leaves_out_are_part_of_the_state() -> None:
    class Partial(nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return {"bias": self.bias.detach()}

        def load_state_dict(self, values: Any, *args: Any, **kwargs: Any) -> None:
            self.bias.data.copy_(values["bias"])

    model, fresh = Partial(2, 1), Partial(2, 1)
    flat = through_bytes(flatten_objects({"model": model}))
    assert paths(flat) == ["model/#0/weight", "model/bias"]
    load_objects({"model": fresh}, flat)
    assert torch.equal(fresh.weight, model.weight)


def test_description_lists_kinds_and_buffers_in_order() -> None:
    model = Buffered()
    objects = {"model": model, "opt": torch.optim.SGD(model.parameters()), "a": Holder(1)}
    found = describe_objects(objects)
    assert [(item.name, item.kind) for item in found] == [
        ("a", "other"),
        ("model", "module"),
        ("opt", "optimizer"),
    ]
    assert found[1].buffers == [
        "model/#0/hidden",
        "model/inner.num_batches_tracked",
        "model/inner.running_mean",
        "model/inner.running_var",
        "model/mean",
    ]


def test_tied_tensors_appear_under_each_name_and_share_data() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    flat = flatten_objects({"model": model})
    found = {tensor.path: tensor.data for tensor in flat.tensors}
    assert found["model/0.weight"] is found["model/1.weight"]
    assert found["model/0.bias"] is not found["model/1.bias"]
    fresh = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    fresh[1].weight = fresh[0].weight
    load_objects({"model": fresh}, through_bytes(flat))
    assert fresh[1].weight is fresh[0].weight
    assert torch.equal(fresh[0].weight, model[0].weight)


def test_views_of_one_storage_with_other_shapes_do_not_share_data() -> None:
    base = torch.arange(6, dtype=torch.uint8)
    flat = flatten_objects(
        {"h": Holder({"a": base, "b": base[:3], "c": base.view(2, 3), "d": base.view(2, 3).T[0]})}
    )
    assert [bytes(tensor.data) for tensor in flat.tensors] == [
        bytes(range(6)),
        b"\0\1\2",
        bytes(range(6)),
        b"\0\3"[:2],
    ]


def test_conjugate_view_is_not_taken_for_the_tensor_itself() -> None:
    value = torch.tensor([1 + 2j])
    flat = flatten_objects({"h": Holder({"a": value, "b": value.conj()})})
    assert bytes(flat.tensors[0].data) != bytes(flat.tensors[1].data)


def test_data_are_views_of_live_tensors() -> None:
    value = torch.zeros(2, dtype=torch.uint8)
    flat = flatten_objects({"h": Holder({"a": value})})
    value += 5
    assert bytes(flat.tensors[0].data) == b"\5\5"


def test_gradients_do_not_change_the_state() -> None:
    model = nn.Linear(2, 1)
    before = encode_state(flatten_objects({"model": model})).root
    model(torch.ones(2)).sum().backward()
    assert encode_state(flatten_objects({"model": model})).root == before


def test_state_does_not_depend_on_memory_layout() -> None:
    value = torch.arange(6.0).view(2, 3)
    transposed = value.T.contiguous().T
    roots = {encode_state(flatten_objects({"h": Holder({"a": item})})).root for item in (value, transposed)}
    assert len(roots) == 1


def test_plain_containers_stand_for_themselves() -> None:
    model = nn.Linear(2, 1)
    loaded = dict(model.state_dict())
    one = model_root(flatten_objects({"model": loaded}), "model")
    assert one == model_root(flatten_objects({"model": model}), "model")


def test_model_root_is_that_of_its_file() -> None:
    model = Buffered()
    flat = flatten_objects({"model": model})
    saved = flatten_objects({"model": dict(model.state_dict())})
    tensors = [
        type(tensor)(
            path=tensor.path.removeprefix("model/"), dtype=tensor.dtype, shape=tensor.shape, data=tensor.data
        )
        for tensor in saved.tensors
    ]
    assert model_root(flat, "model") == file_root(tensors)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "h/a/0: "),
        (np.zeros(2), "h/a/0: .*ndarray"),
        (lambda: 0, "h/a/0: .*function"),
        (torch.eye(2).to_sparse(), "h/a/0: "),
        (torch.zeros(1, device="meta"), "h/a/0: .*meta"),
        (nn.UninitializedParameter(), "h/a/0: .*lazy"),
        (1 + 2j, "h/a/0: .*complex"),
        (np.complex64(1), "h/a/0: .*complex"),
    ],
)
def test_what_cannot_be_recorded_is_named_by_path(value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        flatten_objects({"h": Holder({"a": [value]})})


Pair = namedtuple("Pair", "one two")


def test_types_that_the_encoding_does_not_know_come_back_from_the_fresh_object() -> None:
    def make(k: int) -> dict[str, Any]:
        return {
            "z-first": np.float32(k),
            "count": Counter({3: k}),
            "order": OrderedDict(b=k, a=k),
            "default": defaultdict(list, {"x": [k]}),
            "pair": Pair(k, np.int8(k)),
            "list": [np.float64(k), (k, Counter(a=k))],
            "flag": np.bool_(k == 1),
        }

    fresh = Holder(make(2))
    load_objects({"h": fresh}, through_bytes(flatten_objects({"h": Holder(make(1))})))
    assert fresh.values == make(1)
    assert repr(fresh.values) == repr(make(1))
    assert list(fresh.values) == list(make(1))


def test_buffer_that_was_made_while_training_is_restored() -> None:
    model, fresh = Buffered(), Buffered()
    model.late = torch.tensor([1.0, 2.0])
    model.hidden = torch.ones(5)
    load_objects({"model": fresh}, through_bytes(flatten_objects({"model": model})))
    assert fresh.late is not None
    assert fresh.late.tolist() == [1.0, 2.0]
    assert fresh.hidden.tolist() == [1.0] * 5


class Extra(nn.Linear):
    """Keeps more than tensors in its state dict."""

    note: Any = None

    def get_extra_state(self) -> Any:
        return {"note": self.note}

    def set_extra_state(self, state: Any) -> None:
        self.note = state["note"]


def test_extra_state_of_a_module_is_restored() -> None:
    model, fresh = Extra(1, 1), Extra(1, 1)
    model.note = [torch.ones(1), "text"]
    load_objects({"model": fresh}, through_bytes(flatten_objects({"model": model})))
    assert fresh.note[1] == "text"
    assert fresh.note[0].tolist() == [1.0]


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


class Forgetful(Holder):
    """Does not restore what it saved."""

    def load_state_dict(self, values: Any) -> None:
        self.values = {**values, "count": 0}


class Stubborn(Holder):
    """Keeps its old tensors."""

    def load_state_dict(self, values: Any) -> None:
        return


class Failing(Holder):
    """Cannot load what it did not make itself."""

    def load_state_dict(self, values: Any) -> None:
        self.values = values["missing"]


def two_groups(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [parameter]} for parameter in model.parameters()], lr=0.1)


def module_without_bias() -> nn.Module:
    return nn.Linear(2, 1, bias=False)


MISFITS: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], dict[str, Any]], str]] = {
    "object-missing": (lambda: {"a": Holder(1), "b": Holder(1)}, lambda: {"a": Holder(1)}, "b is not built"),
    "object-added": (lambda: {"a": Holder(1)}, lambda: {"a": Holder(1), "b": Holder(1)}, "b is not in"),
    "parameter-missing": (
        lambda: {"m": nn.Linear(2, 1)},
        lambda: {"m": module_without_bias()},
        "^m/bias: recorded",
    ),
    "parameter-added": (
        lambda: {"m": module_without_bias()},
        lambda: {"m": nn.Linear(2, 1)},
        "^m/bias: built",
    ),
    "shape": (
        lambda: {"m": nn.Linear(2, 1)},
        lambda: {"m": nn.Linear(3, 1)},
        r"^m/weight: .*\[1, 2\].*\[1, 3\]",
    ),
    "dtype": (
        lambda: {"m": nn.Linear(2, 1)},
        lambda: {"m": nn.Linear(2, 1).double()},
        "^m/bias: .*float32.*float64",
    ),
    "groups": (
        lambda: {"o": two_groups(nn.Linear(2, 1))},
        lambda: {"o": sgd(nn.Linear(2, 1))},
        "^o/param_groups",
    ),
    "not-an-optimizer": (
        lambda: {"o": Holder({"x": 1})},
        lambda: {"o": sgd(nn.Linear(2, 1))},
        "^o: cannot be loaded",
    ),
    "fails-to-load": (
        lambda: {"h": Holder({"x": 1})},
        lambda: {"h": Failing({"x": 0})},
        "^h: cannot be loaded: Key",
    ),
    "forgets": (
        lambda: {"h": Holder({"count": 3})},
        lambda: {"h": Forgetful({"count": 3})},
        "^h/count: differs",
    ),
    "keeps-old-tensor": (
        lambda: {"h": Holder({"x": torch.ones(1)})},
        lambda: {"h": Stubborn({"x": torch.zeros(1)})},
        "^h/x: differs",
    ),
    "keeps-old-type": (
        lambda: {"h": Holder({"x": torch.ones(1)})},
        lambda: {"h": Stubborn({"x": torch.ones(1, dtype=torch.int32)})},
        "^h/x: differs",
    ),
    "empty-container": (lambda: {"h": Holder({"x": []})}, lambda: {"h": Stubborn({"x": {}})}, "^h: differs"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_state_that_does_not_fit_is_refused_and_the_path_named(name: str) -> None:
    record, build, message = MISFITS[name]
    flat = through_bytes(flatten_objects(record()))
    with pytest.raises(EnvironmentMismatch, match=message):
        load_objects(build(), flat)


def test_first_difference_is_none_for_equal_states_only() -> None:
    one = flatten_objects({"h": Holder({"x": torch.tensor([float("nan")]), "y": float("nan"), "z": ()})})
    assert first_difference(one, one) is None
    other = flatten_objects({"h": Holder({"x": torch.tensor([-float("nan")]), "y": float("nan"), "z": ()})})
    assert first_difference(one, other) == "h/x"


def test_first_difference_names_objects_and_scalars() -> None:
    one, other = (flatten_objects({"a": Holder(1), "h": Holder({"x": 1, "y": k})}) for k in (1, 2))
    fewer = flatten_objects({"a": Holder(1)})
    assert first_difference(one, other) == "h/y"
    assert first_difference(one, fewer) == "the number of objects"
    assert first_difference(fewer, flatten_objects({"b": Holder(1)})) == "a"


def test_other_objects_are_loaded_after_optimizers_and_modules() -> None:
    class Watching(Holder):
        """Looks at what it belongs to while it is loaded, as schedules may."""

        def load_state_dict(self, values: Any) -> None:
            self.values = values
            found.extend([optimizer.param_groups[0]["lr"], model.weight.item()])

    found: list[float] = []
    model = nn.Linear(1, 1)
    optimizer = sgd(model)
    objects = {"a": Watching({}), "model": model, "z": optimizer}
    nn.init.constant_(model.weight, 5.0)
    optimizer.param_groups[0]["lr"] = 7.0
    flat = through_bytes(flatten_objects(objects))
    nn.init.constant_(model.weight, 0.0)
    optimizer.param_groups[0]["lr"] = 0.0
    load_objects(objects, flat)
    assert found == [7.0, 5.0]


def test_loading_leaves_the_recorded_bytes_alone() -> None:
    data = bytearray(4)
    flat = flatten_objects({"h": Holder({"x": torch.zeros(4, dtype=torch.uint8)})})
    kept = type(flat.tensors[0])(path="h/x", dtype="uint8", shape=(4,), data=memoryview(data))
    fresh = Holder({"x": torch.ones(4, dtype=torch.uint8)})
    load_objects({"h": fresh}, FlatState(skeletons=flat.skeletons, tensors=[kept]))
    fresh.values["x"] += 1
    assert data == bytes(4)
