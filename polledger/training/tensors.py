"""Tensors and arrays as canonical bytes, and back: contiguous, little-endian, row-major. PROTOCOL section 5."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from polledger.core.dtypes import DTYPE_BYTES
from polledger.errors import EnvironmentMismatch, UsageError

_DTYPES: dict[str, torch.dtype] = {
    name: dtype for name in DTYPE_BYTES if isinstance(dtype := getattr(torch, name, None), torch.dtype)
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_ARRAY_NAMES = {
    np.dtype(name): name
    for name in DTYPE_BYTES
    if name not in ("bfloat16", "complex32") and not name.startswith("float8")
}


def dtype_name(tensor: Tensor, path: str) -> str:
    """Name of the tensor's dtype. Raises UsageError naming ``path`` for one that has no canonical bytes."""
    name = _NAMES.get(tensor.dtype)
    if name is None:
        raise UsageError(f"{path}: tensors of {tensor.dtype} cannot be recorded")
    return name


def canonical_bytes(tensor: Tensor, path: str) -> memoryview:
    """The tensor's canonical bytes: a view of its memory where :func:`plain_view` has one, else of a copy.

    Raises UsageError naming ``path`` for tensors that are not plain memory: sparse, meta, not yet initialised,
    wrapper subclasses, dtypes without a name.
    """
    check_plain(tensor, path)
    return plain_bytes(tensor)


def plain_bytes(tensor: Tensor) -> memoryview:
    """As :func:`canonical_bytes`, of a tensor that :func:`check_plain` has passed."""
    view = plain_view(tensor)
    if view is None and tensor.numel():
        view = _bytes_of(raw_bytes(tensor if tensor.is_cpu else tensor.cpu()).numpy())
    return view or memoryview(b"")


def plain_view(tensor: Tensor) -> memoryview | None:
    """The memory of a plain tensor, if it lies on the CPU and holds its canonical bytes as they are; else None.

    None of an empty tensor as well, which has no memory to share.

    Every step waits for this with its own data in the caches, where each call into torch takes its time.
    """
    if tensor.numel() == 0:
        return None
    array = _as_array(tensor)
    if array is not None:
        return _bytes_of(array)
    if tensor.is_cpu and is_whole(tensor):
        return _bytes_of(raw_bytes(tensor).numpy())
    return None


def _as_array(tensor: Tensor) -> np.ndarray[Any, Any] | None:
    """The tensor's memory, if that holds its canonical bytes as they are and NumPy may say so; else None."""
    # What is an array once can never be resized again: nothing that is not needed becomes one.
    if type(tensor) is not Tensor or not tensor.is_contiguous():
        return None
    try:
        # Not of what lies elsewhere, has lazy conjugates or signs, is part of a graph, or has a dtype that NumPy lacks.
        return tensor.numpy()
    except (TypeError, RuntimeError):
        return None


def raw_bytes(tensor: Tensor) -> Tensor:
    """The canonical bytes of a plain tensor that is not empty, where it lies: a view where :func:`is_whole`."""
    flat = tensor.detach() if tensor.requires_grad else tensor
    if not is_whole(tensor):
        flat = flat.resolve_conj().resolve_neg().contiguous()
    flat = flat.reshape(-1)
    if flat.stride(0) != 1:
        # One element is contiguous whatever its stride, and still cannot be viewed as bytes.
        flat = flat.clone(memory_format=torch.contiguous_format)
    if type(flat) is not Tensor:
        flat = flat.as_subclass(Tensor)
    return flat.view(torch.uint8)


def is_whole(tensor: Tensor) -> bool:
    """Whether the memory of a plain tensor, wherever it is, holds its elements in order and as they are."""
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def check_plain(tensor: Tensor, path: str) -> str:
    """The name of the tensor's dtype; raises UsageError naming ``path`` unless it has canonical bytes."""
    if sys.byteorder != "little":
        raise EnvironmentMismatch("canonical bytes are little-endian; this machine is not supported")
    name = dtype_name(tensor, path)
    kind = type(tensor)
    if kind is not Tensor and is_lazy(tensor):
        raise UsageError(f"{path}: a lazy parameter is not initialised; run a dummy forward pass in model()")
    if tensor.layout is not torch.strided or (kind is not Tensor and hasattr(kind, "__tensor_flatten__")):
        raise UsageError(f"{path}: only dense plain tensors can be recorded, this is {_describe(tensor)}")
    if tensor.is_meta:
        raise UsageError(f"{path}: the tensor has no data (device meta)")
    return name


def _describe(tensor: Tensor) -> str:
    return f"{type(tensor).__name__}, {str(tensor.layout).removeprefix('torch.')}, {tensor.dtype}"


def tensor_from_bytes(dtype: str, shape: Sequence[int], data: memoryview) -> Tensor:
    """A CPU tensor with its own memory. ``data`` must have the right length (parsed states and nests do).

    Raises EnvironmentMismatch for a dtype that this torch does not know.
    """
    if dtype not in _DTYPES:
        raise EnvironmentMismatch(f"torch {torch.__version__} has no dtype {dtype}")
    raw = torch.empty(len(data), dtype=torch.uint8)
    if len(data) == 0:
        return torch.empty(tuple(shape), dtype=_DTYPES[dtype])
    # Copied before it is viewed: the source may be read-only and not aligned.
    raw.numpy()[:] = np.frombuffer(data, dtype=np.uint8)
    return raw.view(_DTYPES[dtype]).reshape(tuple(shape))


def array_name(array: np.ndarray[Any, Any] | np.generic, path: str) -> str:
    """Name of a NumPy dtype. Raises UsageError naming ``path`` for texts, objects, dates and long doubles."""
    name = _ARRAY_NAMES.get(array.dtype.newbyteorder("="))
    if name is None:
        raise UsageError(f"{path}: NumPy data of dtype {array.dtype} cannot be recorded")
    return name


def array_bytes(array: np.ndarray[Any, Any] | np.generic) -> memoryview:
    """The array's canonical bytes: a view where it is contiguous and little-endian, else of a copy."""
    if array.size == 0:
        return memoryview(b"")
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return _bytes_of(plain)


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    return array.data.cast("B")


def array_from_bytes(dtype: str, shape: Sequence[int], data: memoryview) -> np.ndarray[Any, Any]:
    """A writable array with its own memory."""
    return np.frombuffer(data, dtype=np.dtype(dtype)).reshape(tuple(shape)).copy()
