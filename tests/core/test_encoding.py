import math
import struct
import tracemalloc
from typing import Any, get_args

import msgspec
import pytest

from polledger.core.encoding import (
    RECORD_LIMITS,
    SEAL_LIMITS,
    SOURCE_LIMITS,
    STATE_LIMITS,
    EncodingRejected,
    Limits,
    encode,
    from_real,
    parse,
    real,
)
from polledger.core.records import Step, TokenRef, parse_record, parse_seal
from polledger.core.scan import Defect
from polledger.errors import MalformedError, UsageError
from tests.core.encoding_vectors import Vector, load

ACCEPT, REJECT = load("accept"), load("reject")

STEP = Step(v=1, run=b"r" * 16, index=2, step=0, batch=b"b" * 32, metrics={"loss": real(0.5)})


def by_name(vector: Vector) -> str:
    return vector.name


@pytest.mark.parametrize("vector", ACCEPT, ids=by_name)
def test_accepted_vector_decodes_and_encodes_to_its_bytes(vector: Vector) -> None:
    value = vector.parse()
    assert encode(value) == vector.data
    if "json" in vector.content:
        assert msgspec.to_builtins(value) == vector.content["json"]


@pytest.mark.parametrize("vector", REJECT, ids=by_name)
def test_rejected_vector_is_rejected_for_its_defect(vector: Vector) -> None:
    with pytest.raises(EncodingRejected) as caught:
        vector.parse()
    assert caught.value.defect == vector.content["defect"]
    assert vector.content["error"] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_defect_has_a_rejected_vector() -> None:
    # The remaining one cannot be reached by any type of version 1; it has a test of its own below.
    assert {vector.content["defect"] for vector in REJECT} == {*get_args(Defect)} - {"reencoding"}


def test_a_value_that_reencodes_to_other_bytes_is_rejected() -> None:
    class WithDefault(msgspec.Struct, omit_defaults=True):
        v: int
        x: int = 0

    with pytest.raises(EncodingRejected) as caught:
        parse(b"\x82\xa1v\x01\xa1x\x00", WithDefault, limits=RECORD_LIMITS)
    assert caught.value.defect == "reencoding"


def test_a_rejection_is_malformed_input() -> None:
    assert issubclass(EncodingRejected, MalformedError)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_parses_views_and_arrays_like_bytes(kind: Any) -> None:
    assert parse_record(encode(STEP)) == parse(kind(encode(STEP)), Step, limits=RECORD_LIMITS) == STEP


def test_a_view_is_measured_before_it_is_copied() -> None:
    wide = memoryview(bytes(1 << 20)).cast("I")
    assert len(wide) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(EncodingRejected) as caught:
            parse(wide, Any, limits=Limits(size=(1 << 20) - 1, depth=1, count=1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.defect == "size"
    assert peak < 1 << 16


def test_limits_of_every_kind_of_object_are_the_documented_ones() -> None:
    assert Limits(size=1 << 20, depth=24, count=200_000) == RECORD_LIMITS
    assert Limits(size=1 << 20, depth=8, count=10_000) == SEAL_LIMITS
    assert Limits(size=1 << 20, depth=8, count=100_000) == SOURCE_LIMITS
    assert Limits(size=1 << 26, depth=64, count=4_000_000) == STATE_LIMITS


def test_a_seal_beyond_its_limits_is_rejected() -> None:
    token = TokenRef(authority="a" * 250, request=bytes(32), response=bytes(32), chain=[bytes(32)] * 30)
    seal = {"v": 1, "type": "seal", "index": 0, "note": b"", "tokens": [msgspec.to_builtins(token)] * 1000}
    with pytest.raises(EncodingRejected) as caught:
        parse_seal(encode(seal))
    assert caught.value.defect == "size"


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff\xa1a",
        b"\xc6\xff\xff\xff\xff",
        b"\xdc\xff\xff" * 20 + bytes(1 << 17),
        b"\x91" * 100_000,
    ],
    ids=["array", "map", "bytes", "arrays inside each other", "depth"],
)
def test_inflated_lengths_allocate_next_to_nothing(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(EncodingRejected):
            parse(data, Any, limits=RECORD_LIMITS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 16


@pytest.mark.parametrize(
    "value",
    [
        None,
        [None],
        1.5,
        {"a": math.nan},
        2**53,
        -(2**53),
        2**64,
        2**70,
        {1: 2},
        {"A": 1},
        {"": 1},
        "e\u0301",
        "\ud800",
        {"e\u0301": 1},
        pytest.param(object(), id="an object"),
        STEP.__class__,
    ],
    ids=repr,
)
def test_values_that_the_encoding_cannot_carry_are_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="cannot be encoded"):
        encode(value)


def test_encoding_stops_at_the_deepest_nesting_that_any_reader_takes() -> None:
    value: list[Any] = []
    for _ in range(63):
        value = [value]
    assert encode(value)
    with pytest.raises(UsageError, match="nested deeper than 64"):
        encode([value])


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UsageError):
        encode(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": "1"},
        {"step": 2**53},
        {"batch": b"short"},
        {"run": bytes(17)},
        {"v": 2},
        {"metrics": {"loss": 0.5}},
        {"metrics": {"loss": b"1234567"}},
        {"metrics": {"Loss": real(0.5)}},
        {"examples": [-1]},
        {"examples": None},
    ],
    ids=repr,
)
def test_a_struct_that_breaks_its_own_bounds_is_not_encoded(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be encoded"):
        encode(msgspec.structs.replace(STEP, **changes))


def test_absent_fields_are_left_out() -> None:
    bare = Step(v=1, run=b"r" * 16, index=2, step=0, batch=b"b" * 32)
    assert b"groups" not in encode(bare)
    assert b"metrics" not in encode(bare)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 0.1, 1e308, 5e-324, math.inf, -math.inf])
def test_a_real_is_ieee_754_big_endian(value: float) -> None:
    assert real(value) == struct.pack(">d", value)
    assert struct.pack(">d", from_real(real(value))) == real(value)


def test_a_nan_survives_as_a_real() -> None:
    assert math.isnan(from_real(real(math.nan)))


@pytest.mark.parametrize("length", [0, 7, 9])
def test_a_real_of_another_length_is_rejected(length: int) -> None:
    with pytest.raises(MalformedError, match="8 bytes"):
        from_real(bytes(length))


@pytest.mark.parametrize(("data", "version"), [({"v": 2, "type": "x"}, 2), ({"v": 0, "new": [1]}, 0)])
def test_an_unknown_version_is_named_before_unknown_fields(data: dict[str, Any], version: int) -> None:
    with pytest.raises(EncodingRejected, match=f"version {version} is not known") as caught:
        parse_record(encode(data))
    assert caught.value.defect == "version"
