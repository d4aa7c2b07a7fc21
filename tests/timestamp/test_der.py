"""Strict DER: one encoding per value."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polledger.errors import MalformedError, UsageError
from polledger.timestamp import der


def value(data: bytes) -> der.Value:
    reader = der.Reader(data, "test")
    found = reader.next()
    reader.end()
    return found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "missing"),
        (b"\x30", "truncated"),
        (b"\x30\x01", "truncated"),
        (b"\x30\x00\x00", "after the last field"),
        (b"\x1f\x01\x00", "more than one byte"),
        (b"\x30\x80\x00\x00", "indefinite"),
        (b"\x30\x81", "truncated"),
        (b"\x30\x85\x00\x00\x00\x00\x01\x00", "too long"),
        (b"\x30\x81\x7f" + bytes(127), "shortest form"),
        (b"\x30\x82\x00\x80" + bytes(128), "shortest form"),
        (b"\x30\x81\x80" + bytes(127), "truncated"),
    ],
)
def test_refuses_framing_that_is_not_der(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        value(data)


def test_accepts_lengths_in_their_shortest_form() -> None:
    assert value(b"\x30\x7f" + bytes(127)).content == bytes(127)
    assert value(b"\x30\x81\x80" + bytes(128)).content == bytes(128)
    assert value(b"\x30\x82\x01\x00" + bytes(256)).content == bytes(256)


def test_take_refuses_another_tag_and_optional_leaves_it() -> None:
    reader = der.Reader(b"\x02\x01\x05", "test")
    assert reader.optional(der.SEQUENCE) is None
    with pytest.raises(MalformedError, match="expected tag 0x30, found 0x02"):
        reader.take(der.SEQUENCE)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 bytes"), (bytes(65), "65 bytes"), (b"\x00\x7f", "shortest"), (b"\xff\x80", "shortest")],
)
def test_refuses_integers_that_are_not_der(content: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        der.read_integer(value(der.encode(der.INTEGER, content)), "test")


def test_longest_integer_is_read() -> None:
    assert der.read_integer(value(der.encode(der.INTEGER, b"\x01" + bytes(63))), "test") == 1 << 504


@given(st.integers(-(1 << 300), 1 << 300))
def test_integers_round_trip(number: int) -> None:
    assert der.read_integer(value(der.integer(number)), "test") == number


@pytest.mark.parametrize("content", [b"", b"\x01", b"\xfe", b"\x00\x00"])
def test_refuses_booleans_other_than_00_and_ff(content: bytes) -> None:
    with pytest.raises(MalformedError):
        der.read_boolean(value(der.encode(der.BOOLEAN, content)), "test")


@pytest.mark.parametrize("truth", [True, False])
def test_booleans_round_trip(truth: bool) -> None:
    assert der.read_boolean(value(der.boolean(truth)), "test") is truth


@pytest.mark.parametrize("content", [b"", b"\x2a\x86", b"\x2a\x80\x01", b"\x80\x01"])
def test_refuses_object_identifiers_that_are_not_der(content: bytes) -> None:
    with pytest.raises(MalformedError):
        der.read_oid(value(der.encode(der.OBJECT_IDENTIFIER, content)), "test")


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 1 << 96), max_size=4))
def test_object_identifiers_round_trip(first: int, second: int, rest: list[int]) -> None:
    dotted = ".".join(map(str, (first, second, *rest)))
    assert der.read_oid(value(der.oid(dotted)), "test") == dotted


def test_second_arc_under_2_may_be_large() -> None:
    assert der.read_oid(value(der.oid("2.999.1")), "test") == "2.999.1"


@pytest.mark.parametrize(
    "text", ["", "1", "1.", ".1", "3.1", "1.40", "1.02", "1.2.-3", "1.2.x", "1 .2", "1.٢"]
)
def test_refuses_text_that_is_no_object_identifier(text: str) -> None:
    with pytest.raises(UsageError, match="not an object identifier"):
        der.oid(text)


def test_an_object_identifier_of_thousands_of_digits_is_a_mistake_and_no_traceback() -> None:
    longest = "2.47" + ".127" * (der.OID_BYTES - 1)
    assert len(longest) == der.OID_CHARACTERS
    assert der.read_oid(value(der.oid(longest)), "test") == longest
    with pytest.raises(UsageError, match="characters, at most"):
        der.oid("1.2." + "9" * 5000)


def test_bit_strings_of_octets_have_no_unused_bits() -> None:
    assert der.read_octets_of_bits(value(b"\x03\x02\x00\xaa"), "test") == b"\xaa"
    for data in (b"\x03\x00", b"\x03\x02\x01\xaa"):
        with pytest.raises(MalformedError, match="whole octets"):
            der.read_octets_of_bits(value(data), "test")


@given(st.integers(0, 40))
def test_a_named_bit_round_trips(bit: int) -> None:
    assert der.read_named_bits(value(der.named_bit(bit)), "test") == [bit]


def test_named_bits_may_be_several_or_none() -> None:
    assert der.read_named_bits(value(b"\x03\x02\x05\xa0"), "test") == [0, 2]
    assert der.read_named_bits(value(b"\x03\x01\x00"), "test") == []


@pytest.mark.parametrize("content", [b"", b"\x08\x00", b"\x01", b"\x04\x80", b"\x07\xc0", b"\x00\x80\x00"])
def test_refuses_named_bits_that_are_not_der(content: bytes) -> None:
    with pytest.raises(MalformedError):
        der.read_named_bits(value(der.encode(der.BIT_STRING, content)), "test")


moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


@given(moments)
def test_times_round_trip_to_the_microsecond(moment: datetime) -> None:
    assert der.read_time(value(der.time(moment)), "test") == moment


def test_times_are_written_in_utc_and_need_a_zone() -> None:
    east = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert der.time(east) == b"\x18\x0f20251231230000Z"
    with pytest.raises(UsageError, match="time zone"):
        der.time(datetime(2026, 1, 1))  # noqa: DTZ001 - the missing zone is the point


def test_fractions_below_a_microsecond_are_rounded_up() -> None:
    found = der.read_time(value(der.encode(der.GENERALIZED_TIME, b"20261122061320.000000001Z")), "test")
    assert found.microsecond == 1
    last = der.read_time(value(der.encode(der.GENERALIZED_TIME, b"20261231235959.999999999Z")), "test")
    assert last == datetime(2027, 1, 1, tzinfo=UTC)


def test_a_time_beyond_the_calendar_is_refused() -> None:
    end = der.encode(der.GENERALIZED_TIME, b"99991231235959.999999999Z")
    with pytest.raises(MalformedError, match="does not exist"):
        der.read_time(value(end), "test")


def test_set_of_sorts_by_encoding() -> None:
    assert der.set_of(b"\x02\x01\x05", b"\x02\x01\x03") == b"\x31\x06\x02\x01\x03\x02\x01\x05"
