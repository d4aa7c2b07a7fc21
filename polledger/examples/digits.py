"""A recipe: a small convolutional network learns scikit-learn's handwritten digits.

    polledger seal polledger.examples.digits --run R

A recipe says *what* is trained: model, data, loss and config. polledger builds the optimizer and the schedule from
config and runs every step itself, so a verifier recomputes each step's learning rate, examples and batch without
reading a line of this file. 1,797 images of 8x8 pixels come with scikit-learn; every fifth is held out.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from polledger import Task

HELD_OUT = 5
"""Every HELD_OUT-th image is kept from training; the task never sees it."""

Example: TypeAlias = tuple[Tensor, int]


def load_examples(*, held_out: bool) -> list[Example]:
    """The training or the held-out split: (uint8 image [1, 8, 8] with values 0 to 16, label 0 to 9) each."""
    bundle = load_digits()
    images = torch.from_numpy(bundle.images.astype(np.uint8)).unsqueeze(1)
    labels = bundle.target.tolist()
    return [(images[i], labels[i]) for i in range(len(labels)) if (i % HELD_OUT == 0) == held_out]


def scale(images: Tensor) -> Tensor:
    """Float images in [-1, 1] from uint8 images with values 0 to 16, of any shape."""
    return images.to(torch.float32) / 8 - 1


def build_model(width: int, dropout: float) -> nn.Module:
    """Images [B, 1, 8, 8] in [-1, 1] to logits [B, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(2 * width * 16, 10),
    )


class Digits(Task):
    """Classify 8x8 digits. Reaches about 99 % on the held-out fifth in its default 600 steps."""

    # Everything here is committed in genesis. polledger knows the names of its own keys (optimizer, lr, ...); any
    # other key, like width, is the task's.
    config = {
        "steps": 600,
        "batch_size": 64,
        "optimizer": "SGD",
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "schedule": "cosine",
        "warmup": 20,
        "clip": 1.0,
        "width": 32,
        "dropout": 0.25,
    }

    # What the fields of an example may hold. A verifier checks every example it opens: labels and pixels confined to
    # a few values leave no room for data made up to steer the weights somewhere.
    domains = {"0": range(17), "1": range(10)}

    def model(self) -> nn.Module:
        """Called under the build seed: the same seed and key give the same first weights."""
        return build_model(self.config["width"], self.config["dropout"])

    def dataset(self) -> Sequence[Example]:
        """Anything with len() and [i]. Item i has the same bytes every time: augmentation goes to collate."""
        return load_examples(held_out=False)

    def collate(self, examples: list[Any]) -> tuple[Tensor, Tensor]:
        """Shift each image by up to one pixel each way.

        Torch's, NumPy's and Python's generators are seeded from (seed, step) before the call, so plain torch.randint
        gives the verifier the same shifts.
        """
        images = F.pad(torch.stack([image for image, _ in examples]), (1, 1, 1, 1))
        down, right = torch.randint(0, 3, (2, len(examples))).tolist()
        shifted = [
            images[i, :, y : y + 8, x : x + 8] for i, (y, x) in enumerate(zip(down, right, strict=True))
        ]
        return scale(torch.stack(shifted)), torch.tensor([label for _, label in examples])

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy, and the share of the batch that was classified correctly as a metric."""
        images, labels = batch
        logits = model(images)
        correct = logits.argmax(1).eq(labels).float().mean()
        return F.cross_entropy(logits, labels), {"accuracy": correct.item()}


def held_out_accuracy(model: nn.Module) -> float:
    """Share of the held-out images that ``model`` classifies correctly; puts the model into eval mode."""
    images, labels = zip(*load_examples(held_out=True), strict=True)
    model.eval()
    with torch.no_grad():
        predicted = model(scale(torch.stack(images))).argmax(1)
    return float(predicted.eq(torch.tensor(labels)).float().mean())
