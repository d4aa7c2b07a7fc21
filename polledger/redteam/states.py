"""Arithmetic on recorded states: what a thief does to checkpoints instead of training."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from polledger.core.state import FlatState, TensorData
from polledger.training.tensors import canonical_bytes, dtype_name, tensor_from_bytes


def owned(state: FlatState) -> FlatState:
    """``state`` in memory of its own; tensors that share data go on sharing it."""
    copies = {id(tensor.data): memoryview(bytes(tensor.data)) for tensor in state.tensors}
    return FlatState(
        skeletons=list(state.skeletons),
        tensors=[_with_data(tensor, copies[id(tensor.data)]) for tensor in state.tensors],
    )


def tensors_of(state: FlatState, prefix: str = "") -> dict[str, Tensor]:
    """Copies of the tensors whose path starts with ``prefix``, by path."""
    return {
        item.path: tensor_from_bytes(item.dtype, item.shape, item.data)
        for item in state.tensors
        if item.path.startswith(prefix)
    }


def with_tensors(state: FlatState, tensors: Mapping[str, Tensor]) -> FlatState:
    """``state`` with the tensors at the given paths replaced; other paths of ``tensors`` must not be.

    Raises KeyError for a path that the state lacks, ValueError for a tensor of another dtype or shape.
    """
    known = {item.path: item for item in state.tensors}
    changed = dict(known)
    for path, tensor in tensors.items():
        item = known[path]
        if (dtype_name(tensor, path), tuple(tensor.shape)) != (item.dtype, item.shape):
            raise ValueError(
                f"{path}: {tensor.dtype} {list(tensor.shape)} in place of {item.dtype} {item.shape}"
            )
        changed[path] = _with_data(item, memoryview(bytes(canonical_bytes(tensor, path))))
    return FlatState(skeletons=list(state.skeletons), tensors=list(changed.values()))


def blend(one: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The point ``share`` of the way from ``one`` to ``other``: bit for bit at 0 and 1, integers rounded, booleans
    those of the nearer end.
    """
    return {path: _between(tensor, other[path], share) for path, tensor in one.items()}


def distance(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], paths: Iterable[str] | None = None
) -> float:
    """l2 distance of the floating tensors at ``paths`` (default: all), in double precision."""
    chosen = one if paths is None else paths
    differences = (
        other[path].double() - one[path].double() for path in chosen if one[path].is_floating_point()
    )
    return math.sqrt(sum(float(difference.square().sum()) for difference in differences))


def _between(start: Tensor, end: Tensor, share: float) -> Tensor:
    if share in (0.0, 1.0) or start.dtype == torch.bool:
        return (end if share >= 0.5 else start).clone()
    middle = start.double() + (end.double() - start.double()) * share
    return (middle if start.is_floating_point() else middle.round()).to(start.dtype)


def _with_data(tensor: TensorData, data: memoryview) -> TensorData:
    return TensorData(path=tensor.path, dtype=tensor.dtype, shape=tensor.shape, data=data)
