"""The tensors of a ``.safetensors`` file: a strict reader over bytes, no torch. PROTOCOL section 10, step 10."""

import json
from dataclasses import dataclass
from typing import Any

from polledger.core.dtypes import byte_size
from polledger.core.state import TensorData, escape
from polledger.errors import MalformedError

HEADER_BYTES = 100_000_000
"""Largest safetensors header, the format's own limit."""

NAME_SAID = 200
"""Characters of a tensor's name that a message repeats: the format sets no bound."""

_SAFETENSORS = {
    "BOOL": "bool",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}


def parse_safetensors(data: memoryview) -> list[TensorData]:
    """The tensors of a safetensors file; views of ``data``. MalformedError unless every byte is accounted for."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(HEADER_BYTES, len(data) - 8):
        raise MalformedError("not a safetensors file")
    body = data[8 + length :]
    return [entry.tensor(body) for entry in parse_header(bytes(data[8 : 8 + length]), body=len(body))]


def parse_header(data: bytes, *, body: int) -> list["FileEntry"]:
    """The tensors that the header ``data`` lists, in the order in which their bytes follow each other.

    Raises MalformedError unless they account for all ``body`` bytes behind it.
    """
    try:
        header = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"the safetensors header cannot be read: {error}") from None
    if not isinstance(header, dict):
        raise MalformedError("the safetensors header is not an object")
    entries = [FileEntry.parse(name, value) for name, value in header.items() if name != "__metadata__"]
    entries.sort(key=lambda item: (item.begin, item.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise MalformedError(
                f"{entry.name[:NAME_SAID]}: its bytes do not follow those of the tensor before it"
            )
        position = entry.end
    if position != body:
        raise MalformedError("the safetensors header does not account for every byte of the file")
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One tensor of a file: its bytes are those from ``begin`` to ``end`` behind the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @classmethod
    def parse(cls, name: str, value: Any) -> "FileEntry":
        said = name[:NAME_SAID].encode("unicode_escape").decode()
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise MalformedError(f"{said}: the name is no text")
        if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
            raise MalformedError(f"{said}: not a tensor entry")
        shape, offsets = value["shape"], value["data_offsets"]
        if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
            raise MalformedError(f"{said}: shape or offsets are not numbers")
        dtype = _SAFETENSORS.get(value["dtype"]) if isinstance(value["dtype"], str) else None
        if dtype is None:
            raise MalformedError(f"{said}: unknown dtype {str(value['dtype'])[:40]!r}")
        if offsets[1] - offsets[0] != byte_size(dtype, shape):
            raise MalformedError(f"{said}: its bytes do not fit dtype and shape")
        return cls(name=name, dtype=dtype, shape=tuple(shape), begin=offsets[0], end=offsets[1])

    def tensor(self, body: memoryview) -> TensorData:
        return TensorData(
            path=escape(self.name), dtype=self.dtype, shape=self.shape, data=body[self.begin : self.end]
        )


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
