"""Spoof 10: what no gradient touches is compared as well."""

from pathlib import Path

import pytest

from polledger.errors import UsageError
from polledger.redteam import buffers
from polledger.redteam.own import own_run
from polledger.redteam.spoof import Attempt, Target
from polledger.redteam.target import target_of
from tests.redteam.judging import Judge, caught

NORMED = "polledger.examples.digits"


@pytest.fixture(scope="session")
def normed(home: Path, tmp_path_factory: pytest.TempPathFactory, target: Target) -> Target:
    """What a thief has of a network with BatchNorm."""
    known = Target(
        task=NORMED,
        settings=("steps=6", "width=4", "batch_size=16"),
        inputs={},
        weights=target.weights,
        steps=6,
        every=2,
        warm=0,
    )
    attempt = Attempt(directory=tmp_path_factory.mktemp("owner"), seed=0)
    return target_of(own_run(known, attempt, who="owner").path, task=NORMED)


def test_stolen_statistics_under_honest_parameters_are_refuted(
    normed: Target, attempt: Attempt, judge: Judge
) -> None:
    forgery = buffers.statistics(normed, attempt)
    report = judge(forgery)
    assert caught(report) == {(9, "replay"): "fail"}
    bad = {
        group.measure.name: group.outcome
        for result in report.intervals
        for group in result.groups
        if group.outcome != "pass"
    }
    assert bad == {"model/buffers": "fail"}
    assert forgery.reached["moved without training"] > 0


def test_a_stolen_average_beside_honest_parameters_is_refuted(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    report = judge(buffers.average(target, attempt))
    assert caught(report) == {(9, "replay"): "fail"}
    bad = {
        group.measure.name
        for result in report.intervals
        for group in result.groups
        if group.outcome != "pass"
    }
    assert bad == {"ema/parameters"}


def test_a_model_without_buffers_offers_none(target: Target, attempt: Attempt) -> None:
    with pytest.raises(UsageError, match="no buffers"):
        buffers.statistics(target, attempt)
