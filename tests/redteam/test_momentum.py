"""Spoofs 7, 8, 9, 13 and 27: real training but for one place, and that place is found."""

from collections.abc import Callable

import pytest

from polledger.redteam import planted, stolen_start, walking
from polledger.redteam.spoof import Attempt, Forgery, Target
from polledger.redteam.trial import accepts_by_l2, ask_reference
from polledger.verify.sampling import SampleRequest
from tests.redteam.judging import Judge, caught

SHORT = 120
"""Steps, and intervals, of runs that hide something: enough for screening to know what is ordinary."""

ALL = SampleRequest(count=10_000)


def outcomes(judge: Judge, forgery: Forgery) -> list[str]:
    """Of every interval, all of them opened."""
    return [result.outcome for result in judge(forgery, sample=ALL).intervals]


def test_planted_everywhere_no_interval_betrays_it_and_the_origin_does(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    forgery = planted.forge_everywhere(target, attempt)
    assert forgery.gradients == 0
    assert forgery.reached["wt"] < 1e-4 * forgery.reached["start"]
    found = ask_reference(forgery, target)
    assert found is not None
    assert found.largest_error == 0
    report = judge(forgery, sample=ALL)
    assert {result.outcome for result in report.intervals} == {"pass"}
    assert caught(report)[8, "origin"] == "fail"
    assert (9, "replay") not in caught(report)


@pytest.mark.parametrize(
    "forge",
    [planted.forge_drift_once, planted.forge_once, planted.forge_feather],
    ids=["7+once", "8", "8+feather"],
)
def test_planted_once_exactly_one_interval_fails_and_screening_has_it_opened(
    target: Target, attempt: Attempt, judge: Judge, forge: Callable[..., Forgery]
) -> None:
    forgery = forge(target, attempt, steps=SHORT)
    assert forgery.bogus == 1
    assert forgery.reached["wt"] < forgery.reached["way"] / 2
    assert outcomes(judge, forgery).count("fail") == 1
    found = judge(forgery, sample=SampleRequest(count=1))
    assert caught(found)[9, "replay"] == "fail"
    (bad,) = [result for result in found.intervals if result.outcome == "fail"]
    assert {group.measure.name for group in bad.groups if group.outcome == "fail"} == {
        "optimizer/momentum_buffer"
    }


def test_planted_momentum_also_carries_where_adam_trains(target: Target, attempt: Attempt) -> None:
    forgery = planted.forge_once(target, attempt, settings=("optimizer=AdamW", "lr=0.002"), steps=SHORT)
    assert forgery.reached["wt"] < forgery.reached["way"] / 2


@pytest.mark.parametrize(
    ("length", "steered"),
    [(1, False), (5, False), (20, False), (20, True)],
    ids=["jump", "5", "20", "steered"],
)
def test_a_walk_is_bogus_for_as_long_as_it_says_and_honest_before_and_after(
    target: Target, attempt: Attempt, judge: Judge, length: int, steered: bool
) -> None:
    forgery = walking.forge_walk(target, attempt, length=length, steps=SHORT, steered=steered)
    assert forgery.gradients == SHORT / target.steps
    found = outcomes(judge, forgery)
    first = found.index("fail")
    assert [number for number, outcome in enumerate(found) if outcome == "fail"] == list(
        range(first, first + length)
    )
    assert set(found) == {"pass", "fail"}
    assert (found[0], found[-1]) == ("pass", "pass")


@pytest.mark.parametrize("length", [1, 5])
def test_screening_opens_a_jump_and_a_run(
    target: Target, attempt: Attempt, judge: Judge, length: int
) -> None:
    forgery = walking.forge_walk(target, attempt, length=length, steps=SHORT)
    report = judge(forgery, sample=SampleRequest(count=1))
    assert caught(report)[9, "replay"] == "fail"


@pytest.mark.parametrize(
    "forge",
    [stolen_start.forge_stolen, stolen_start.forge_noisy, stolen_start.forge_ranked],
    ids=["13", "13+noise", "13+2"],
)
def test_a_stolen_start_is_real_training_from_a_lie(
    target: Target, attempt: Attempt, judge: Judge, forge: Callable[..., Forgery]
) -> None:
    forgery = forge(target, attempt)
    assert forgery.reached["start"] < forgery.reached["start_unforged"]
    report = judge(forgery, sample=ALL)
    assert caught(report) == {(8, "origin"): "fail"}
    assert all(result.exact for result in report.intervals)


def test_a_ranked_start_passes_the_published_kind(target: Target, attempt: Attempt) -> None:
    found = ask_reference(stolen_start.forge_ranked(target, attempt), target)
    assert found is not None
    assert accepts_by_l2(found)


def test_a_walk_between_stored_states_is_met_wherever_it_is_drawn(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    forgery = walking.forge_sparse(target, attempt, steps=200)
    report = judge(forgery)
    # 20 of 200 miss all three stretches of 50 with a probability below 1e-12.
    assert caught(report)[9, "replay"] == "fail"
    assert {result.interval for result in report.intervals if result.outcome == "fail"} <= {49, 99, 149}
