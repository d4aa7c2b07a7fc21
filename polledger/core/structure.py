"""Nested values as tagged arrays, and the paths of their parts. PROTOCOL section 5.

A value of None, bool, int, float, str, bytes, list, tuple and dict becomes ``["none"]``, ``["bool", b]``,
``["int", decimal]``, ``["float", 8 bytes]``, ``["str", s]``, ``["bytes", b]``, ``["list", [...]]``,
``["tuple", [...]]`` or ``["map", [[key, value], ...]]``. A map's key is its path segment, so the int 5 and the str
"5" stay apart. Tensors and arrays are leaves that the caller encodes and decodes; this module never sees one.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from polledger.core.encoding import from_real, real
from polledger.errors import MalformedError, UsageError

Structure: TypeAlias = list[Any]
"""A tagged array: ``[tag]`` or ``[tag, payload]``."""

MAX_NESTING = 16
"""Containers inside each other. A map takes three levels of PL-MP/1's 64; real optimizer state takes four."""

MAX_DIGITS = 1024
"""Decimal digits of one integer; Python refuses to convert more than 4,300."""

LEAVES = frozenset({"tensor", "array", "scalar"})
"""Tags whose meaning belongs to the caller: ``["tensor", path or index]`` and, in nests, arrays and NumPy scalars."""

_INT = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
_BAD_ESCAPE = re.compile(r"~(?![012])|[/#]")


def escape(key: str | int) -> str:
    """The path segment of a map key: ``#5`` for the int 5; ``~0``, ``~1``, ``~2`` for ``~``, ``/``, ``#`` in a str."""
    if isinstance(key, int):
        return f"#{key}"
    if "~" in key or "/" in key or "#" in key:
        return key.replace("~", "~0").replace("/", "~1").replace("#", "~2")
    return key


def unescape(segment: str) -> str | int:
    """The key that :func:`escape` made ``segment`` from. Raises MalformedError if there is none."""
    if segment.startswith("#"):
        return _parse_int(segment[1:])
    if _BAD_ESCAPE.search(segment):
        raise MalformedError(f"{segment!r} is not an escaped key")
    return segment.replace("~2", "#").replace("~1", "/").replace("~0", "~")


def join(path: str, segment: str) -> str:
    """``path/segment``; just ``segment`` at the top."""
    return f"{path}/{segment}" if path else segment


def _parse_int(text: str) -> int:
    if len(text.removeprefix("-")) > MAX_DIGITS or not _INT.fullmatch(text):
        raise MalformedError(f"{text[:40]!r} is not an integer in its shortest form")
    return int(text)


LeafEncoder: TypeAlias = Callable[[Any, str], Structure | None]
"""Encodes a value at a path, or says None: "not mine"."""


def encode_value(
    value: Any, path: str, leaf: LeafEncoder, *, ordered: bool, exact: bool, mappings: bool = False
) -> Structure:
    """``value`` as a tagged array; ``leaf`` is asked first for everything.

    ``ordered`` sorts the pairs of a map by key; otherwise they keep the dict's order. ``exact`` refuses subclasses
    (named tuples, OrderedDict, enums), which decode as their base type. ``mappings`` takes every mapping for a map,
    not dicts alone. Raises UsageError naming the path for anything else: other types and keys, text that is not NFC,
    nesting deeper than :data:`MAX_NESTING`.
    """
    return _Encoder(leaf, ordered=ordered, exact=exact, mappings=mappings).encode(value, path, 0)


class _Encoder:
    def __init__(self, leaf: LeafEncoder, *, ordered: bool, exact: bool, mappings: bool) -> None:
        self._leaf = leaf
        self._ordered = ordered
        self._exact = exact
        self._maps: Any = Mapping if mappings else dict

    def encode(self, value: Any, path: str, depth: int) -> Structure:
        found = self._leaf(value, path)
        if found is not None:
            return found
        if self._exact and type(value) not in _PLAIN:
            raise UsageError(f"{_place(path)}: {_refused(value)}")
        if isinstance(value, self._maps):
            return ["map", self._pairs(value, path, self._deeper(path, depth))]
        if isinstance(value, list | tuple):
            depth = self._deeper(path, depth)
            items = [self.encode(item, join(path, str(i)), depth) for i, item in enumerate(value)]
            return ["list" if isinstance(value, list) else "tuple", items]
        return _encode_scalar(value, path)

    def _pairs(self, value: Mapping[Any, Any], path: str, depth: int) -> list[list[Any]]:
        pairs = []
        for key, item in value.items():
            segment = escape(self._key(key, path))
            pairs.append([segment, self.encode(item, join(path, segment), depth)])
        if self._ordered:
            pairs.sort(key=lambda pair: str(pair[0]))
        return pairs

    def _key(self, key: Any, path: str) -> str | int:
        """``key`` as a plain str or int: of a subclass its text or number, whatever it says about itself."""
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise UsageError(f"{_place(path)}: a key of type {type(key).__name__} cannot be recorded")
        if self._exact and type(key) not in _PLAIN:
            raise UsageError(f"{_place(path)}: {_refused(key)} as a key")
        return _text(key, path) if isinstance(key, str) else int(_decimal(key, path))

    @staticmethod
    def _deeper(path: str, depth: int) -> int:
        if depth == MAX_NESTING:
            raise UsageError(f"{_place(path)}: nested deeper than {MAX_NESTING}")
        return depth + 1


_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})


def _encode_scalar(value: Any, path: str) -> Structure:
    if value is None:
        return ["none"]
    if isinstance(value, bool):
        return ["bool", value]
    if isinstance(value, int):
        return ["int", _decimal(value, path)]
    if isinstance(value, float):
        return ["float", real(value)]
    if isinstance(value, str):
        return ["str", _text(value, path)]
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(memoryview(value))]
    raise UsageError(f"{_place(path)}: {_refused(value)}")


def _decimal(value: int, path: str) -> str:
    # Of a subclass the number, whatever its methods say.
    value = int.__int__(value)
    # Four bits and more make a digit: only a plainly too large number is refused before the conversion.
    text = "" if value.bit_length() > 4 * MAX_DIGITS else str(value)
    if not 0 < len(text.removeprefix("-")) <= MAX_DIGITS:
        raise UsageError(f"{_place(path)}: an integer of more than {MAX_DIGITS} digits")
    return text


def _text(value: str, path: str) -> str:
    # Of a subclass the text, whatever its methods say.
    text = str.__str__(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{_place(path)}: text that is not Unicode") from None
    if not unicodedata.is_normalized("NFC", text):
        raise UsageError(f"{_place(path)}: text that is not in NFC")
    return text


def _place(path: str) -> str:
    return path or "the value"


def _refused(value: Any) -> str:
    kind = type(value)
    return f"a value of type {kind.__module__}.{kind.__qualname__} cannot be recorded"


LeafDecoder: TypeAlias = Callable[[str, Any], Any]
"""Gives the value of a leaf from its tag and payload."""


def decode_value(structure: Structure, leaf: LeafDecoder) -> Any:
    """The value that ``structure`` stands for. Run :func:`check_structure` first: nothing is checked here."""
    tag = structure[0]
    if tag in LEAVES:
        return leaf(tag, structure[1])
    if tag == "map":
        return {unescape(key): decode_value(item, leaf) for key, item in structure[1]}
    if tag == "list":
        return [decode_value(item, leaf) for item in structure[1]]
    if tag == "tuple":
        return tuple(decode_value(item, leaf) for item in structure[1])
    if tag == "int":
        return int(structure[1])
    if tag == "float":
        return from_real(structure[1])
    return None if tag == "none" else structure[1]


def check_structure(structure: Any, path: str, *, ordered: bool) -> Iterator[tuple[str, Structure]]:
    """Check ``structure``, which lies at ``path``, and yield its scalars and leaves as (path, tagged array) in order.

    The check is complete only when the iterator is exhausted. Raises MalformedError at the first part that
    :func:`encode_value` would not have written. The payload of a leaf is not checked.
    """
    if not isinstance(structure, list) or not structure or not isinstance(structure[0], str):
        raise MalformedError(f"{_place(path)}: not a tagged array")
    tag, *payload = structure
    if len(payload) != (tag != "none"):
        raise MalformedError(f"{_place(path)}: {tag!r} has {len(payload)} values")
    if tag in ("list", "tuple"):
        for i, item in enumerate(_items(payload[0], path)):
            yield from check_structure(item, join(path, str(i)), ordered=ordered)
    elif tag == "map":
        for segment, item in _checked_pairs(payload[0], path, ordered=ordered):
            yield from check_structure(item, join(path, segment), ordered=ordered)
    else:
        _check_scalar(tag, payload, path)
        yield path, structure


_PAYLOADS: dict[str, type] = {"bool": bool, "int": str, "float": bytes, "str": str, "bytes": bytes}


def _check_scalar(tag: str, payload: list[Any], path: str) -> None:
    if tag == "none" or tag in LEAVES:
        return
    if tag not in _PAYLOADS or type(payload[0]) is not _PAYLOADS[tag]:
        raise MalformedError(f"{_place(path)}: {tag[:40]!r} is unknown or has the wrong value")
    value: Any = payload[0]
    if tag == "int":
        _parse_int(value)
    elif tag == "float":
        from_real(value)


def _items(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedError(f"{_place(path)}: the items are not an array")
    return value


def _checked_pairs(value: Any, path: str, *, ordered: bool) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    previous = None
    for pair in _items(value, path):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise MalformedError(f"{_place(path)}: a map holds something that is not a pair")
        segment = pair[0]
        unescape(segment)
        if segment in seen or (ordered and previous is not None and segment < previous):
            raise MalformedError(f"{_place(path)}: map keys are not unique or not in ascending order")
        seen.add(segment)
        previous = segment
        yield segment, pair[1]


def split_floats(structure: Structure) -> tuple[Structure, list[float]]:
    """``structure`` with every ``["float", x]`` replaced by ``["float"]``, and the floats in order."""
    floats: list[float] = []
    return _without_floats(structure, floats), floats


def _without_floats(structure: Structure, floats: list[float]) -> Structure:
    tag = structure[0]
    if tag == "float":
        floats.append(from_real(structure[1]))
        return ["float"]
    if tag in ("list", "tuple"):
        return [tag, [_without_floats(item, floats) for item in structure[1]]]
    if tag == "map":
        return [tag, [[key, _without_floats(item, floats)] for key, item in structure[1]]]
    return structure
