"""Spoof 14: every rewritten history is caught where it contradicts what was sealed before."""

from polledger.redteam import history
from polledger.redteam.spoof import Attempt, Spoof, Target
from tests.redteam.judging import Judge, caught, the

VARIANTS = {spoof.variant: spoof for spoof in history.SPOOFS}


def test_the_same_fork_without_another_end_verifies(target: Target, attempt: Attempt, judge: Judge) -> None:
    report = judge(history.fork(target, attempt, edit=list))
    assert report.verdict == "VERIFIED", caught(report)


def test_a_fork_behind_a_kept_seal_is_equivocation(target: Target, attempt: Attempt, judge: Judge) -> None:
    report = judge(VARIANTS["fork"].forge(target, attempt))
    assert caught(report) == {(2, "heads"): "fail"}
    assert the(report, 2, "heads").detail.startswith("equivocation: ")


def test_spliced_trainings_are_refuted_from_the_seam_on(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    forgery = VARIANTS["splice"].forge(target, attempt)
    report = judge(forgery)
    assert caught(report) == {(9, "replay"): "fail"}
    failed = [result.interval for result in report.intervals if result.outcome == "fail"]
    # The seam itself, and every interval of the other seed's randomness and order.
    assert failed == list(range(forgery.sample - forgery.bogus, forgery.sample))


def test_swapped_checkpoints_are_refuted(target: Target, attempt: Attempt, judge: Judge) -> None:
    forgery = VARIANTS["swap"].forge(target, attempt)
    report = judge(forgery)
    assert caught(report) == {(9, "replay"): "fail"}
    assert [result.interval for result in report.intervals if result.outcome == "fail"] == [6, 7, 8]


def test_a_token_reused_for_another_head_is_no_evidence(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(VARIANTS["token"].forge(target, attempt))
    assert caught(report) == {(3, "time.consistency"): "unverifiable"}
    assert "about something else than this" in the(report, 3, "time.consistency").detail


def test_a_failed_stretch_that_a_resume_record_names_verifies(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(history.drop(target, attempt, resume=True, naming=history._names_all))
    assert report.verdict == "VERIFIED", caught(report)


def test_a_failed_stretch_without_a_resume_record_is_refuted(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(VARIANTS["drop"].forge(target, attempt))
    assert caught(report)[4, "structure"] == "fail"
    assert the(report, 4, "structure").detail == "steps are not contiguous"


def test_a_resume_record_that_drops_in_silence_is_refuted(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(VARIANTS["unnamed"].forge(target, attempt))
    assert caught(report) == {(4, "structure"): "fail"}
    assert "without naming them as abandoned" in the(report, 4, "structure").detail


def test_the_catalogue_says_what_each_passes() -> None:
    assert all(isinstance(spoof, Spoof) and (spoof.reference or spoof.why) for spoof in history.SPOOFS)
