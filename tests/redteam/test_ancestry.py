"""Spoof 26: a start that no seed gives is not shown, however honest what follows."""

import pytest

from polledger.redteam import ancestry
from polledger.redteam.spoof import Attempt, Spoof, Target
from tests.redteam.judging import Judge, caught, the


@pytest.mark.parametrize("spoof", ancestry.SPOOFS, ids=lambda spoof: spoof.variant or "parent")
def test_a_laundered_start_stays_unverifiable(
    target: Target, attempt: Attempt, judge: Judge, spoof: Spoof
) -> None:
    report = judge(spoof.forge(target, attempt))
    assert caught(report) == {(8, "origin"): "unverifiable"}
    what = "external file" if spoof.variant == "external" else "another run's model"
    assert what in the(report, 8, "origin").detail
    assert all(result.outcome == "pass" for result in report.intervals)


@pytest.mark.parametrize(
    "spoof",
    [item for item in ancestry.SPOOFS if item.variant != "external"],
    ids=lambda item: item.variant or "model",
)
def test_a_bogus_parent_at_hand_refutes_what_the_same_thief_made_of_it(
    target: Target, attempt: Attempt, judge: Judge, spoof: Spoof
) -> None:
    report = judge(spoof.forge(target, attempt), [attempt.directory / "parent"])
    assert caught(report) == {(8, "origin.parent"): "fail"}
    assert "step 9 (replay)" in the(report, 8, "origin.parent").detail
