"""Step 6: how many, which, and with what odds."""

from typing import Any

import pytest

from polledger.errors import UsageError
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.sampling import (
    SampleRequest,
    bogus_count,
    capped_count,
    odds_for,
    parse_sample,
    step_sampling,
    wanted_count,
)

POLICY = Policy()
HEAD = b"\x05" * 32


def drawn(**values: Any) -> tuple[int, ...]:
    standard: dict[str, Any] = {
        "nonce": b"n" * 32,
        "head": HEAD,
        "policy": POLICY,
        "total": 100,
        "count": 10,
    }
    given = {**standard, **values}
    return step_sampling(**{"wanted": given["count"], **given})[0].intervals


def test_first_and_last_are_always_opened() -> None:
    for seed in range(20):
        intervals = drawn(nonce=bytes([seed]) * 32, count=1)
        assert {0, 99} <= set(intervals)
        assert len(intervals) <= 3


def test_sample_depends_on_nonce_head_and_policy() -> None:
    base = drawn()
    assert base == drawn()
    assert base != drawn(nonce=b"m" * 32)
    assert base != drawn(head=b"\x06" * 32)
    assert base != drawn(policy=parse_policy("[structure]\nevery = 99"))


def test_a_sample_that_was_cut_says_so() -> None:
    for wanted, said in ((10, False), (44, True)):
        _, _, findings = step_sampling(
            nonce=b"n" * 32, head=HEAD, policy=POLICY, total=100, count=10, wanted=wanted
        )
        assert ("cut from 44 to fit 300 s of replay" in findings[0].detail) == said


def test_everything_is_opened_when_as_many_are_wanted() -> None:
    assert drawn(count=100) == tuple(range(100))


def test_no_interval_is_no_sample() -> None:
    sample, odds, findings = step_sampling(
        nonce=b"n" * 32, head=HEAD, policy=POLICY, total=0, count=0, wanted=0
    )
    assert (sample.intervals, odds) == ((), ())
    assert [finding.outcome for finding in findings] == ["unverifiable"]


def test_first_and_last_do_not_improve_the_odds() -> None:
    sample, odds, _ = step_sampling(nonce=b"n" * 32, head=HEAD, policy=POLICY, total=100, count=10, wanted=10)
    assert sample.drawn == 10
    assert next(item for item in odds if item.label == "one").detection == pytest.approx(0.1)


def test_default_is_99_percent_against_a_tenth() -> None:
    count = wanted_count(SampleRequest(), total=1000, policy=POLICY)
    tenth = next(item for item in odds_for(1000, count) if item.label == "10 %")
    assert tenth.detection >= 0.99
    assert tenth.needed == count


def test_wanted_counts() -> None:
    assert wanted_count(SampleRequest(count=8), total=60, policy=POLICY) == 8
    assert wanted_count(SampleRequest(count=80), total=60, policy=POLICY) == 60
    assert wanted_count(SampleRequest(odds=0.5), total=1000, policy=POLICY) == 7


def test_only_the_default_is_capped_by_the_replay_budget() -> None:
    assert SampleRequest().capped
    assert not SampleRequest(count=3).capped
    assert not SampleRequest(odds=0.9).capped
    assert capped_count(44, seconds=44 * 30.0, limit=300.0) == 10
    assert capped_count(44, seconds=300.0, limit=300.0) == 44
    assert capped_count(44, seconds=300.1, limit=300.0) == 43
    assert capped_count(44, seconds=1e9, limit=300.0) == 1
    assert capped_count(1, seconds=1e9, limit=300.0) == 1
    assert capped_count(44, seconds=0.0, limit=300.0) == 44


def test_share_of_intervals_is_rounded_up_and_at_least_one() -> None:
    assert [bogus_count(0.1, n) for n in (1, 10, 11, 60)] == [1, 1, 2, 6]
    assert bogus_count(0.0, 5) == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, SampleRequest()),
        ("8", SampleRequest(count=8)),
        ("99%", SampleRequest(odds=0.99)),
        ("99.9 %", SampleRequest(odds=0.999)),
    ],
)
def test_sample_option(text: str | None, wanted: SampleRequest) -> None:
    found = parse_sample(text)
    assert found.count == wanted.count
    assert found.odds == pytest.approx(wanted.odds)


@pytest.mark.parametrize("text", ["0", "-1", "100%", "0%", "0.0%", "many", "", "1.5", "1e3", "101%"])
def test_sample_option_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="sample"):
        parse_sample(text)
