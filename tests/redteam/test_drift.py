"""Spoof 12: a hyperparameter that leaves the schedule for three steps is seen, told or not."""

from dataclasses import replace

import pytest

from polledger.redteam import drift
from polledger.redteam.spoof import Attempt, Target
from tests.redteam.judging import Judge, caught, the

VARIANTS = {spoof.variant: spoof for spoof in drift.SPOOFS}


@pytest.mark.parametrize("admitted", [False, True])
def test_the_same_program_without_a_drift_verifies(
    target: Target, attempt: Attempt, judge: Judge, admitted: bool
) -> None:
    report = judge(drift.drift(target, attempt, name="lr", admitted=admitted, factor=1.0))
    assert report.verdict == "VERIFIED", caught(report)


@pytest.mark.parametrize("name", drift.FACTORS)
def test_a_drift_that_is_told_is_not_the_schedule_of_genesis(
    target: Target, attempt: Attempt, judge: Judge, name: str
) -> None:
    report = judge(VARIANTS[f"{name}-admitted"].forge(target, attempt))
    assert caught(report)[4, "structure"] == "fail"
    assert name in the(report, 4, "structure").detail


@pytest.mark.parametrize("name", drift.FACTORS)
def test_a_drift_that_is_not_told_fails_where_it_happens(
    target: Target, attempt: Attempt, judge: Judge, name: str
) -> None:
    forgery = VARIANTS[name].forge(target, attempt)
    report = judge(forgery)
    assert caught(report) == {(9, "replay"): "fail"}
    assert sum(result.outcome == "fail" for result in report.intervals) == forgery.bogus


def test_a_value_of_zero_is_changed_as_well(target: Target, attempt: Attempt, judge: Judge) -> None:
    """Some groups have no weight decay: a hundred times none would be an honest run."""
    without = replace(target, settings=(*target.settings, "weight_decay=0.0"))
    report = judge(VARIANTS["weight_decay"].forge(without, attempt))
    assert caught(report) == {(9, "replay"): "fail"}
