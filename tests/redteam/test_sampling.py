"""Spoofs 17 and 23: the sample belongs to a nonce that is made after the head, by whoever verifies."""

from dataclasses import replace

from polledger.redteam import grinding, presenter
from polledger.redteam.seals import head_of
from polledger.redteam.spoof import Attempt, Target
from polledger.store.run import RunDirectory
from tests.redteam.judging import Judge, caught


def test_a_ground_head_gains_nothing_against_a_fresh_nonce(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    (spoof,) = grinding.SPOOFS
    forgery = spoof.forge(target, attempt)
    run = RunDirectory.open(forgery.run)
    head = head_of(run, run.seals()[-1]).digest()
    # The head that was sealed is the one that was chosen, and a nonce made of it misses the interval for certain.
    n, total = forgery.sample // 4, forgery.sample
    flawed = grinding.Flawed(run=run, bogus=3 * total // 4, total=total, gradients=1.0)
    assert flawed.is_missed(grinding.derived_nonce(head), head)
    fresh = forgery.reached[f"missed by n = {n}, fresh nonces"]
    # 2,000 fixed nonces: six standard deviations are 0.06.
    assert abs(fresh - (1 - n / total)) < 0.06
    report = judge(forgery)
    assert caught(report) == {(9, "replay"): "fail"}
    assert report.first_bad is not None
    assert report.first_bad.interval == 3 * total // 4


def test_the_presenters_sample_is_not_the_verifiers(target: Target, attempt: Attempt, judge: Judge) -> None:
    (spoof,) = presenter.SPOOFS
    report = judge(spoof.forge(target, attempt))
    assert caught(report) == {(9, "replay"): "fail"}


def test_limit_a_nonce_taken_over_from_the_presenter_verifies_its_sample(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    (limit,) = presenter.LIMITS
    # Long enough that neither the largest intervals nor flagged ones, which are always opened, are most of the run.
    longer = replace(target, settings=("steps=160",), steps=160)
    forgery = limit.forge(longer, attempt)
    report = judge(forgery)
    assert report.verdict == "VERIFIED", caught(report)
    assert report.sample is not None
    # The report says by which nonce: whoever reads it can tell that it is not one of theirs.
    assert report.sample.nonce.hex() == forgery.arguments[1]
