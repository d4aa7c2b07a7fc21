"""Spoof 16: a training belongs to the key that sealed it, unless it was sealed without."""

from polledger.redteam import republication
from polledger.redteam.spoof import Attempt, Target
from tests.redteam.judging import Judge, caught, the

VARIANTS = {spoof.variant: spoof for spoof in republication.SPOOFS}


def test_a_run_under_another_key_has_another_first_state(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(VARIANTS[""].forge(target, attempt))
    assert caught(report)[8, "origin"] == "fail"
    assert "not what the committed seed and key give" in the(report, 8, "origin").detail


def test_with_the_first_state_mended_the_order_of_the_examples_betrays_it(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(VARIANTS["rebuilt"].forge(target, attempt))
    assert (8, "origin") not in caught(report)
    assert caught(report)[7, "inclusion"] == "fail"


def test_limit_an_unbound_run_signed_anew_verifies_and_says_so(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    (limit,) = republication.LIMITS
    report = judge(limit.forge(target, attempt))
    assert report.verdict == "VERIFIED", caught(report)
    (origin,) = [finding for finding in report.findings if finding.step == 8]
    assert "the seed is NOT bound to the key" in origin.detail
