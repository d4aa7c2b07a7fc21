"""What a module carries besides tensors: recorded where it changed, restored where a replay begins."""

from typing import Any

import pytest
import torch
from torch import nn

from polledger.core.published import model_root
from polledger.core.state import encode_state, parse_state
from polledger.errors import EnvironmentMismatch
from polledger.training.attributes import (
    ATTRIBUTES_KEY,
    TRAINS_KEY,
    changed_traits,
    restore_traits,
    traits_of,
)
from polledger.training.state import flatten_objects, load_objects, traits_of_objects


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        self.head = nn.Linear(2, 1)
        self.calls = 0
        self.mode: Any = ("warm", 1, None)
        self.history: list[float] = []
        self._hidden = 0


def test_a_module_as_it_was_built_adds_nothing() -> None:
    net = Net()
    assert changed_traits(net, traits_of(net)) == {}
    built = traits_of_objects({"model": net})
    plain, traced = flatten_objects({"model": net}), flatten_objects({"model": net}, built)
    assert encode_state(plain).root == encode_state(traced).root


def test_only_what_changed_is_recorded() -> None:
    net = Net()
    built = traits_of(net)
    net.body[1].p = 0.25
    net.calls = True  # 1 would be another value than True, and 0 than False
    net.mode = ("warm", 1, 0)
    net.head.weight.requires_grad_(False)
    net.history.append(1.0)
    net._hidden = 3
    net.eval()
    assert changed_traits(net, built) == {
        ATTRIBUTES_KEY: {"body.1.p": 0.25, "calls": True, "mode": ("warm", 1, 0)},
        TRAINS_KEY: {"head.weight": False},
    }


def test_changes_travel_through_a_state_file() -> None:
    net = Net()
    built = traits_of_objects({"model": net})
    net.body[1].p, net.late = 0.125, float("inf")
    net.body[0].bias.requires_grad_(False)
    encoded = encode_state(flatten_objects({"model": net}, built))
    flat = parse_state(b"".join(bytes(part) for part in encoded.chunks()), root=encoded.root)
    fresh = Net()
    load_objects({"model": fresh}, flat, traits_of_objects({"model": fresh}))
    assert (fresh.body[1].p, fresh.late) == (0.125, float("inf"))
    assert [p.requires_grad for p in fresh.body.parameters()] == [True, False]
    assert torch.equal(fresh.head.weight, net.head.weight)


def test_the_published_model_is_its_state_dict_whatever_else_changed() -> None:
    net = Net()
    built = traits_of_objects({"model": net})
    before = model_root(flatten_objects({"model": net}, built), "model")
    net.body[1].p = 0.1
    net.head.requires_grad_(False)
    flat = flatten_objects({"model": net}, built)
    assert any("#1" in str(entry.structure) for entry in flat.skeletons)
    assert model_root(flat, "model") == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({ATTRIBUTES_KEY: {"absent.p": 1}}, "absent.p"),
        ({TRAINS_KEY: {"head.nothing": True}}, "head.nothing"),
    ],
)
def test_a_change_without_a_place_is_named(changes: dict[int, dict[str, Any]], said: str) -> None:
    with pytest.raises(EnvironmentMismatch, match=said):
        restore_traits(Net(), changes, "model")


def _nested(depth: int) -> tuple[Any, ...]:
    value: tuple[Any, ...] = ()
    for _ in range(depth - 1):
        value = (value,)
    return value


@pytest.mark.parametrize(
    ("kept", "left_out"),
    [
        (10**1024 - 1, 10**1024),
        (-(10**1024 - 1), 10**5000),
        ("\u00e9", "e\u0301"),
        ("\u20ac", "\ud800"),
        (("\u00e9", 1), ("e\u0301", 1)),
        (_nested(14), _nested(15)),
        (1, _nested(5000)),
    ],
    ids=["digits", "many digits", "accent", "surrogate", "in a tuple", "nested", "linked"],
)
def test_what_no_record_can_hold_is_left_out(kept: Any, left_out: Any) -> None:
    net = Net()
    built = traits_of_objects({"model": net})
    net.kept, net.body[1].other = kept, left_out
    found = changed_traits(net, built["model"])
    assert found == {ATTRIBUTES_KEY: {"kept": kept}}
    encoded = encode_state(flatten_objects({"model": net}, built))
    assert parse_state(b"".join(bytes(part) for part in encoded.chunks()), root=encoded.root)
