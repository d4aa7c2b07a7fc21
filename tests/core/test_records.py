from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from polledger.core.encoding import EncodingRejected, encode, real
from polledger.core.records import (
    Checkpoint,
    Domain,
    Environment,
    Final,
    Genesis,
    Parent,
    Resume,
    Seal,
    StateObject,
    Step,
    TokenRef,
    parse_genesis,
    parse_record,
    parse_seal,
)
from polledger.errors import MalformedError, UsageError

RUN, D1 = bytes(range(16)), b"\x01" * 32

ENVIRONMENT = Environment(
    device="cpu", cpu="x", capability="AVX2", torch="2.13.0", torch_git="abc", cuda="", cudnn="", driver="",
    python="3.11", numpy="2", platform="linux", polledger="0.1", threads=2, interop_threads=1, flags={},
)  # fmt: skip


def genesis(**changes: Any) -> Genesis:
    fields: dict[str, Any] = {
        "v": 1, "run": RUN, "index": 0, "task": D1, "kind": "recipe", "config": {"lr": real(0.1)}, "seed": 7,
        "bound": True, "key": D1, "every": 10, "warm": 10, "steps": 100, "objects": [],
        "environment": ENVIRONMENT, "origin": "scratch",
    }  # fmt: skip
    return Genesis(**fields | changes)


RECORDS = [
    genesis(),
    Step(v=1, run=RUN, index=3, step=1, batch=D1),
    Checkpoint(v=1, run=RUN, index=1, step=0, root=D1, stored=True),
    Resume(v=1, run=RUN, index=9, environment=ENVIRONMENT, source=4, reason="power"),
    Final(v=1, run=RUN, index=99, checkpoint=98, object="model", model_root=D1, steps=100),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_its_own_type(record: Any) -> None:
    parsed = parse_record(encode(record))
    assert parsed == record
    assert type(parsed) is type(record)


def test_the_first_record_is_genesis() -> None:
    assert parse_genesis(encode(RECORDS[0])) == RECORDS[0]
    with pytest.raises(MalformedError, match="record 0 is not genesis"):
        parse_genesis(encode(RECORDS[1]))


def test_a_record_is_no_seal_and_a_seal_no_record() -> None:
    seal = Seal(v=1, index=0, note=b"note", tokens=[TokenRef(authority="a", request=D1, response=D1)])
    assert parse_seal(encode(seal)) == seal
    with pytest.raises(EncodingRejected):
        parse_record(encode(seal))
    with pytest.raises(EncodingRejected):
        parse_seal(encode(RECORDS[1]))


def test_records_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        RECORDS[1].index = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": 1}, "record 0"),
        ({"config": {"lr": 0.1}}, "float"),
        ({"config": {"lr": b"x"}}, "8 bytes"),
        ({"config": {"text": "x" * 65536}}, "more than 65536 bytes"),
        ({"origin": "parent"}, "parent"),
        ({"parent": Parent(head=D1, mode="model")}, "parent"),
        ({"origin": "external"}, "external"),
        ({"external": D1}, "external"),
        ({"objects": [StateObject(name="m", kind="module")] * 2}, "'m' is listed twice"),
        ({"domains": [Domain(field="label", kind="one_hot")] * 2}, "'label' is listed twice"),
    ],
    ids=str,
)
def test_genesis_that_contradicts_itself_does_not_exist(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        genesis(**changes)


def test_genesis_takes_the_largest_config() -> None:
    overhead = len(encode({"text": "x" * 65_000})) - 65_000
    assert genesis(config={"text": "x" * (65_536 - overhead)})
    with pytest.raises(ValueError, match="more than 65536 bytes"):
        genesis(config={"text": "x" * (65_537 - overhead)})


def test_an_abandoned_range_has_both_ends_or_none() -> None:
    base = RECORDS[3]
    assert msgspec.structs.replace(base, first=5, last=8)
    for changes in ({"first": 5}, {"last": 8}):
        with pytest.raises(ValueError, match="two ends"):
            msgspec.structs.replace(base, **changes)


def test_fields_that_are_absent_are_unset_not_none() -> None:
    step = parse_record(encode(RECORDS[1]))
    assert isinstance(step, Step)
    assert step.groups is UNSET
    assert step.examples is UNSET
    assert step.metrics is UNSET


def test_a_record_of_six_hundred_buffers_fits() -> None:
    buffers = [f"model/layers/{i:04d}/running_mean" for i in range(600)]
    record = genesis(objects=[StateObject(name="model", kind="module", buffers=buffers)])
    assert parse_record(encode(record)) == record


@pytest.mark.parametrize(
    "changes",
    [
        {"fresh": ["a"]},
        {"origin": "parent", "parent": Parent(head=D1, mode="continue"), "fresh": ["a"]},
        {"origin": "external", "external": D1, "fresh": ["b", "a"]},
        {"origin": "external", "external": D1, "fresh": ["a", "a"]},
        {"origin": "external", "external": D1, "fresh": []},
    ],
    ids=["scratch", "whole state", "order", "twice", "empty"],
)
def test_fresh_names_go_with_a_model_and_are_in_order(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, UsageError)):
        parse_record(encode(genesis(**changes)))


def test_fresh_names_round_trip() -> None:
    record = genesis(origin="parent", parent=Parent(head=D1, mode="model"), fresh=["a", "b"])
    assert parse_record(encode(record)) == record
