"""PROTOCOL section 3 transcribed slowly over stock msgpack: decode everything, look at everything, encode again."""

import unicodedata
from itertools import pairwise
from typing import Any

import msgpack

INT_MAX = 2**53 - 1
KEY = set("abcdefghijklmnopqrstuvwxyz0123456789_")


class Refused(Exception):
    pass


class Pairs(list):
    """A map as the pairs that were read."""


def refuse(*_: Any) -> Any:
    raise Refused


def canonical(value: Any) -> bytes:
    """The one encoding of ``value``: stock msgpack over maps sorted by key bytes."""
    return msgpack.packb(_sorted(value), use_bin_type=True)


def accepts(data: bytes, *, size: int, depth: int, count: int) -> bool:
    """Whether ``data`` is a value in PL-MP/1 form within the limits."""
    if len(data) > size:
        return False
    try:
        value = msgpack.unpackb(data, object_pairs_hook=Pairs, ext_hook=refuse, strict_map_key=False)
        return _check(value) <= depth and _count(value) <= count and canonical(_plain(value)) == data
    except (Refused, ValueError, msgpack.exceptions.UnpackException, OverflowError, RecursionError):
        return False


def _check(value: Any) -> int:
    """Depth of ``value``. Raises Refused if rule 1, 2 or 3 is broken."""
    if isinstance(value, Pairs):
        keys = [key for key, _ in value]
        if not all(isinstance(key, str) and key and set(key) <= KEY for key in keys):
            raise Refused
        if any(a.encode() >= b.encode() for a, b in pairwise(keys)):
            raise Refused
        return 1 + max((_check(item) for _, item in value), default=0)
    if isinstance(value, list):
        return 1 + max((_check(item) for item in value), default=0)
    if isinstance(value, str):
        if unicodedata.normalize("NFC", value) != value:
            raise Refused
    elif isinstance(value, int):
        if abs(value) > INT_MAX:
            raise Refused
    elif not isinstance(value, bytes):
        raise Refused
    return 0


def _count(value: Any) -> int:
    if isinstance(value, Pairs):
        return 1 + sum(1 + _count(item) for _, item in value)
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


def _plain(value: Any) -> Any:
    if isinstance(value, Pairs):
        return {key: _plain(item) for key, item in value}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=str.encode)}
    return [_sorted(item) for item in value] if isinstance(value, list | tuple) else value
