"""A recipe: a multilayer perceptron on scikit-learn's handwritten digits, small enough to try everything on.

    polledger seal polledger.examples.mlp --run R

It has no convolution, no normalisation and no dropout, so that hardly anything amplifies a rounding: what another
machine gets differs by a few millionths of the way that training goes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polledger import Task
from polledger.examples.digits import Example, load_examples, scale

PIXELS = 64


class Mlp(Task):
    """Classify 8x8 digits with one or more hidden layers; about 2,400 parameters by default."""

    config = {
        "steps": 400,
        "batch_size": 32,
        "optimizer": "SGD",
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "schedule": "cosine",
        "warmup": 20,
        "width": 32,
        "layers": 1,
    }
    domains = {"0": range(17), "1": range(10)}

    def model(self) -> nn.Module:
        """Images [B, 1, 8, 8] in [-1, 1] to logits [B, 10]."""
        layers: list[nn.Module] = [nn.Flatten()]
        size = PIXELS
        for _ in range(self.config["layers"]):
            layers += [nn.Linear(size, self.config["width"]), nn.Tanh()]
            size = self.config["width"]
        return nn.Sequential(*layers, nn.Linear(size, 10))

    def dataset(self) -> Sequence[Example]:
        return load_examples(held_out=False)

    def collate(self, examples: list[Any]) -> tuple[Tensor, Tensor]:
        """Images scaled to [-1, 1], and labels."""
        images = torch.stack([image for image, _ in examples])
        return scale(images), torch.tensor([label for _, label in examples])

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy, and the share of the batch that was classified correctly."""
        images, labels = batch
        logits = model(images)
        return F.cross_entropy(logits, labels), {
            "accuracy": logits.argmax(1).eq(labels).float().mean().item()
        }
