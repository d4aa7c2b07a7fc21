"""The encoding's own vectors: values that PL-MP/1 carries and byte strings that break one of its rules."""

import struct
from collections.abc import Iterator
from typing import Any

import msgpack

INT_MAX = 2**53 - 1


def ordered(value: Any) -> Any:
    """``value`` with the keys of every map in ascending order of their bytes."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value, key=lambda key: key.encode())}
    return [ordered(item) for item in value] if isinstance(value, list) else value


def pack(value: Any) -> bytes:
    """Canonical bytes by stock msgpack."""
    data: bytes = msgpack.packb(ordered(value), use_bin_type=True)
    return data


def raw_map(*pairs: tuple[bytes, bytes]) -> bytes:
    """A small map of encoded keys and values, in the order given."""
    return bytes([0x80 | len(pairs)]) + b"".join(key + value for key, value in pairs)


def accepted_values() -> Iterator[tuple[str, Any]]:
    """Name and value of every value that the encoding carries."""
    edges = [0, 2**7, 2**8, 2**16, 2**32]
    up = [value + d for value in edges for d in (-1, 0) if value + d >= 0] + [INT_MAX]
    down = [
        -value for value in (1, 2**5, 2**5 + 1, 2**7, 2**7 + 1, 2**15, 2**15 + 1, 2**31, 2**31 + 1, INT_MAX)
    ]
    yield "integers", up + down
    yield "booleans", [False, True]
    yield "empty-containers", [[], {}, "", b""]
    for size in (31, 32, 255, 256, 65535, 65536):
        yield f"string-{size}", "s" * size
        yield f"bytes-{size}", b"b" * size
        yield f"array-{size}", [0] * size
    for size in (15, 16):
        yield f"map-{size}", {f"k{i:02d}": 0 for i in range(size)}
    yield "keys", {"0": 1, "_": 2, "a": 3, "aa": 4, "ab": 5, "b": 6, "z" * 40: 7}
    yield "text", ["é", "日本語", "😀", "\u0000", "\ufeff", "한"]


def at_limits() -> Iterator[tuple[str, Any, int]]:
    """For each limit a value that just keeps it, and the limit."""
    yield "size", b"b" * 62, 64
    yield "depth", [[{"a": []}]], 4
    yield "count", [{"a": 1}, [2], 3], 7


Rejection = tuple[str, str, str, bytes]
"""Name, defect, part of the message, bytes."""


def rejected_values() -> Iterator[Rejection]:
    """Every way to break rules 1 to 3 and 5."""
    yield from _rejected_types()
    yield from _rejected_integers()
    yield from _rejected_headers()
    yield from _rejected_ends()
    yield from _rejected_keys()
    yield from _rejected_texts()


def _rejected_types() -> Iterator[Rejection]:
    yield "nil", "nil", "nil is not allowed", b"\xc0"
    yield "nil-in-map", "nil", "nil is not allowed", raw_map((b"\xa1a", b"\xc0"))
    yield "float32", "float", "a float is not allowed", b"\xca" + struct.pack(">f", 1.0)
    yield "float64", "float", "a float is not allowed", b"\x91\xcb" + struct.pack(">d", 1.0)
    for head, content in ((0xD4, 2), (0xD5, 3), (0xD6, 5), (0xD7, 9), (0xD8, 17)):
        yield f"ext-{head:x}", "ext", "an extension type", bytes([head]) + bytes(content)
    for head, width in ((0xC7, 1), (0xC8, 2), (0xC9, 4)):
        yield (
            f"ext-{head:x}",
            "ext",
            "an extension type",
            bytes([head]) + (1).to_bytes(width, "big") + b"\x05x",
        )
    yield "timestamp", "ext", "an extension type", msgpack.packb(msgpack.Timestamp(1, 2))
    yield "reserved", "reserved", "0xc1", b"\xc1"


def _rejected_integers() -> Iterator[Rejection]:
    error = "an integer is not in its shortest form"
    for head, width, value in (
        (0xCC, 1, 2**7 - 1),
        (0xCD, 2, 2**8 - 1),
        (0xCE, 4, 2**16 - 1),
        (0xCF, 8, 2**32 - 1),
    ):
        yield f"integer-{head:x}-{value}", "integer_form", error, bytes([head]) + value.to_bytes(width, "big")
    signed = (
        (0xD0, 1, -(2**5)),
        (0xD1, 2, -(2**7)),
        (0xD2, 4, -(2**15)),
        (0xD3, 8, -(2**31)),
        (0xD0, 1, 5),
        (0xD3, 8, 2**40),
    )
    for head, width, value in signed:
        data = bytes([head]) + value.to_bytes(width, "big", signed=True)
        yield f"integer-{head:x}-{value}", "integer_form", error, data
    for value in (INT_MAX + 1, 2**64 - 1, -INT_MAX - 1, -(2**63)):
        yield f"integer-{value}", "integer_range", "outside ±(2^53−1)", pack(value)


def _rejected_headers() -> Iterator[Rejection]:
    error = "a length is not in its shortest form"
    forms = {
        "string": (b"s", ((0xD9, 1, 31), (0xDA, 2, 255), (0xDB, 4, 65535))),
        "bytes": (b"b", ((0xC5, 2, 255), (0xC6, 4, 65535))),
        "array": (b"\0", ((0xDC, 2, 15), (0xDD, 4, 65535))),
    }
    for name, (item, heads) in forms.items():
        for head, width, length in heads:
            data = bytes([head]) + length.to_bytes(width, "big") + item * length
            yield f"{name}-{head:x}-{length}", "header_form", error, data
    for head, width in ((0xDE, 2), (0xDF, 4)):
        pairs = raw_map(*((b"\xa1" + bytes([97 + i]), b"\0") for i in range(15)))[1:]
        yield f"map-{head:x}-15", "header_form", error, bytes([head]) + (15).to_bytes(width, "big") + pairs
    yield "key-d9-1", "header_form", error, b"\x81\xd9\x01a\x00"


def _rejected_ends() -> Iterator[Rejection]:
    whole = {
        "nothing": b"", "string": b"\xa2a", "string-header": b"\xd9", "bytes": b"\xc4\x02a", "bytes-header": b"\xc4",
        "integer": b"\xcd\x01", "array": b"\x92\x00", "array-header": b"\xdc\x00", "map-value": b"\x81\xa1a",
        "map-key": b"\x81", "key": b"\x81\xa2a", "long-key": b"\x81\xd9\x28a", "text": b"\xa3\xc3\xa9", "inside-character": b"\xa2\xc3",
        "key-empty": b"\x81\xa2", "long-key-empty": b"\x81\xd9\x28",
        "array-inflated": b"\xdd\xff\xff\xff\xff", "map-inflated": b"\xdf\xff\xff\xff\xff\xa1a\x00",
        "bytes-inflated": b"\xc6\xff\xff\xff\xff", "string-inflated": b"\xdb\xff\xff\xff\xffa",
    }  # fmt: skip
    for name, data in whole.items():
        yield f"truncated-{name}", "truncated", "truncated", data
    yield "trailing-byte", "trailing", "1 bytes after the value", b"\x00\x00"
    yield "trailing-value", "trailing", "3 bytes after the value", b"\x80" + pack("ab")
    yield "nested-inflated", "count", "more than 200000 values", (b"\xdc\x80\x00" * 20) + bytes(1 << 16)
    yield "nested-deep", "depth", "nested deeper than 24", b"\x91" * 25 + b"\x00"


def _rejected_keys() -> Iterator[Rejection]:
    for name, key in (("integer", b"\x01"), ("bytes", b"\xc4\x01a"), ("array", b"\x90"), ("nil", b"\xc0")):
        yield f"key-{name}", "key_type", "not a string", raw_map((key, b"\0"))
    # A reader that takes the length of such a key for negative would slice from the far end.
    yield (
        "key-integer-before-letters",
        "key_type",
        "not a string",
        b"\x82\xa1a\x00\x01" + b"b" * 400,
    )
    for name, text in (
        ("empty", ""),
        ("upper", "A"),
        ("dash", "a-b"),
        ("dot", "a.b"),
        ("newline", "a\n"),
        ("accent", "é"),
    ):
        yield f"key-{name}", "key_characters", "characters outside", raw_map((pack(text), b"\0"))
    yield "key-long-upper", "key_characters", "characters outside", raw_map((pack("A" * 40), b"\0"))
    yield "key-order", "key_order", "not in ascending order", raw_map((b"\xa1b", b"\0"), (b"\xa1a", b"\0"))
    yield (
        "key-order-prefix",
        "key_order",
        "not in ascending order",
        raw_map((b"\xa2ab", b"\0"), (b"\xa1a", b"\0")),
    )
    by_length = raw_map((b"\xa1b", b"\0"), (b"\xa2aa", b"\0"))
    yield "key-order-by-length", "key_order", "not in ascending order", by_length
    yield (
        "key-duplicate",
        "key_duplicate",
        "'a' occurs twice",
        raw_map((b"\xa1a", b"\0"), (b"\xa1a", b"\x01")),
    )
    inner = raw_map((b"\xa1z", b"\0"), (b"\xa1z", b"\0"))
    yield "key-duplicate-inside", "key_duplicate", "'z' occurs twice", b"\x91" + raw_map((b"\xa1a", inner))


def _rejected_texts() -> Iterator[Rejection]:
    broken = {
        "byte": b"\xff",
        "surrogate": b"\xed\xa0\x80",
        "overlong": b"\xc0\x80",
        "cut": b"\xc3",
        "high": b"\xf4\x90\x80\x80",
    }
    for name, raw in broken.items():
        yield f"utf8-{name}", "utf8", "not UTF-8", bytes([0xA0 + len(raw)]) + raw
    yield "utf8-long", "utf8", "not UTF-8", b"\xd9\x20" + b"a" * 31 + b"\xff"
    yield "nfc-combining", "nfc", "not in NFC", pack("e\u0301")
    yield "nfc-hangul", "nfc", "not in NFC", pack("\u1112\u1161\u11ab")
    yield "nfc-angstrom", "nfc", "not in NFC", pack("\u212b")
    yield "nfc-long", "nfc", "not in NFC", pack("a" * 40 + "e\u0301")
