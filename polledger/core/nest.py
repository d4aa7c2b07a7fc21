"""Canonical bytes of an example or a batch: a nest of tensors, arrays and plain values. PROTOCOL sections 5 and 6.

    u64 length of the header ‖ header (PL-MP/1) ‖ data of every tensor and array, in order of traversal

The structure uses the tags of a state, with ``["tensor", index]``, ``["array", index]`` for a NumPy array and
``["scalar", index]`` for a NumPy scalar. Maps keep the order of the dict, because a loss may iterate over it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from polledger.core.digest import Buffer, u64
from polledger.core.dtypes import byte_size
from polledger.core.encoding import Limits, encode, parse
from polledger.core.records import Count, _Struct
from polledger.core.structure import LEAVES, Structure, check_structure
from polledger.errors import MalformedError, UsageError

NEST_LIMITS = Limits(size=1 << 24, depth=64, count=4_000_000)
"""The header of one batch: values that are not tensors, such as the texts of a batch, lie in it."""


class NestTensor(_Struct, frozen=True, kw_only=True):
    """Element type (torch's name) and shape of one tensor or array."""

    dtype: Annotated[str, Meta(max_length=32)]
    shape: list[Count]


class NestHeader(_Struct, frozen=True, kw_only=True, tag_field="type", tag="nest"):
    """What a nest starts with."""

    v: Literal[1]
    structure: Structure
    tensors: list[NestTensor]


NestPart: TypeAlias = tuple[str, tuple[int, ...], memoryview]
"""dtype, shape and canonical bytes of one tensor or array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nest:
    """A parsed nest. The structure is checked: leaf number i, counted in traversal order, is ``tensors[i]``."""

    structure: Structure
    tensors: list[NestPart]

    def leaves(self) -> Iterator[tuple[str, Structure]]:
        """Every scalar and leaf as (path inside the nest, tagged array); the path of a bare value is empty."""
        return check_structure(self.structure, "", ordered=False)


def encode_header(structure: Structure, tensors: list[NestTensor]) -> bytes:
    """Length and header of a nest; the data of ``tensors`` follow. ``structure``: from ``encode_value``.

    Raises UsageError for a header that :func:`parse_nest` would not read.
    """
    header = encode(NestHeader(v=1, structure=structure, tensors=tensors), scanned=True)
    if len(header) > NEST_LIMITS.size:
        raise UsageError(f"what is not tensors takes {len(header)} bytes, at most {NEST_LIMITS.size}")
    return u64(len(header)) + header


def parse_nest(data: Buffer) -> Nest:
    """The nest that ``data`` encodes; its tensors are views of ``data``.

    Raises MalformedError unless every byte is accounted for, ``NEST_LIMITS`` hold and each tensor is used once.
    """
    view = memoryview(data).cast("B")
    length = int.from_bytes(view[:8], "big")
    if len(view) < 8 or length > min(len(view) - 8, NEST_LIMITS.size):
        raise MalformedError("a nest is shorter than its header, or the header is too large")
    header: NestHeader = parse(bytes(view[8 : 8 + length]), NestHeader, limits=NEST_LIMITS)
    _check_leaves(header)
    return Nest(structure=header.structure, tensors=_split(header.tensors, view[8 + length :]))


def _check_leaves(header: NestHeader) -> None:
    count = 0
    for path, leaf in check_structure(header.structure, "", ordered=False):
        if leaf[0] not in LEAVES:
            continue
        if type(leaf[1]) is not int or leaf[1] != count or count >= len(header.tensors):
            raise MalformedError(f"{path or 'the value'}: not the index of the next tensor")
        if leaf[0] == "scalar" and header.tensors[count].shape:
            raise MalformedError(f"{path or 'the value'}: a scalar with dimensions")
        count += 1
    if count != len(header.tensors):
        raise MalformedError(f"{len(header.tensors) - count} tensors of a nest are not used")


def _split(tensors: list[NestTensor], rest: memoryview) -> list[NestPart]:
    parts = []
    position = 0
    for tensor in tensors:
        end = position + byte_size(tensor.dtype, tensor.shape)
        if end > len(rest):
            raise MalformedError("the data of a nest are truncated")
        parts.append((tensor.dtype, tuple(tensor.shape), rest[position:end]))
        position = end
    if position != len(rest):
        raise MalformedError(f"{len(rest) - position} bytes after the last tensor of a nest")
    return parts
