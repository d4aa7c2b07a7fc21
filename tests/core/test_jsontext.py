"""Strict JSON: what two readers could understand differently is refused."""

import contextlib
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polledger.core.jsontext import JsonLimits, encode_json, parse_json
from polledger.errors import MalformedError

LIMITS = JsonLimits(size=1000, count=100)


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int
    inner: list[Inner]


GOOD = Outer(number=-5, inner=[Inner(text="é")])


def parsed(data: bytes, limits: JsonLimits = LIMITS) -> Outer:
    return parse_json(data, Outer, limits=limits, what="the thing")


def test_what_is_written_is_read_in_any_order_and_spacing() -> None:
    assert encode_json(GOOD) == '{"inner":[{"text":"é"}],"number":-5}'.encode()
    assert parsed(encode_json(GOOD)) == GOOD
    assert parsed(b' {"number" : -5,\n "inner": [{"text":"\\u00e9"}]}\n') == GOOD


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"number":1,"number":1,"inner":[]}', "'number' is given twice"),
        (b'{"number":1,"inner":[{"text":"a","text":"b"}]}', "'text' is given twice"),
        (b'{"number":1,"inner":[],"more":1}', "unknown field"),
        (b'{"number":1.0,"inner":[]}', "not an integer"),
        (b'{"number":1e3,"inner":[]}', "not an integer"),
        (b'{"number":NaN,"inner":[]}', "not an integer"),
        (b'{"number":-0,"inner":[]}', "outside"),
        (b'{"number":9007199254740992,"inner":[]}', "outside"),
        (b'{"number":' + b"9" * 500 + b',"inner":[]}', "outside"),
        (b'{"number":"1","inner":[]}', "Expected `int`"),
        (b'{"number":true,"inner":[]}', "Expected `int`"),
        (b'{"number":1}', "missing required field"),
        (b'{"number":1,"inner":[{"text":"\\ud800"}]}', "surrogates"),
        (b'{"number":1,"inner":[{"text":"\xff"}]}', "cannot be read"),
        (b'\xef\xbb\xbf{"number":1,"inner":[]}', "BOM"),
        ('{"number":1,"inner":[]}'.encode("utf-16"), "cannot be read"),
        (b'{"number":1,"inner":[]} {}', "Extra data"),
        (b'{"number":1,"inner":[],}', "cannot be read"),
        (b"", "cannot be read"),
        (b"null", "Expected `object`"),
    ],
)
def test_refused(data: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        parsed(data)


def test_the_largest_integers_are_read() -> None:
    for number in (2**53 - 1, 1 - 2**53):
        assert parsed(b'{"number":%d,"inner":[]}' % number).number == number


def test_bounds_hold_before_anything_is_made() -> None:
    full = b'{"number":1,"inner":[%s]}' % b",".join([b'{"text":"a"}'] * 49)
    assert len(parsed(full).inner) == 49
    with pytest.raises(MalformedError, match="more than 100 values"):
        parsed(full.replace(b'"a"', b'"a,"', 1))
    padded = encode_json(GOOD).ljust(1000)
    assert parsed(padded) == GOOD
    with pytest.raises(MalformedError, match="at most 1000"):
        parsed(padded + b" ")


def test_nesting_ends_in_a_refusal_and_no_crash() -> None:
    deep = JsonLimits(size=1 << 20, count=1 << 20)
    for opening in (b"[", b'{"a":'):
        with pytest.raises(MalformedError):
            parsed(opening * 100_000, deep)


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        parsed(data)


def test_the_last_of_many_names_given_twice_is_found_at_once() -> None:
    names = [f'"{number}":1' for number in range(300_000)]
    text = "{" + ",".join([*names, names[-1]]) + "}"
    begin = time.monotonic()
    with pytest.raises(MalformedError, match="'299999' is given twice"):
        parsed(text.encode(), JsonLimits(size=1 << 25, count=1_000_000))
    # Counting each name among all takes a quarter of an hour.
    assert time.monotonic() - begin < 30
