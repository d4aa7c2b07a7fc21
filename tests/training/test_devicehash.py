"""Roots computed on a device are those of the CPU, and where they are not, the CPU's are recorded.

The kernel runs in Triton's interpreter here. What decides about it is tried with tensors on the CPU in the place of a
GPU's, and a kernel that hashes on the CPU, rightly or wrongly.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.records import Checkpoint, parse_record
from polledger.core.state import FlatState, TensorData, encode_state, tensor_root
from polledger.store.ledger import read_ledger
from polledger.store.run import RunDirectory
from polledger.training import devicehash
from polledger.training.devicehash import DeviceHashing
from polledger.training.recording import Cadence, RunRecorder
from polledger.training.sealer import Sealer
from polledger.training.snapshot import FarTensor, LiveState
from polledger.training.state import live_objects
from polledger.training.tensors import canonical_bytes

ROOT = Path(__file__).resolve().parents[2]


def test_the_kernel_gives_the_roots_of_the_cpu() -> None:
    pytest.importorskip(
        "triton", reason="the kernel's language is not installed: it comes with torch for CUDA"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.devicehashing"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "42 roots"


def honest_roots(tensors: Sequence[torch.Tensor]) -> list[bytes]:
    return [tensor_root(memoryview(tensor.numpy())) for tensor in tensors]


class Kernel:
    """In the place of the kernel: counts its calls, and may give wrong roots from some call on."""

    def __init__(self, *, wrong: bool = False, error: str = "") -> None:
        self.calls, self.wrong, self.error = 0, wrong, error

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[bytes]:
        self.calls += 1
        if self.error:
            raise RuntimeError(self.error)
        return [bytes(32) for _ in tensors] if self.wrong else honest_roots(tensors)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devicehash, "HASHED", ("cpu",))


def far_state() -> LiveState:
    """Three tensors as if on a GPU, two of them one, and one on the CPU."""
    torch.manual_seed(0)
    shared, other = torch.randn(70_000), torch.randn(3, 5).t()
    here = live_objects({"model": {"near": torch.arange(4)}})
    far = [
        FarTensor(path=path, dtype="float32", shape=tuple(tensor.shape), data=tensor)
        for path, tensor in (("model/a", shared), ("model/b", other), ("model/c", shared))
    ]
    return LiveState(near=here.near, far=far)


def flat(state: LiveState) -> FlatState:
    tensors = [
        TensorData(
            path=item.path, dtype=item.dtype, shape=item.shape, data=canonical_bytes(item.data, item.path)
        )
        for item in state.far
    ]
    return FlatState(skeletons=state.near.skeletons, tensors=[*state.near.tensors, *tensors])


@pytest.mark.usefixtures("on_cpu")
def test_entries_from_a_device_complete_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devicehash, "roots_on_device", kernel := Kernel())
    warned: list[str] = []
    hashing, state = DeviceHashing(warned.append), far_state()
    for _ in range(2):
        left, known = hashing.split(state)
        assert isinstance(left, LiveState)
        assert (list(left.far), [entry.path for entry in known]) == ([], ["model/a", "model/b", "model/c"])
        assert encode_state(left.near, known=known).root == encode_state(flat(state)).root
    assert (kernel.calls, warned) == (2, [])


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("kernel", "why"),
    [(Kernel(wrong=True), "other roots"), (Kernel(error="no\ncompiler"), "RuntimeError: no compiler")],
)
def test_what_does_not_work_or_gives_other_roots_is_told_once_and_not_used(
    monkeypatch: pytest.MonkeyPatch, kernel: Kernel, why: str
) -> None:
    monkeypatch.setattr(devicehash, "roots_on_device", kernel)
    warned: list[str] = []
    hashing, state = DeviceHashing(warned.append), far_state()
    for _ in range(3):
        assert hashing.split(state) == (state, ())
    assert kernel.calls == 1
    assert len(warned) == 1
    assert why in warned[0]


def test_what_lies_on_the_cpu_or_another_device_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devicehash, "roots_on_device", kernel := Kernel())
    hashing, state = DeviceHashing(pytest.fail), far_state()
    assert hashing.split(state) == (state, ())
    assert hashing.split(state.near) == (state.near, ())
    assert kernel.calls == 0


@pytest.mark.usefixtures("on_cpu")
def test_a_run_has_the_roots_it_would_have_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devicehash, "roots_on_device", kernel := Kernel())
    state = far_state()
    run = RunDirectory.create(tmp_path / "run")
    sealer = Sealer.create(run, bytes(16), Ed25519PrivateKey.generate())
    cadence = Cadence(steps=6, every=1, warm=1, keep=3)
    recorder = RunRecorder(run, sealer, cadence, hashing=DeviceHashing(pytest.fail))
    for step in range(7):
        recorder.checkpoint(step, state)
    recorder.seal()
    recorder.close()
    found = [parse_record(data) for data in read_ledger(run.ledger_path).records if data is not None]
    checkpoints = [item for item in found if isinstance(item, Checkpoint)]
    assert [item.step for item in checkpoints if item.stored] == [0, 1, 3, 6]
    assert {item.root for item in checkpoints} == {encode_state(flat(state)).root}
    # Steps 2, 4 and 5 are hashed only.
    assert kernel.calls == 3
