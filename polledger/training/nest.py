"""Examples and batches to canonical bytes and back. Format: :mod:`polledger.core.nest`."""

from typing import Any

import numpy as np
from torch import Tensor

from polledger.core.digest import Buffer
from polledger.core.nest import NestTensor, encode_header, parse_nest
from polledger.core.structure import Structure, decode_value, encode_value
from polledger.training.tensors import (
    array_bytes,
    array_from_bytes,
    array_name,
    check_plain,
    dtype_name,
    plain_bytes,
    tensor_from_bytes,
)


def encode_nest(value: Any, *, exact: bool = False) -> list[bytes | memoryview]:
    """Canonical bytes of ``value`` in chunks: the header, then the data of every tensor and array.

    Chunks may be views of live memory. With ``exact`` only values are accepted that :func:`decode_nest` gives back
    as they were; otherwise subclasses are written as their base type (named tuples as tuples, other mappings as
    maps, tensor subclasses as tensors). Raises UsageError naming the path of what cannot be encoded.
    """
    writer = _Writer(exact=exact)
    structure = encode_value(value, "", writer.leaf, ordered=False, exact=exact, mappings=True)
    return [encode_header(structure, writer.tensors), *writer.data]


class _Writer:
    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self.tensors: list[NestTensor] = []
        self.data: list[memoryview] = []

    def leaf(self, value: Any, path: str) -> Structure | None:
        place = path or "the value"
        if isinstance(value, Tensor) and (not self._exact or type(value) is Tensor):
            return self._add("tensor", check_plain(value, place), value.shape, plain_bytes(value))
        if isinstance(value, np.generic):
            return self._add("scalar", array_name(value, place), (), array_bytes(value))
        if isinstance(value, np.ndarray) and (not self._exact or type(value) is np.ndarray):
            return self._add("array", array_name(value, place), value.shape, array_bytes(value))
        return None

    def _add(self, tag: str, dtype: str, shape: tuple[int, ...], data: memoryview) -> Structure:
        self.tensors.append(NestTensor(dtype=dtype, shape=list(shape)))
        self.data.append(data)
        return [tag, len(self.tensors) - 1]


def check_exact(value: Any) -> None:
    """Raise UsageError naming the path unless ``value`` comes back from its canonical bytes as it is."""
    encode_value(value, "", _exact_leaf, ordered=False, exact=True)


def _exact_leaf(value: Any, path: str) -> Structure | None:
    place = path or "the value"
    if type(value) is Tensor:
        return ["tensor", dtype_name(value, place)]
    if type(value) is np.ndarray or isinstance(value, np.generic):
        return ["array", array_name(value, place)]
    return None


def decode_nest(data: Buffer) -> Any:
    """The value that ``data`` encodes, tensors and arrays with memory of their own, on the CPU.

    Raises MalformedError for bytes that are no nest, EnvironmentMismatch for a dtype this torch does not know.
    """
    nest = parse_nest(data)

    def leaf(tag: str, index: Any) -> Any:
        dtype, shape, part = nest.tensors[index]
        if tag == "tensor":
            return tensor_from_bytes(dtype, shape, part)
        array = array_from_bytes(dtype, shape, part)
        return array[()] if tag == "scalar" else array

    return decode_value(nest.structure, leaf)
