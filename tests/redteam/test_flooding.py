"""Spoof 25: idle steps behind a jump hide nothing, and noisy ones around it neither."""

import pytest

from polledger.redteam import flooding
from polledger.redteam.spoof import Attempt, Target
from tests.redteam.judging import Judge, caught, the

VARIANTS = {spoof.variant: spoof for spoof in flooding.SPOOFS}


def test_the_same_steep_schedule_without_a_jump_verifies(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    settings = flooding.falling_to(flooding.TINY)
    report = judge(flooding.flood(target, attempt, settings=settings, every=1, jump=False))
    assert report.verdict == "VERIFIED", caught(report)


def test_a_run_that_stands_still_after_the_jump_shows_nothing(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(VARIANTS["still"].forge(target, attempt))
    assert caught(report)[4, "stillness"] == "unverifiable"
    assert "intervals stand still" in the(report, 4, "stillness").detail


@pytest.mark.parametrize("variant", ["tiny", "noisy"])
def test_a_jump_is_flagged_and_opened_however_many_intervals_there_are(
    target: Target, attempt: Attempt, judge: Judge, variant: str
) -> None:
    report = judge(VARIANTS[variant].forge(target, attempt))
    assert report.sample is not None
    assert report.sample.drawn == 1
    assert flooding.JUMP in report.sample.flagged
    assert caught(report) == {(9, "replay"): "fail"}
    assert report.first_bad is not None
    assert report.first_bad.interval == flooding.JUMP
