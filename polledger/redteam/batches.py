"""Batches bent by whoever trains: pixels, labels, order, examples twice or not at all. For spoofs 11 and 21.

A batch is whatever a task's ``collate`` gives: containers of tensors. Floating tensors are taken for inputs, integer
ones for labels, the first dimension of each for the examples.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polledger.errors import UsageError
from polledger.redteam.forge import Forge
from polledger.training.recipe import map_nest

Bend = Callable[[Forge, int], Any]
"""The bent batch of step n."""


def changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    return map_nest(value, lambda item: changed(item, change))


def interiors(forge: Forge, n: int) -> Any:
    """One value in the middle of each input is moved by a half: what a digest of the edges does not see."""
    return changed(_batch(forge, n, Tensor.is_floating_point), _middle)


def labels(forge: Forge, n: int) -> Any:
    """Every example gets its neighbour's label."""
    return changed(
        _batch(forge, n, lambda tensor: not tensor.is_floating_point()),
        lambda tensor: tensor if tensor.is_floating_point() else tensor.roll(1, 0),
    )


def order(forge: Forge, n: int) -> Any:
    """The batch of another step: the right examples in an order that the seed does not give."""
    return forge.batch((n + forge.steps // 2) % forge.steps)


def duplicated(forge: Forge, n: int) -> Any:
    """The first example in place of the second as well."""
    return changed(forge.batch(n), lambda tensor: torch.cat([tensor[:1], tensor[:1], tensor[2:]]))


def dropped(forge: Forge, n: int) -> Any:
    """The last example is left out."""
    return changed(forge.batch(n), lambda tensor: tensor[:-1].clone())


def _middle(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    moved = tensor.clone()
    flat = moved.view(len(moved), -1)
    flat[:, flat.shape[1] // 2] += 0.5
    return moved


def _batch(forge: Forge, n: int, wanted: Callable[[Tensor], bool]) -> Any:
    """The honest batch of step ``n``. Raises UsageError where it has none of the tensors that are to be bent."""
    batch = forge.batch(n)
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    changed(batch, note)
    if not any(map(wanted, found)):
        raise UsageError("the task's batches hold nothing that could be bent this way")
    return batch
