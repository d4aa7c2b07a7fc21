import unicodedata
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.core.encoding import RECORD_LIMITS, EncodingRejected, Limits, encode, parse
from polledger.core.records import AnyRecord, parse_record, parse_seal
from polledger.core.scan import scan
from polledger.core.source import parse_source
from polledger.errors import MalformedError
from tests.core import oracle_encoding as oracle
from tests.core.encoding_vectors import Vector, load

LIMITS = Limits(size=4096, depth=6, count=200)
INT_MAX = 2**53 - 1

STRUCTS = [vector for vector in load("accept") if vector.kind != "value"]

keys = st.text("abcz019_", min_size=1, max_size=40)
texts = st.text(max_size=40).map(lambda text: unicodedata.normalize("NFC", text))
scalars = st.booleans() | st.integers(-INT_MAX, INT_MAX) | texts | st.binary(max_size=300)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(keys, inner, max_size=20),
    max_leaves=40,
)
# What stock msgpack writes and PL-MP/1 mostly refuses.
foreign = st.recursive(
    scalars | st.none() | st.floats() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 5), inner, max_size=5)
    ),
    max_leaves=20,
)


def accepted(data: bytes, limits: Limits = LIMITS) -> bool:
    try:
        scan(data, limits)
    except EncodingRejected:
        return False
    return True


def oracle_accepts(data: bytes, limits: Limits = LIMITS) -> bool:
    return oracle.accepts(data, size=limits.size, depth=limits.depth, count=limits.count)


def mutate(data: bytes, random: Random) -> bytes:
    """``data`` with one small change."""
    mutant = bytearray(data)
    position = random.randrange(len(data))
    match random.randrange(6):
        case 0:
            mutant[position] ^= 1 << random.randrange(8)
        case 1:
            mutant[position] = random.randrange(256)
        case 2:
            mutant[position:position] = random.randbytes(random.randint(1, 5))
        case 3:
            del mutant[position : position + random.randint(1, 5)]
        case 4:
            del mutant[position:]
        case 5:
            mutant[position:position] = mutant[position : position + random.randint(1, 20)]
    return bytes(mutant)


@given(values)
@settings(max_examples=200, deadline=None)
def test_encoding_equals_stock_msgpack_over_sorted_maps(value: Any) -> None:
    assert encode(value) == oracle.canonical(value)


@given(values)
@settings(max_examples=150, deadline=None)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    limits = Limits(size=1 << 20, depth=64, count=1 << 20)
    assert parse(encode(value), Any, limits=limits) == value


@given(values, st.integers(0, 6), st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_limits_are_counted_as_the_oracle_counts(value: Any, depth: int, count: int) -> None:
    data = oracle.canonical(value)
    for limits in (
        Limits(size=len(data), depth=depth, count=1 << 20),
        Limits(size=len(data), depth=64, count=count),
        Limits(size=len(data) - 1, depth=64, count=1 << 20),
    ):
        assert accepted(data, limits) == oracle_accepts(data, limits)


@given(values, st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_mutants_are_judged_as_the_oracle_judges(value: Any, seed: int) -> None:
    random = Random(seed)
    data = oracle.canonical(value)
    for _ in range(60):
        mutant = mutate(data, random)
        assert accepted(mutant) == oracle_accepts(mutant), mutant.hex()


@given(foreign.map(msgpack.packb))
@settings(max_examples=300, deadline=None)
def test_foreign_msgpack_is_judged_as_the_oracle_judges(data: bytes) -> None:
    assert accepted(data) == oracle_accepts(data)


@given(st.binary(max_size=64))
@settings(max_examples=500, deadline=None)
def test_random_bytes_are_judged_as_the_oracle_judges(data: bytes) -> None:
    assert accepted(data) == oracle_accepts(data)


@pytest.mark.parametrize("first", range(256))
def test_every_first_byte_is_judged_as_the_oracle_judges(first: int) -> None:
    for second in (0x00, 0x1F, 0x20, 0x7F, 0x80, 0xFF):
        for length in range(18):
            data = bytes([first, second, *([0x61] * length)])
            assert accepted(data) == oracle_accepts(data), data.hex()
            inside = b"\x82\xa1a" + data
            assert accepted(inside) == oracle_accepts(inside), inside.hex()


@given(st.binary(max_size=200) | foreign.map(msgpack.packb))
@settings(max_examples=300, deadline=None)
def test_every_gate_raises_nothing_but_a_rejection(data: bytes) -> None:
    for gate in (parse_record, parse_seal, parse_source):
        with pytest.raises(EncodingRejected):
            gate(data)


@given(data=st.data(), value=foreign)
@settings(max_examples=200, deadline=None)
def test_a_record_with_a_foreign_field_raises_nothing_but_a_rejection(
    data: st.DataObject, value: Any
) -> None:
    vector = data.draw(st.sampled_from(STRUCTS))
    fields = msgpack.unpackb(vector.data)
    field = data.draw(st.sampled_from(sorted(fields)))
    mutant = msgpack.packb({key: value if key == field else fields[key] for key in sorted(fields)})
    try:
        parsed = vector.parse(mutant)
    except EncodingRejected:
        return
    assert encode(parsed) == mutant


def refusals(vector: Vector) -> type[Exception]:
    """What refuses a mutant: the gate, and for a challenge, whose parser looks further, also what is in it."""
    return MalformedError if vector.kind == "challenge" else EncodingRejected


@pytest.mark.parametrize("vector", STRUCTS, ids=lambda vector: vector.name)
def test_a_flipped_bit_is_rejected_or_gives_another_value(vector: Vector) -> None:
    original = vector.parse()
    for position in range(len(vector.data)):
        for bit in range(8):
            mutant = bytearray(vector.data)
            mutant[position] ^= 1 << bit
            try:
                value = vector.parse(bytes(mutant))
            except refusals(vector):
                continue
            assert encode(value) == mutant
            assert value != original


@pytest.mark.parametrize("vector", STRUCTS, ids=lambda vector: vector.name)
def test_every_truncation_is_rejected(vector: Vector) -> None:
    for length in range(len(vector.data)):
        with pytest.raises(EncodingRejected) as caught:
            vector.parse(vector.data[:length])
        assert caught.value.defect == "truncated"


@pytest.mark.parametrize("vector", STRUCTS, ids=lambda vector: vector.name)
def test_any_byte_after_the_value_is_rejected(vector: Vector) -> None:
    for extra in (b"\x00", b"\xc0", b"\xff", vector.data):
        with pytest.raises(EncodingRejected) as caught:
            vector.parse(vector.data + extra)
        assert caught.value.defect == "trailing"


@given(st.integers(0, 200), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_a_union_is_decoded_by_its_type_wherever_that_stands(index: int, length: int) -> None:
    record = {"v": 1, "type": "checkpoint", "run": bytes(16), "index": index, "step": length}
    record |= {"root": bytes(32), "stored": False}
    assert encode(parse(encode(record), AnyRecord, limits=RECORD_LIMITS)) == oracle.canonical(record)


@pytest.mark.parametrize("vector", STRUCTS, ids=lambda vector: vector.name)
def test_mutants_of_records_are_rejected_or_give_another_value(vector: Vector) -> None:
    original, random = vector.parse(), Random(1)
    for _ in range(2000):
        mutant = mutate(vector.data, random)
        try:
            value = vector.parse(mutant)
        except refusals(vector):
            continue
        assert encode(value) == mutant
        assert (value == original) == (mutant == vector.data)
