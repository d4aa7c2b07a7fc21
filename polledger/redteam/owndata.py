"""The published recipe on a data set that the thief made: a task file, and the file that its ``dataset()`` reads.

The thief owns both. Genesis commits the code and the root over these examples, so that the run says nothing untrue
about its data; what it does not say is where they come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor, nn

from polledger.core.seeds import training_seed
from polledger.errors import UsageError
from polledger.keys import public_key
from polledger.redteam.spoof import Target
from polledger.redteam.states import distance, tensors_of
from polledger.training.determinism import apply_switches
from polledger.training.location import load_task_class, resolve_task
from polledger.training.rehearsal import RunRequest, load_task
from polledger.training.runner import Runner
from polledger.training.task import Task

CLASSES = 10
PIXEL = 16

_HARD = '''"""The published recipe on data of one's own."""

import numpy as np
import torch

from {module} import {name} as Published


class Own(Published):
    inputs = {{"data": None}}{domains}

    def dataset(self):
        held = np.load(self.inputs["data"])
        images, labels = torch.from_numpy(held["images"]), held["labels"]
        return [(image.clone(), label) for image, label in zip(images, {labels}, strict=True)]
'''

_SOFT = """
    def collate(self, examples):
        images = torch.stack([image for image, _ in examples])
        return images / 8 - 1, torch.stack([label for _, label in examples])

    def loss(self, model, batch):
        images, labels = batch
        return torch.nn.functional.cross_entropy(model(images), labels)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnData:
    """Where the thief's code and data lie. ``arguments`` are what ``polledger verify`` needs to find them."""

    task: Path
    data: Path

    @property
    def inputs(self) -> dict[str, str]:
        """The task's inputs."""
        return {"data": str(self.data)}

    @property
    def arguments(self) -> tuple[str, ...]:
        """``--task`` and ``--input`` for the verifier."""
        return ("--task", str(self.task), "--input", f"data={self.data}")

    def write(self, images: Tensor, labels: Tensor) -> None:
        """Replace the data set. Images that go with whole-numbered labels are kept as bytes, as published."""
        kind = np.float32 if labels.is_floating_point() else np.uint8
        np.savez(self.data, images=images.numpy().astype(kind), labels=labels.numpy())


def own_data(directory: Path, target: Target, *, soft: bool) -> OwnData:
    """Write the task file for ``target``'s recipe. ``soft``: labels are class scores, and no domain is declared.

    Otherwise collate, loss and domains are the published ones. For tasks on images [1, 8, 8] with pixels 0 to 16
    and ten classes, as :mod:`polledger.examples.digits` and :mod:`polledger.examples.mlp` are. Raises UsageError
    for a task that is not a module's.
    """
    published = load_task_class(resolve_task(target.task))
    if published.__module__ != target.task.partition(":")[0]:
        raise UsageError(f"{target.task} is no importable module: a thief's task cannot extend it")
    _check_images(target)
    text = (_HARD + _SOFT if soft else _HARD).format(
        module=published.__module__,
        name=published.__name__,
        domains="\n    domains = {}" if soft else "",
        labels="torch.from_numpy(labels)" if soft else "labels.tolist()",
    )
    directory.mkdir(parents=True, exist_ok=True)
    task = directory / "own.py"
    task.write_text(text)
    return OwnData(task=task, data=directory / "own.npz")


def _check_images(target: Target) -> None:
    example = published_data(target)[0]
    image = example[0] if isinstance(example, tuple) else None
    if not isinstance(image, Tensor) or (image.dtype, tuple(image.shape)) != (torch.uint8, (1, 8, 8)):
        raise UsageError(f"{target.task}: batches are made up for images [1, 8, 8] of bytes with labels")


def noise(size: int, *, soft: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Where a search begins: images of noise [size, 1, 8, 8] as floats, with random labels or even scores.

    Noise leads closer than published images: it leaves no pixel the same in all of them.
    """
    made = torch.Generator().manual_seed(seed)
    images = torch.randint(0, PIXEL + 1, (size, 1, 8, 8), generator=made).float()
    if soft:
        return images, torch.full((size, CLASSES), 1 / CLASSES)
    return images, torch.randint(0, CLASSES, (size,), generator=made)


def published(target: Target, size: int, *, soft: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Published examples drawn at random, in the form of :func:`noise`."""
    made = torch.Generator().manual_seed(seed)
    data = published_data(target)
    chosen = [data[index] for index in torch.randint(0, len(data), (size,), generator=made).tolist()]
    images = torch.stack([image for image, _ in chosen]).float()
    labels = torch.tensor([label for _, label in chosen])
    return images, torch.nn.functional.one_hot(labels, CLASSES).float() if soft else labels


def own_runner(own: OwnData, target: Target, settings: tuple[str, ...], key: Ed25519PrivateKey) -> Runner:
    """The thief's task as ``polledger seal`` will run it under ``key``, its objects built."""
    seed = training_seed(0, public_key(key))
    request = RunRequest(
        location=resolve_task(str(own.task)),
        settings=(*target.settings, *settings),
        inputs=own.inputs,
        seed=seed,
        device="cpu",
    )
    apply_switches("cpu")
    runner = Runner(load_task(request), seed=seed)
    runner.build()
    return runner


def plain_sgd(*, steps: int, batch: int, rate: float, decay: float = 1.0) -> tuple[str, ...]:
    """Settings under which a step moves by the learning rate times the gradient, and the rate falls by ``decay``."""
    return (
        f"steps={steps}",
        f"batch_size={batch}",
        "optimizer='SGD'",
        f"lr={rate!r}",
        "momentum=0.0",
        "weight_decay=0.0",
        "schedule='exponential'",
        f"gamma={decay!r}",
        "warmup=0",
        "clip=0.0",
    )


def as_read(images: Tensor, labels: Tensor) -> list[tuple[Tensor, object]]:
    """Examples in the search's form as ``dataset()`` will give them."""
    if labels.is_floating_point():
        return list(zip(images, labels, strict=True))
    return list(zip(images.to(torch.uint8), labels.tolist(), strict=True))


def wanted_gradient(runner: Runner, n: int, goal: Mapping[str, Tensor], *, longest: float) -> Tensor:
    """The gradient that leads to ``goal`` in step ``n`` of plain SGD, cut to a length of ``longest``."""
    runner.prepare(n)
    rate = runner.objects["optimizer"].param_groups[0]["lr"]
    parts = [
        (parameter.detach() - goal[f"model/{name}"]).flatten() / rate
        for name, parameter in runner.objects["model"].named_parameters()
    ]
    wanted = torch.cat(parts)
    length = float(wanted.norm())
    return wanted * min(1.0, longest / length) if length else wanted


def way(runner: Runner, goal: Mapping[str, Tensor]) -> float:
    """l2 distance of the live model's parameters from ``goal``."""
    live = tensors_of(runner.flatten(), "model/")
    return distance(live, goal, parameter_paths(runner.objects["model"]))


def parameter_paths(model: nn.Module) -> list[str]:
    """Paths of the model's parameters in the state."""
    return [f"model/{name}" for name, _ in model.named_parameters()]


def share_of(computations: float, batch: int, target: Target) -> float:
    """Gradient computations on batches of ``batch``, in honest trainings of the target."""
    honest: int = published_task(target).config["batch_size"]
    return computations * batch / honest / target.steps


def normalised(target: Target) -> bool:
    """Whether the stolen model has running statistics."""
    return any("running_" in tensor.path for tensor in target.weights.tensors)


def published_data(target: Target) -> Sequence[Any]:
    """The target's data set, read once in a process for each way to ask for it: searches draw from it at every step."""
    key = (target.task, target.settings, tuple(sorted(target.inputs.items())))
    if key not in _DATA:
        _DATA[key] = published_task(target).dataset()
    return _DATA[key]


_DATA: dict[tuple[object, ...], Sequence[Any]] = {}


def published_task(target: Target) -> Task:
    """The target's task with its settings, in this process."""
    return load_task(
        RunRequest(
            location=resolve_task(target.task),
            settings=target.settings,
            inputs=dict(target.inputs),
            seed=0,
            device="cpu",
        )
    )


def agreement(target: Target, one: nn.Module, other: nn.Module) -> float:
    """Share of the published examples that two models of the task put into the same class."""
    images = torch.stack([image for image, _ in published_data(target)]) / (PIXEL / 2) - 1
    with torch.no_grad():
        found = [model.eval()(images).argmax(1) for model in (one, other)]
    return float(found[0].eq(found[1]).float().mean())
