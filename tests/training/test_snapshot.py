"""Copies of live states: of what lies on the CPU and of what does not."""

import mmap

import numpy as np
import pytest
import torch

from polledger.core.state import FlatState, encode_state
from polledger.training.snapshot import Arena, FarTensor, LiveState
from polledger.training.state import flatten_objects, live_objects

VALUES = {
    "a": torch.arange(24.0).reshape(4, 6),
    "turned": torch.arange(24.0).reshape(4, 6).t(),
    "every other": torch.arange(20.0)[::2],
    "one": torch.tensor(3.5, dtype=torch.float64),
    "half": torch.arange(5, dtype=torch.bfloat16),
    "conjugate": torch.complex(torch.arange(3.0), torch.ones(3)).conj(),
    "negative": torch.complex(torch.arange(3.0), torch.ones(3)).conj().imag,
    "flags": torch.tensor([True, False, True]),
    "stride": torch.arange(6.0)[::3][:1],
}


def flat(values: dict[str, torch.Tensor]) -> FlatState:
    return flatten_objects({"m": values})


def far_of(values: dict[str, torch.Tensor]) -> LiveState:
    """``values`` as if they lay elsewhere: copied the same way, by a device that is the CPU."""
    taken = flat(values)
    return LiveState(
        near=FlatState(skeletons=taken.skeletons, tensors=[]),
        far=[
            FarTensor(path=item.path, dtype=item.dtype, shape=item.shape, data=tensor)
            for item, tensor in zip(taken.tensors, (values[name] for name in sorted(values)), strict=True)
        ],
    )


def test_what_lies_elsewhere_is_copied_as_its_canonical_bytes() -> None:
    copy = Arena().copy(far_of(VALUES))
    copy.wait()
    assert encode_state(copy.state).root == encode_state(flat(VALUES)).root


def test_near_and_far_are_one_state_and_what_was_shared_is() -> None:
    shared = torch.arange(7.0)
    all_of_it = flat({"a": shared, "b": shared, "c": torch.ones(2), "d": torch.empty(0)})
    by_path = {item.path: item for item in all_of_it.tensors}
    far = [
        FarTensor(path=path, dtype=by_path[path].dtype, shape=by_path[path].shape, data=shared)
        for path in ("m/a", "m/b")
    ]
    near = FlatState(skeletons=all_of_it.skeletons, tensors=[by_path["m/c"], by_path["m/d"]])
    arena = Arena()
    copy = arena.copy(LiveState(near=near, far=far))
    shared.zero_()
    data = {item.path: item.data for item in copy.state.tensors}
    assert data["m/a"] is data["m/b"]
    assert bytes(data["m/a"]) == np.arange(7, dtype=np.float32).tobytes()
    assert bytes(data["m/c"]) == np.ones(2, np.float32).tobytes()
    assert bytes(data["m/d"]) == b""
    arena.close()


def test_on_the_cpu_nothing_is_far() -> None:
    live = live_objects({"m": VALUES})
    assert live.far == []
    assert encode_state(live.near).root == encode_state(flat(VALUES)).root


LAYOUT = {
    "b": torch.arange(3.0),
    "a": torch.arange(5000.0),
    "tied": torch.arange(7000.0),
    "counter": torch.tensor(3.0),
    "another counter": torch.tensor(3.0),
    "equal": torch.arange(5000.0),
    "empty": torch.empty(0),
    "odd": torch.arange(5, dtype=torch.uint8),
    "last": torch.arange(9000.0) + 1,
}
LAYOUT["tied too"] = LAYOUT["tied"]


def mixed(values: dict[str, torch.Tensor], far: set[str]) -> LiveState:
    """``values``, those named in ``far`` as if they lay elsewhere."""
    everywhere, there = flat(values), far_of(values).far
    paths = {f"m/{name}" for name in far}
    near = [item for item in everywhere.tensors if item.path not in paths]
    return LiveState(
        near=FlatState(skeletons=everywhere.skeletons, tensors=near),
        far=[item for item in there if item.path in paths],
    )


@pytest.mark.parametrize("far", [set(), {"counter", "another counter", "b"}, {"a", "last"}])
def test_a_copy_lies_as_in_the_file_of_the_state_before(far: set[str]) -> None:
    arena = Arena()
    arena.expect(encode_state(flat(LAYOUT)))
    # Other values, as after a step; what was equal is equal again.
    values = {name: value + 1 for name, value in LAYOUT.items()}
    values["tied too"] = values["tied"]
    copy = arena.copy(mixed(values, far))
    copy.wait()
    encoded = encode_state(flat(values))
    assert encode_state(copy.state).root == encoded.root
    assert bytes(arena.memory[len(encoded.header) : encoded.size]) == b"".join(encoded.payload)


def test_what_was_equal_and_is_no_more_is_copied_as_it_is() -> None:
    arena = Arena()
    arena.expect(encode_state(flat(LAYOUT)))
    values = {**LAYOUT, "another counter": torch.tensor(4.0), "equal": torch.arange(5000.0) - 1}
    assert encode_state(arena.copy(flat(values)).state).root == encode_state(flat(values)).root


def test_memory_that_was_reserved_is_used_and_the_same_afterwards() -> None:
    arena = Arena()
    arena.reserve(100_000)
    first = np.frombuffer(arena.copy(flat(VALUES)).state.tensors[0].data, np.uint8)
    assert first.ctypes.data % mmap.PAGESIZE == 0
    arena.reserve(50_000)
    again = np.frombuffer(arena.copy(flat(VALUES)).state.tensors[0].data, np.uint8)
    assert again.ctypes.data == first.ctypes.data
    arena.close()


def test_a_copy_outlives_memory_that_was_given_back() -> None:
    arena = Arena()
    copy = arena.copy(flat(VALUES))
    arena.close()
    assert encode_state(copy.state).root == encode_state(flat(VALUES)).root


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_goes_on_and_the_copy_is_that_of_its_moment() -> None:
    values = {name: value.cuda() for name, value in VALUES.items()} | {"large": torch.randn(1 << 24).cuda()}
    expected = encode_state(flat(values)).root
    arena = Arena()
    for _ in range(3):
        live = live_objects({"m": values})
        assert len(live.far) == len(values)
        copy = arena.copy(live)
        # Launched before the copy is made, done after it.
        kept = {name: value.clone() for name, value in values.items()}
        for value in values.values():
            value.zero_()
        copy.wait()
        assert encode_state(copy.state).root == expected
        values = kept
    arena.close()
