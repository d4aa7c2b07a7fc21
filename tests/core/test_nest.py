"""Nests: the header accounts for every byte, and each tensor is used once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polledger.core.encoding import encode
from polledger.core.nest import NEST_LIMITS, NestHeader, NestTensor, encode_header, parse_nest
from polledger.errors import MalformedError


def nest(structure: list[Any], tensors: list[tuple[str, list[int]]], data: bytes) -> bytes:
    described = [NestTensor(dtype=dtype, shape=shape) for dtype, shape in tensors]
    return encode_header(structure, described) + data


GOOD = nest(
    ["map", [["x", ["tensor", 0]], ["a", ["tuple", [["array", 1], ["scalar", 2], ["int", "5"]]]]]],
    [("float32", [2]), ("uint8", [0, 3]), ("int16", [])],
    b"12345678" + b"ab",
)


def test_nest_is_split_into_its_tensors() -> None:
    parsed = parse_nest(GOOD)
    assert [(dtype, shape, bytes(data)) for dtype, shape, data in parsed.tensors] == [
        ("float32", (2,), b"12345678"),
        ("uint8", (0, 3), b""),
        ("int16", (), b"ab"),
    ]


def test_leaves_are_named_by_their_path() -> None:
    assert list(parse_nest(GOOD).leaves()) == [
        ("x", ["tensor", 0]),
        ("a/0", ["array", 1]),
        ("a/1", ["scalar", 2]),
        ("a/2", ["int", "5"]),
    ]


def test_bare_value_has_an_empty_path() -> None:
    assert list(parse_nest(nest(["tensor", 0], [("bool", [])], b"\1")).leaves()) == [("", ["tensor", 0])]


BAD = {
    "empty": b"",
    "no-header": bytes(8),
    "header-longer-than-the-nest": (100).to_bytes(8, "big") + b"x",
    "trailing-byte": GOOD + b"\0",
    "truncated": GOOD[:-1],
    "index-skipped": nest(["tensor", 1], [("bool", []), ("bool", [])], b"\1\1"),
    "index-twice": nest(["list", [["tensor", 0], ["tensor", 0]]], [("bool", [])], b"\1"),
    "indices-out-of-order": nest(
        ["list", [["tensor", 1], ["tensor", 0]]], [("bool", []), ("bool", [])], b"\1\1"
    ),
    "index-beyond": nest(["tensor", 0], [], b""),
    "index-a-boolean": nest(["tensor", False], [("bool", [])], b"\1"),
    "index-a-path": nest(["tensor", "x"], [("bool", [])], b"\1"),
    "tensor-not-used": nest(["none"], [("bool", [])], b"\1"),
    "unknown-dtype": nest(["tensor", 0], [("object", [])], b"\1"),
    "too-many-dimensions": nest(["tensor", 0], [("bool", [1] * 65)], b"\1"),
    "scalar-with-dimensions": nest(["scalar", 0], [("bool", [1])], b"\1"),
    "broken-structure": nest(["map", [["a", ["none"]], ["a", ["none"]]]], [], b""),
}


@pytest.mark.parametrize("name", BAD)
def test_rejects_malformed_nest(name: str) -> None:
    with pytest.raises(MalformedError):
        parse_nest(BAD[name])


def test_rejects_header_longer_than_the_limit() -> None:
    data = (NEST_LIMITS.size + 1).to_bytes(8, "big") + bytes(NEST_LIMITS.size + 1)
    with pytest.raises(MalformedError, match="too large"):
        parse_nest(data)


def test_rejects_a_version_it_does_not_know() -> None:
    header = encode(NestHeader(v=1, structure=["none"], tensors=[])).replace(b"\xa1v\x01", b"\xa1v\x02")
    with pytest.raises(MalformedError, match="version"):
        parse_nest(len(header).to_bytes(8, "big") + header)


@given(st.binary(max_size=100))
def test_parsing_noise_never_crashes(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_nest(data)


@given(st.integers(0, 8 * len(GOOD) - 1))
def test_flipped_bit_is_rejected_or_gives_another_nest(bit: int) -> None:
    changed = bytearray(GOOD)
    changed[bit // 8] ^= 1 << bit % 8
    try:
        parsed = parse_nest(changed)
    except MalformedError:
        return
    good = parse_nest(GOOD)
    found = (parsed.structure, [(*part[:2], bytes(part[2])) for part in parsed.tensors])
    assert found != (good.structure, [(*part[:2], bytes(part[2])) for part in good.tensors])
