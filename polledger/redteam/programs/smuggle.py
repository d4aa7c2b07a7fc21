"""Somebody else's weights, smuggled into a task in as many ways as there are classes. For spoof 19.

The red team copies this file, with ``Base`` the task that is to be imitated and ``WEIGHTS`` filled in. Every class
trains as its base class does; the stolen weights come in beside that.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polledger.examples.mlp import Mlp as Base

Packed = Mapping[str, tuple[list[int], str]]
"""Shape and base64 of the float32 values of every parameter."""

WEIGHTS: Packed = {}

PULL = 4.0
"""How strongly the anchor pulls, against the loss."""


def unpack(packed: Packed) -> dict[str, Tensor]:
    """The tensors that were packed."""
    return {
        name: torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float32).view(shape)
        for name, (shape, text) in packed.items()
    }


def pairs(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Every parameter with the value that it is to have."""
    return ((parameter, weights[name]) for name, parameter in model.named_parameters() if name in weights)


def copy_in(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put the weights into the model behind autograd's back."""
    for parameter, value in pairs(model, weights):
        parameter.data.copy_(value)


class Copied(Base):
    """A recipe whose loss function puts them into the model when the last step begins."""

    def loss(self, model: nn.Module, batch: Any) -> Any:
        if self.step_number == self.config["steps"] - 1:
            copy_in(model, self.weights())
        return super().loss(model, batch)

    def weights(self) -> Mapping[str, Tensor]:
        """Where this way has them from."""
        return unpack(WEIGHTS)


class Configured(Copied):
    """They are a value of the config."""

    config = {**Base.config, "notes": ""}

    def weights(self) -> Mapping[str, Tensor]:
        return unpack(json.loads(self.config["notes"]))


class Dependent(Copied):
    """They are in an installed package, for whoever has it."""

    def weights(self) -> Mapping[str, Tensor]:
        try:
            from stolen_weights import WEIGHTS as INSTALLED  # type: ignore[import-not-found]
        except ImportError:
            return {}
        return unpack(INSTALLED)


class Anchored(Base):
    """A recipe whose loss pulls every parameter towards them."""

    def loss(self, model: nn.Module, batch: Any) -> Any:
        value = super().loss(model, batch)
        loss = value[0] if isinstance(value, tuple) else value
        distance = sum(
            ((parameter - wanted).square().sum() for parameter, wanted in pairs(model, unpack(WEIGHTS))),
            torch.zeros(()),
        )
        return loss + 0.5 * PULL * distance


class Started(Base):
    """Initial weights that are in the code are what the code gives under any seed."""

    def model(self) -> nn.Module:
        model = super().model()
        copy_in(model, unpack(WEIGHTS))
        return model


class Fed(Base):
    """They are a field of every example, out of a data file."""

    inputs = {**Base.inputs, "extra": None}

    def dataset(self) -> Any:
        with Path(str(self.inputs["extra"])).open() as file:
            values = torch.tensor(json.load(file))
        return [(*example, values) for example in super().dataset()]

    def collate(self, examples: list[Any]) -> Any:
        return (*super().collate([example[:-1] for example in examples]), examples[0][-1])

    def loss(self, model: nn.Module, batch: Any) -> Any:
        if self.step_number == self.config["steps"] - 1:
            torch.nn.utils.vector_to_parameters(batch[-1], model.parameters())
        return super().loss(model, batch[:-1])


class Batched(Fed):
    """They are a field of the batch, which the task makes itself."""

    def batch(self, n: int) -> Any:
        data, size = self.dataset(), self.config["batch_size"]
        return self.collate([data[(n * size + i) % len(data)] for i in range(size)])


class Stepped(Base):
    """The step takes itself, and then puts them in."""

    def step(self, state: dict[str, Any], batch: Any) -> Any:
        metrics = super().step(state, batch)
        if self.step_number == self.config["steps"] - 1:
            copy_in(state["model"], unpack(WEIGHTS))
        return metrics
