"""Spoofs 11 and 21: whatever was consumed instead of the committed examples, batch or state betrays it."""

import pytest

from polledger.redteam import foreign, tampering
from polledger.redteam.spoof import Attempt, Target
from tests.redteam.judging import Judge, caught, the

VARIANTS = {spoof.variant: spoof for spoof in tampering.SPOOFS}


def test_the_same_program_on_honest_batches_verifies(target: Target, attempt: Attempt, judge: Judge) -> None:
    report = judge(tampering.tamper(target, attempt, bend=lambda forge, n: forge.batch(n), admitted=False))
    assert report.verdict == "VERIFIED", caught(report)


@pytest.mark.parametrize("kind", tampering.KINDS)
def test_admitted_batches_are_not_those_of_the_committed_examples(
    target: Target, attempt: Attempt, judge: Judge, kind: str
) -> None:
    report = judge(VARIANTS[f"{kind}-admitted"].forge(target, attempt))
    assert caught(report)[7, "inclusion"] == "fail"
    assert "the batch is not the recorded one" in the(report, 7, "inclusion").detail


@pytest.mark.parametrize("kind", tampering.KINDS)
def test_denied_batches_leave_states_that_the_honest_ones_do_not_give(
    target: Target, attempt: Attempt, judge: Judge, kind: str
) -> None:
    report = judge(VARIANTS[kind].forge(target, attempt))
    assert caught(report) == {(9, "replay"): "fail"}
    assert all(result.outcome == "fail" for result in report.intervals)


def test_examples_of_the_provers_choice_do_not_follow_from_the_seed(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(VARIANTS["chosen"].forge(target, attempt))
    assert caught(report)[7, "inclusion"] == "fail"
    assert the(report, 7, "inclusion").detail == "the recorded examples do not follow from the seed"


@pytest.mark.parametrize(("variant", "step", "name"), [("", 9, "replay"), ("admitted", 7, "inclusion")])
def test_distillation_on_noise_is_not_training_on_the_data_set(
    target: Target, attempt: Attempt, judge: Judge, variant: str, step: int, name: str
) -> None:
    (spoof,) = [item for item in foreign.SPOOFS if item.variant == variant]
    report = judge(spoof.forge(target, attempt))
    assert caught(report)[step, name] == "fail"
    if variant:
        assert "the batch is not the recorded one" in the(report, 7, "inclusion").detail
