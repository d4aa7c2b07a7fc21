"""A recipe: a residual network with batch normalisation, as the literature trains it on CIFAR.

    polledger seal polledger.examples.resnet --run R
    polledger seal polledger.examples.resnet --set dataset=cifar10 --input data=cifar-10-batches-bin --run R

The defaults are ResNet-20 of He et al. (2016): three stages of three blocks, 16 channels first. Batch normalisation
amplifies roundings like nothing else that is in wide use, so this is the hardest honest run to tell from a spoof on
another machine. Without CIFAR it trains on scikit-learn's digits. CIFAR is read in its *binary* form: the python form
is a pickle, and unpickling runs whatever it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polledger import Task
from polledger.errors import UsageError
from polledger.examples.digits import Example, load_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set: ``shape`` of its uint8 images and their largest value ``top``, ``classes``; how far it is shifted.

    ``files`` are its training files in CIFAR's binary form (none: bundled); a record there is ``labels`` bytes, of
    which the last is the class, and one image.
    """

    shape: tuple[int, int, int]
    top: int
    classes: int
    shift: int
    mirrored: bool = False
    files: tuple[str, ...] = ()
    labels: int = 1


_CIFAR = (3, 32, 32)
_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))

SOURCES = {
    "digits": Source(shape=(1, 8, 8), top=16, classes=10, shift=1),
    "cifar10": Source(shape=_CIFAR, top=255, classes=10, shift=4, mirrored=True, files=_BATCHES),
    "cifar100": Source(
        shape=_CIFAR, top=255, classes=100, shift=4, mirrored=True, files=("train.bin",), labels=2
    ),
}


class Cifar:
    """The training images under ``directory``: (uint8 image [3, 32, 32], class) each.

    Raises UsageError if a file is missing or is no whole number of records; the files are kept in memory (154 MB).
    """

    def __init__(self, directory: Path, source: Source) -> None:
        self.source = source
        self.records = np.concatenate([_read(directory / name, source) for name in source.files])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        labels = self.source.labels
        image = torch.from_numpy(self.records[index, labels:].reshape(self.source.shape))
        return image, int(self.records[index, labels - 1])


def _read(path: Path, source: Source) -> Any:
    size = source.labels + int(np.prod(source.shape))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror} (the binary version of CIFAR has it)"
        ) from None
    if not data or len(data) % size:
        raise UsageError(f"{path} has {len(data)} bytes, no whole number of records of {size}")
    return np.frombuffer(bytearray(data), dtype=np.uint8).reshape(-1, size)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without weights. [B, ``inside``, H, W] to [B, ``out``, H/stride, …]."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, out - inside
        self.conv1 = nn.Conv2d(inside, out, 3, padding=1, stride=stride, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(inside + short)


def build_model(*, channels: int, classes: int, width: int, blocks: int) -> nn.Module:
    """Images [B, channels, H, W] in [-1, 1] to logits [B, classes]; three stages of ``blocks`` blocks."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    before = width
    for stage in range(3):
        for block in range(blocks):
            out = width << stage
            layers.append(Block(before, out, 2 if stage and not block else 1))
            before = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class ResNet(Task):
    """Classify small images. The defaults fit the digits: 98 % of the training images within 300 steps."""

    config = {
        "steps": 300,
        "batch_size": 64,
        "optimizer": "SGD",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0001,
        "schedule": "cosine",
        "warmup": 20,
        "dataset": "digits",
        "width": 16,
        "blocks": 3,
    }
    inputs = {"data": None}
    domains = {"0": range(256), "1": range(100)}

    @property
    def source(self) -> Source:
        """The data set that config names. Whoever replays has no data at hand, so its shape cannot come from there."""
        name = self.config["dataset"]
        if name not in SOURCES:
            raise UsageError(f"dataset is one of {', '.join(SOURCES)}, not {name!r}")
        return SOURCES[name]

    def model(self) -> nn.Module:
        source = self.source
        return build_model(
            channels=source.shape[0],
            classes=source.classes,
            width=self.config["width"],
            blocks=self.config["blocks"],
        )

    def dataset(self) -> Sequence[Example] | Cifar:
        path, source = self.inputs["data"], self.source
        if not source.files:
            if path is not None:
                raise UsageError("--input data=DIR goes with --set dataset=cifar10 or dataset=cifar100")
            return load_examples(held_out=False)
        if path is None:
            raise UsageError(f"{self.config['dataset']} needs its directory: --input data=DIR")
        return Cifar(Path(path), source)

    def collate(self, examples: list[Any]) -> tuple[Tensor, Tensor]:
        """Shift each image, mirror every other where the data set allows it, scale to [-1, 1]."""
        source = self.source
        _, height, width = source.shape
        images = F.pad(torch.stack([image for image, _ in examples]), (source.shift,) * 4)
        down, right = torch.randint(0, 2 * source.shift + 1, (2, len(examples))).tolist()
        shifted = torch.stack(
            [
                images[i, :, y : y + height, x : x + width]
                for i, (y, x) in enumerate(zip(down, right, strict=True))
            ]
        )
        if source.mirrored:
            flip = torch.randint(0, 2, (len(examples), 1, 1, 1)).bool()
            shifted = torch.where(flip, shifted.flip(3), shifted)
        scaled = shifted.to(torch.float32) * (2 / source.top) - 1
        return scaled, torch.tensor([label for _, label in examples])

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy, and the share of the batch that was classified correctly as a metric."""
        images, labels = batch
        logits = model(images)
        correct = logits.argmax(1).eq(labels).float().mean()
        return F.cross_entropy(logits, labels), {"accuracy": correct.item()}
