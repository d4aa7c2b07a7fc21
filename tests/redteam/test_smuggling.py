"""Spoof 19: what keeps weights out of a task, and what does not."""

import pytest

from polledger.redteam import smuggling
from polledger.redteam.spoof import Attempt, Target
from tests.redteam.judging import Judge, caught, the

VARIANTS = {spoof.variant: spoof for spoof in smuggling.SPOOFS}
LIMITS = {spoof.variant: spoof for spoof in smuggling.LIMITS}

CAUGHT = {
    "unread": (7, "code", "unverifiable", "replay would run your code"),
    "step": (4, "structure", "unverifiable", "the task is custom, and the policy requires a recipe"),
    "batch": (4, "structure", "unverifiable", "no data set is committed, and the policy requires one"),
    "installed": (9, "replay", "fail", "steps 36 to 40"),
    "large-source": (7, "code", "unverifiable", "the source tree takes more than 1048576 bytes"),
    "large-config": (1, "parse", "unverifiable", "the config takes more than 65536 bytes"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_smuggled_weights_are_stopped(target: Target, attempt: Attempt, judge: Judge, variant: str) -> None:
    report = judge(VARIANTS[variant].forge(target, attempt))
    step, name, outcome, words = CAUGHT[variant]
    assert caught(report)[step, name] == outcome, caught(report)
    assert words in the(report, step, name).detail


@pytest.mark.parametrize("variant", ["loss", "anchor", "data"])
def test_limit_code_that_somebody_vouches_for_may_bring_weights(
    target: Target, attempt: Attempt, judge: Judge, variant: str
) -> None:
    forgery = LIMITS[variant].forge(target, attempt)
    report = judge(forgery)
    assert report.verdict == "VERIFIED", caught(report)
    assert (
        forgery.reached["distance from the stolen weights"] < 0.2 * forgery.reached["distance at the start"]
    )
    # What a reader is given: how many lines there are to read, and values of a field that no domain confines.
    assert report.code["lines"] > 50
    if variant == "data":
        (inclusion,) = [finding for finding in report.findings if finding.name == "inclusion"]
        assert "field '2' holds " in inclusion.detail
