"""The JSON of a verification is what its schema says, whatever the verdict; and it shows what it should."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import ValidationError

from polledger import __version__
from polledger.core.head import Head
from polledger.core.records import Checkpoint
from polledger.core.report import Report
from polledger.core.sampling import draw, sample_seed
from polledger.core.timesummary import Waiting
from polledger.timestamp.token import Timestamp
from polledger.verify.evidence import SealFile
from polledger.verify.heads import SealedHead
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.sampling import SampleRequest
from polledger.verify.timeline import SEALS, TOKENS, timeline
from polledger.verify.tokens import Stamp
from tests.verify.build import NOW, OTHER_MACHINE, RUN, START, Built, Spec, make_run, reseal
from tests.verify.check import check, copy_of, validate


def honest_report(honest: Built, tmp_path: Path) -> Report:
    waiting = Waiting(seal=1, authority="far", since=None, attempts=2, reason="refused")
    return check(honest, made={0: START, 1: START}, waiting=(waiting,))


def elsewhere(honest: Built, tmp_path: Path) -> Report:
    return check(honest, code=honest.code(actual=OTHER_MACHINE))


def refuted(honest: Built, tmp_path: Path) -> Report:
    records = [msgspec.structs.replace(honest.records[0], seed=8), *honest.records[1:]]
    return check(reseal(honest, tmp_path / "lie", records))


def records_only(honest: Built, tmp_path: Path) -> Report:
    return check(honest, replay=False, scan=False)


def empty(honest: Built, tmp_path: Path) -> Report:
    copy = copy_of(honest, tmp_path / "empty")
    copy.run.ledger_path.unlink()
    return check(copy)


def flagged(honest: Built, tmp_path: Path) -> Report:
    policy = parse_policy("[screening]\njump = 1.000001\nstraight = 0.0001")
    return check(honest, policy=policy)


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (honest_report, "VERIFIED"),
        (elsewhere, "VERIFIED"),
        (refuted, "REFUTED"),
        (records_only, "UNVERIFIABLE"),
        (empty, "UNVERIFIABLE"),
        (flagged, "VERIFIED"),
    ],
)
def test_reports_of_every_verdict_are_what_the_schema_says(
    honest: Built, tmp_path: Path, make: Any, verdict: str
) -> None:
    report = make(honest, tmp_path)
    value = report.to_json()
    assert value["verdict"] == verdict, value["sentence"]
    validate(value)
    if make is flagged:
        assert value["screening"]["flags"]


@pytest.mark.parametrize("name", ["verdict", "findings", "trajectory", "verified_at"])
def test_the_schema_misses_what_is_left_out(honest: Built, name: str) -> None:
    value = check(honest, replay=False).to_json()
    with pytest.raises(ValidationError):
        validate({key: item for key, item in value.items() if key != name})
    with pytest.raises(ValidationError):
        validate(value | {"another": 1})


def test_the_report_says_when_and_by_what_it_was_made(honest: Built) -> None:
    value = check(honest, replay=False, now=NOW + timedelta(milliseconds=5)).to_json()
    assert value["verified_at"] == "2026-03-02T12:00:00Z"
    assert value["version"] == __version__
    assert value["rules"] == {"margin": 3.0, "rho": 0.5}
    bounds = parse_policy("[comparison]\nmargin = 5.0\nrho = 0.25")
    assert check(honest, replay=False, policy=bounds).to_json()["rules"] == {"margin": 5.0, "rho": 0.25}


def test_the_draw_is_listed_apart_from_what_was_added(honest: Built) -> None:
    report = check(honest, sample=SampleRequest(count=1), nonce=b"d" * 32)
    sample = report.to_json()["sample"]
    assert sample is not None
    assert report.head is not None
    head = bytes.fromhex(report.head["digest"])
    seed = sample_seed(nonce=b"d" * 32, head=head, policy=Policy().digest())
    assert sample["drawn_intervals"] == sorted(draw(seed, total=5, count=1))
    assert set(sample["drawn_intervals"]) < set(sample["intervals"])


def test_the_trajectory_starts_at_the_first_state_and_has_every_stored_one(honest: Built) -> None:
    found = check(honest, replay=False).to_json()["trajectory"]
    assert found is not None
    steps = [record.step for record in honest.records if isinstance(record, Checkpoint)]
    assert found["steps"] == steps
    assert found["intervals"] == list(range(len(steps)))
    assert [group["name"] for group in found["groups"]] == ["model/parameters"]
    assert all(value > 0 for value in found["groups"][0]["moved"][1:])
    assert check(honest, replay=False, scan=False).to_json()["trajectory"] is None


def test_the_trajectory_of_a_run_whose_first_state_is_lost_starts_later(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", Spec())
    first = next(record for record in built.records if isinstance(record, Checkpoint))
    built.run.objects.path(first.root).unlink()
    found = check(built, replay=False).to_json()["trajectory"]
    assert found is not None
    assert (found["steps"][0], found["intervals"][0]) == (1, 1)


def test_the_timeline_has_seals_with_their_tokens_and_lags(honest: Built) -> None:
    made = {0: START, 1: START + timedelta(seconds=50)}
    seals = check(honest, replay=False, made=made).to_json()["time"]["timeline"]["seals"]
    assert [seal["seal"] for seal in seals] == [0, 1, 2]
    assert [seal["steps"] for seal in seals] == sorted(seal["steps"] for seal in seals)
    assert seals[-1]["steps"] == 12
    assert seals[-1]["size"] == len(honest.records)
    assert [seal["made"] for seal in seals] == ["2026-03-01T12:00:00Z", "2026-03-01T12:00:50Z", None]
    tokens = [token for seal in seals for token in seal["tokens"]]
    assert [token["lag"] for token in tokens] == [0.0, 10.0, None]
    assert all(token["embedded"] and token["operator"] is None for token in tokens)
    assert tokens[0]["time"] == "2026-03-01T12:00:00Z"


def sealed_head(number: int) -> SealedHead:
    zero = bytes(32)
    head = Head(run=RUN, size=number + 1, root=zero, chainpoint=zero, previous=zero)
    return SealedHead(
        seal=SealFile(number=number, seal=None), head=head, matches=True, chainpoint_matches=True
    )


@pytest.mark.parametrize("count", [0, 1, SEALS, SEALS + 1, 5 * SEALS + 3])
def test_of_many_seals_the_timeline_lists_some_evenly(count: int) -> None:
    found = timeline([sealed_head(number) for number in range(count)], [], {}, {})
    listed = [seal["seal"] for seal in found["seals"]]
    assert len(listed) == min(count, SEALS)
    assert len(listed) + found["left_out"] == count
    assert listed == sorted(set(listed))
    assert listed[:1] + listed[-1:] == ([0, count - 1] if count else [])


def stamp(minute: int) -> Stamp:
    timestamp = Timestamp(
        gen_time=START + timedelta(minutes=minute),
        accuracy=timedelta(seconds=0.5),
        policy="1.2.3",
        serial=1,
        nonce=None,
        hash_name="sha256",
        imprint=bytes(32),
        ordering=False,
        tsa="CN=far",
        chain=(),
        signature_hash="sha256",
    )
    return Stamp(seal=0, authority=f"a{minute}", operator="Far", timestamp=timestamp, entry=b"")


def test_of_many_tokens_over_one_seal_the_earliest_are_listed() -> None:
    stamps = [stamp(minute) for minute in reversed(range(TOKENS + 2))]
    [seal] = timeline([sealed_head(0)], stamps, {}, {1: 0})["seals"]
    assert [token["authority"] for token in seal["tokens"]] == [f"a{minute}" for minute in range(TOKENS)]
    assert seal["left_out"] == 2
    assert seal["tokens"][1] == {
        "authority": "a1",
        "operator": "Far",
        "embedded": False,
        "time": "2026-03-01T12:01:00Z",
        "accuracy": 0.5,
        "lag": None,
    }
