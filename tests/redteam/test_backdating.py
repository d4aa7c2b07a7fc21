"""Spoof 15: no token of the thief's making, and none over another head, gives a run external time."""

import pytest

from polledger.redteam import backdating
from polledger.redteam.spoof import Attempt, Target
from tests.redteam.judging import Judge, caught, the

VARIANTS = {spoof.variant: spoof for spoof in backdating.SPOOFS}


def test_what_the_trusted_authority_stamps_has_external_time(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(backdating.chain(target, attempt, genuine=True))
    assert report.verdict == "VERIFIED", caught(report)
    assert (report.time.assurance, report.time.operators) == ("external", (backdating.OPERATOR,))


@pytest.mark.parametrize("variant", ["clock", "chain"])
def test_an_authority_of_the_thief_gives_no_external_time(
    target: Target, attempt: Attempt, judge: Judge, variant: str
) -> None:
    report = judge(VARIANTS[variant].forge(target, attempt))
    assert caught(report) == {(3, "time.required"): "unverifiable"}
    assert report.time.assurance == "self-asserted"


def test_a_token_over_an_earlier_head_is_no_evidence_for_a_later_one(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(VARIANTS["earlier"].forge(target, attempt))
    assert caught(report) == {
        (3, "time.consistency"): "unverifiable",
        (3, "time.required"): "unverifiable",
    }
    assert "the token is over something else" in the(report, 3, "time.consistency").detail
