"""One walk over untrusted PL-MP/1 bytes that builds nothing. PROTOCOL section 3, rules 1 to 3 and 5.

Size, depth and count are refused before any value exists, so a small hostile file cannot make a large value.
What is *not* checked here: which fields a map must have, what they mean, and rule 6 (typed decode and
re-encoding).
"""

import unicodedata
from dataclasses import dataclass
from typing import Literal, TypeAlias

from polledger.errors import MalformedError

INT_MAX = 2**53 - 1
"""Largest magnitude of an integer: what every JSON and JavaScript reader represents exactly."""

KEY_BYTES = b"abcdefghijklmnopqrstuvwxyz0123456789_"

Defect: TypeAlias = Literal[
    "size",
    "depth",
    "count",
    "truncated",
    "trailing",
    "nil",
    "float",
    "ext",
    "reserved",
    "header_form",
    "integer_form",
    "integer_range",
    "key_type",
    "key_characters",
    "key_order",
    "key_duplicate",
    "utf8",
    "nfc",
    "version",
    "schema",
    "reencoding",
]
"""Names of the ways in which bytes break the encoding; ``schemas/vectors/reject`` has a case of each.

``reencoding`` alone has none: no type of version 1 can reach it, it guards against types still to come.
"""


class EncodingRejected(MalformedError):
    """Bytes that are not the canonical encoding of a valid value. ``defect`` names the broken rule."""

    def __init__(self, defect: Defect, message: str) -> None:
        super().__init__(message)
        self.defect: Defect = defect


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one encoded value, checked before decoding.

    ``size`` is in bytes, ``depth`` is the number of arrays and maps around and including the innermost one,
    ``count`` counts all values: containers, keys and members.
    """

    size: int
    depth: int
    count: int


# What the first byte of a value means; the walk tests them in this order, the most frequent first.
_ONE, _FIXSTR, _BIN8, _MAP, _ARRAY, _WIDE = range(6)


def _kind(first: int) -> int:
    if first < 0x80 or first >= 0xE0 or first in (0xC2, 0xC3):
        return _ONE
    if first < 0xC0:
        return _MAP if first < 0x90 else _ARRAY if first < 0xA0 else _FIXSTR
    return _BIN8 if first == 0xC4 else _WIDE


_KINDS = bytes(_kind(first) for first in range(256))


def scan(data: bytes, limits: Limits) -> None:
    """Raise EncodingRejected unless ``data`` is exactly one value in PL-MP/1 form within ``limits``."""
    size = len(data)
    if size > limits.size:
        raise EncodingRejected("size", f"{size} bytes, at most {limits.size} are allowed")
    try:
        end = _walk(data, limits)
    except IndexError:
        end = size + 1
    if end > size:
        raise EncodingRejected("truncated", f"the value is truncated, it does not end within {size} bytes")
    if end < size:
        raise EncodingRejected("trailing", f"{size - end} bytes after the value")


def _walk(data: bytes, limits: Limits) -> int:  # noqa: C901 (one loop: see below)
    """Where the value ends; beyond ``len(data)``, or an IndexError, where it does not.

    One long function on purpose: a step record has about 30 values, and a call per value doubles the time.
    """
    kinds, key_bytes = _KINDS, KEY_BYTES
    # The open containers around the current one: values left, and the key read last (None in an array).
    stack: list[tuple[int, bytes | None]] = []
    left, previous = 1, None
    position, count = 0, 1
    while True:
        while not left:
            if not stack:
                return position
            left, previous = stack.pop()
        left -= 1
        if previous is not None:
            start = position + 1
            length = data[position] - 0xA0
            end = start + length
            key = data[start:end]
            # A negative length would slice from the far end, so it is looked at as well as the key.
            if not 0 < length < 32 or key <= previous or key.translate(None, key_bytes):
                key, end = _key(data, position, previous)
            previous, position = key, end
        first = data[position]
        kind = kinds[first]
        if kind == _ONE:
            position += 1
            continue
        if kind == _FIXSTR:
            start = position + 1
            position = start + first - 0xA0
            if not data[start:position].isascii():
                _check_text(data, start, position)
            continue
        if kind == _BIN8:
            position += 2 + data[position + 1]
            continue
        if kind == _WIDE:
            kind, position, length = _wide(data, position, first)
            if kind == _ONE:
                continue
        else:
            position, length = position + 1, first & 0x0F
        count += 2 * length if kind == _MAP else length
        if count > limits.count:
            raise EncodingRejected("count", f"byte {position}: more than {limits.count} values")
        if len(stack) >= limits.depth:
            raise EncodingRejected("depth", f"byte {position}: nested deeper than {limits.depth}")
        stack.append((left, previous))
        left, previous = length, b"" if kind == _MAP else None


def _key(data: bytes, position: int, previous: bytes) -> tuple[bytes, int]:
    """A key that the walk did not take at once: a long one, or one that breaks a rule."""
    first = data[position]
    if first in _STRINGS:
        start, end = _extent(data, position, first)
    elif 0xA0 <= first < 0xC0:
        start, end = position + 1, position + 1 + first - 0xA0
    else:
        raise EncodingRejected("key_type", f"byte {position}: a map key is not a string")
    _check_end(data, position, end)
    key = data[start:end]
    if not key or key.translate(None, KEY_BYTES):
        raise EncodingRejected(
            "key_characters", f"byte {position}: a map key is empty or has characters outside a-z, 0-9 and _"
        )
    if key == previous:
        raise EncodingRejected("key_duplicate", f"byte {position}: the map key {key.decode()!r} occurs twice")
    if key < previous:
        raise EncodingRejected("key_order", f"byte {position}: map keys are not in ascending order")
    return key, end


def _check_end(data: bytes, position: int, end: int) -> None:
    if end > len(data):
        raise EncodingRejected("truncated", f"byte {position}: the value is truncated")


def _check_text(data: bytes, start: int, end: int) -> None:
    _check_end(data, start, end)
    try:
        text = data[start:end].decode("utf-8")
    except UnicodeDecodeError:
        raise EncodingRejected("utf8", f"byte {start}: a string is not UTF-8") from None
    if not unicodedata.is_normalized("NFC", text):
        raise EncodingRejected("nfc", f"byte {start}: a string is not in NFC")


# first byte -> (width of the length field, smallest length that needs this width)
_BINARIES = {0xC5: (2, 1 << 8), 0xC6: (4, 1 << 16)}
_STRINGS = {0xD9: (1, 32), 0xDA: (2, 1 << 8), 0xDB: (4, 1 << 16)}
_ARRAYS = {0xDC: (2, 16), 0xDD: (4, 1 << 16)}
_MAPS = {0xDE: (2, 16), 0xDF: (4, 1 << 16)}
_SIZED = _BINARIES | _STRINGS | _ARRAYS | _MAPS
# first byte -> (width, signed, first value that does not need this width, going towards zero)
_INTEGERS = {
    0xCC: (1, False, (1 << 7) - 1),
    0xCD: (2, False, (1 << 8) - 1),
    0xCE: (4, False, (1 << 16) - 1),
    0xCF: (8, False, (1 << 32) - 1),
    0xD0: (1, True, -(1 << 5)),
    0xD1: (2, True, -(1 << 7)),
    0xD2: (4, True, -(1 << 15)),
    0xD3: (8, True, -(1 << 31)),
}


def _wide(data: bytes, position: int, first: int) -> tuple[int, int, int]:
    """A value whose head is longer than a byte: (_ONE, end, 0) or (_MAP or _ARRAY, first member, length)."""
    if first in _INTEGERS:
        return _ONE, _integer(data, position, first), 0
    if first not in _SIZED:
        _refuse_type(position, first)
    start, end = _extent(data, position, first)
    # A member takes at least one byte, so an inflated length is refused here whatever the container.
    _check_end(data, position, end)
    if first in _ARRAYS or first in _MAPS:
        return _MAP if first in _MAPS else _ARRAY, start, end - start
    if first in _STRINGS:
        _check_text(data, start, end)
    return _ONE, end, 0


def _extent(data: bytes, position: int, first: int) -> tuple[int, int]:
    """Where the content begins, and that plus the length that the head states."""
    width, least = _SIZED[first]
    start = position + 1 + width
    _check_end(data, position, start)
    length = int.from_bytes(data[position + 1 : start], "big")
    if length < least:
        raise EncodingRejected("header_form", f"byte {position}: a length is not in its shortest form")
    return start, start + length


def _integer(data: bytes, position: int, first: int) -> int:
    width, signed, edge = _INTEGERS[first]
    end = position + 1 + width
    _check_end(data, position, end)
    value = int.from_bytes(data[position + 1 : end], "big", signed=signed)
    if value >= edge if signed else value <= edge:
        raise EncodingRejected("integer_form", f"byte {position}: an integer is not in its shortest form")
    if not -INT_MAX <= value <= INT_MAX:
        raise EncodingRejected("integer_range", f"byte {position}: an integer is outside ±(2^53−1)")
    return end


def _refuse_type(position: int, first: int) -> None:
    if first == 0xC0:
        raise EncodingRejected("nil", f"byte {position}: nil is not allowed, an absent field is left out")
    if first in (0xCA, 0xCB):
        raise EncodingRejected("float", f"byte {position}: a float is not allowed, a real is 8 bytes")
    if first == 0xC1:
        raise EncodingRejected("reserved", f"byte {position}: 0xc1 is no MessagePack value")
    raise EncodingRejected("ext", f"byte {position}: an extension type is not allowed")
