"""Strict JSON: the one gate for JSON from outside that is signed or stands beside something signed.

Formats of other standards (DSSE, in-toto) are JSON; polledger's own are PL-MP (core/encoding.py). What two readers
could understand differently is refused: a key given twice, an unknown field, a real number, an integer that
JavaScript rounds, a text that is no Unicode.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import msgspec

from polledger.core.scan import INT_MAX
from polledger.errors import MalformedError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLimits:
    """Bounds on one text, checked before decoding: bytes, and values of any kind. Depth is Python's own limit."""

    size: int
    count: int


_ENCODER = msgspec.json.Encoder(order="sorted")


def encode_json(value: msgspec.Struct) -> bytes:
    """The canonical bytes of ``value``: UTF-8, keys sorted, no spaces. What :func:`parse_json` accepts for its type."""
    return _ENCODER.encode(value)


def parse_json(data: bytes, kind: type[T], *, limits: JsonLimits, what: str) -> T:
    """Decode untrusted ``data`` as the struct ``kind``, in any order and spacing. ``what`` names it in messages.

    Raises MalformedError naming the defect on anything else, and above ``limits`` before any value exists. Not
    checked: what ``kind`` does not state.
    """
    _check_bounds(data, limits, what)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
        found = msgspec.convert(value, kind, strict=True)
        # A lone surrogate is a JSON escape and no text.
        _ENCODER.encode(found)
    except RecursionError:
        raise MalformedError(f"{what} is nested too deeply") from None
    except (ValueError, msgspec.MsgspecError) as error:
        raise MalformedError(f"{what} cannot be read: {error}") from None
    return found


def _check_bounds(data: bytes, limits: JsonLimits, what: str) -> None:
    if len(data) > limits.size:
        raise MalformedError(f"{what} has {len(data)} bytes, at most {limits.size} are read")
    # Marks inside of texts are counted as well: more than there are values, never fewer.
    if sum(map(data.count, (b",", b"[", b"{"))) > limits.count:
        raise MalformedError(f"{what} has more than {limits.count} values")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"the field {twice[:80]!r} is given twice")
    return found


def _integer(text: str) -> int:
    # 2^53 − 1 has 16 digits, and Python refuses to convert thousands of them with a message of its own.
    if len(text) > 17 or abs(int(text)) > INT_MAX or text == "-0":
        raise ValueError(f"the number {text[:20]} is outside ±(2^53−1)")
    return int(text)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:20]} is not an integer")
