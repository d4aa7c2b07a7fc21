"""Spoof 25: idle steps behind a jump hide nothing."""

from polledger.redteam import flooding
from polledger.redteam.spoof import Attempt, Target
from tests.redteam.judging import Judge, caught, the

VARIANTS = {spoof.variant: spoof for spoof in flooding.SPOOFS}


def test_the_same_steep_schedule_without_a_jump_verifies(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(flooding.flood(target, attempt, gamma=flooding.TINY, every=1, sample=4, jump=False))
    assert report.verdict == "VERIFIED", caught(report)


def test_a_run_that_stands_still_after_the_jump_shows_nothing(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(VARIANTS["still"].forge(target, attempt))
    assert caught(report)[4, "stillness"] == "unverifiable"
    assert "intervals stand still" in the(report, 4, "stillness").detail


def test_tiny_steps_behind_a_jump_do_not_hide_it(target: Target, attempt: Attempt, judge: Judge) -> None:
    report = judge(VARIANTS["tiny"].forge(target, attempt))
    assert caught(report) == {(9, "replay"): "fail"}
    assert report.first_bad is not None
    assert report.first_bad.interval == flooding.JUMP
