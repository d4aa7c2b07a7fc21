"""What the benchmarks compare: ways to keep the states of a training, and a training to keep them of."""

import contextlib
import hashlib
import math
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import async_save

from polledger.store.run import RunDirectory
from polledger.training.recorder import Recorder
from polledger.training.recording import Cadence, RunRecorder
from polledger.training.sealer import Sealer
from polledger.training.state import live_objects

LAYERS = 8
BATCH = 64


class Training:
    """A perceptron of many layers under AdamW, float32: parameters and two slots have about so many bytes."""

    def __init__(self, megabytes: float) -> None:
        self.width = max(8, int(math.sqrt(megabytes * 1e6 / (3 * 4 * LAYERS))))
        torch.manual_seed(1)
        layers = [nn.Linear(self.width, self.width) for _ in range(LAYERS)]
        self.model = nn.Sequential(*(item for layer in layers for item in (layer, nn.ReLU())))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.objects: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}
        # Makes the optimizer's slots.
        self.step(self.batch())

    def batch(self) -> Tensor:
        return torch.randn(BATCH, self.width)

    def step(self, batch: Tensor) -> None:
        """One step of an autoencoder."""
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.model(batch), batch).backward()
        self.optimizer.step()

    def change(self) -> None:
        """Other values in one number of each tensor: a state that was never stored before, for next to nothing."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.view(-1)[0] += 1


class Peer:
    """One way to keep states, in the directory ``place``. Close it after use."""

    def __init__(self, place: Path, objects: dict[str, Any], *, steps: int, every: int) -> None:
        self.place, self.objects, self.steps, self.every = place, objects, steps, every
        self.done = self.saved = 0

    def step(self, batch: Tensor) -> None:
        """A step was made; after every ``every``-th the state is kept. Training waits for this."""
        self.done += 1
        if self.done % self.every == 0:
            self.save()

    def save(self) -> None:
        raise NotImplementedError

    def drain(self) -> None:
        """Wait until everything is where it is to be. By default nothing is left to do."""

    def close(self) -> None:
        """End what was begun."""


class Sealed(Peer):
    """The recorder behind ``polledger seal``: states are copied here; hashed, written and sealed one by one behind."""

    def __init__(self, place: Path, objects: dict[str, Any], *, steps: int, every: int) -> None:
        super().__init__(place, objects, steps=steps, every=every)
        run = RunDirectory.create(place / "run")
        cadence = Cadence(steps=steps + 1, every=1, warm=0, seal_every=1)
        size = sum(tensor.data.nbytes for tensor in live_objects(objects).near.tensors)
        sealer = Sealer.create(run, bytes(16), Ed25519PrivateKey.generate())
        self.recorder = RunRecorder(run, sealer, cadence, state_bytes=size)

    def save(self) -> None:
        self.recorder.checkpoint(self.saved, live_objects(self.objects))
        self.recorder.seal_if_due()
        self.saved += 1

    def drain(self) -> None:
        self.recorder.seal()

    def close(self) -> None:
        self.recorder.close()


class Recorded(Peer):
    """``polledger.Recorder`` as it comes: every step and batch recorded too, stamped by the embedded authority."""

    keep = 1

    def __init__(self, place: Path, objects: dict[str, Any], *, steps: int, every: int) -> None:
        super().__init__(place, objects, steps=steps, every=every)
        self.recorder = Recorder(
            place / "run", objects, steps=steps, every=every, warm=0, keep=self.keep, source=__file__
        )

    def step(self, batch: Tensor) -> None:
        self.recorder.step(batch)

    def drain(self) -> None:
        self.recorder.close()

    def close(self) -> None:
        self.recorder.close()


class Sparse(Recorded):
    """The same, storing every tenth of the states that it commits to."""

    keep = 10


class TorchSave(Peer):
    """``torch.save``, as most do; nothing is durable."""

    def path(self) -> Path:
        self.saved += 1
        return self.place / f"{self.saved}.pt"

    def state(self) -> dict[str, Any]:
        return {name: item.state_dict() for name, item in self.objects.items()}

    def save(self) -> None:
        torch.save(self.state(), self.path())


class TorchSaveHashed(TorchSave):
    """The same, durable and with the SHA-256 of the file."""

    def save(self) -> None:
        path = self.path()
        with path.open("wb") as file:
            torch.save(self.state(), file)
            file.flush()
            os.fsync(file.fileno())
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


class AsyncSave(TorchSave):
    """``torch.distributed.checkpoint.async_save``: copied here, written by a thread."""

    last: Any = None

    def save(self) -> None:
        self.drain()
        writer = FileSystemWriter(self.path().with_suffix(""))
        self.last = async_save(self.state(), storage_writer=writer, no_dist=True)

    def drain(self) -> None:
        if self.last is not None:
            self.last.result()
            self.last = None


PEERS: dict[str, type[Peer]] = {
    "polledger": Sealed,
    "polledger.Recorder": Recorded,
    "polledger.Recorder, keep=10": Sparse,
    "torch.save": TorchSave,
    "torch.save, fsync, SHA-256": TorchSaveHashed,
    "async_save": AsyncSave,
}


@contextlib.contextmanager
def opened(name: str, work: Path, objects: dict[str, Any], *, steps: int, every: int) -> Iterator[Peer]:
    """The peer ``name`` in a directory of its own, which is gone afterwards; nothing is left to be written then."""
    place = Path(tempfile.mkdtemp(dir=work))
    peer = PEERS[name](place, objects, steps=steps, every=every)
    try:
        yield peer
    finally:
        peer.close()
        shutil.rmtree(place)
        os.sync()


def spare_one() -> int:
    """One thread less than there are cores, and one at least."""
    return max(1, (os.cpu_count() or 1) - 1)


@contextlib.contextmanager
def threads(count: int) -> Any:
    """So many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def size_of(place: Path) -> int:
    """Bytes of all files below ``place``."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """One over the other, round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)
