"""What a step ran with against what the records carry."""

import math

import pytest

from polledger.core.encoding import real
from polledger.core.records import GroupValues, Step
from polledger.core.replay import ReplayedStep
from polledger.verify.hyperparameters import OtherStep, differing_steps
from polledger.verify.lineage import Values

BEFORE: Values = {("optimizer", 0): {"lr": 0.5, "momentum": 0.9}}


def group(**values: float) -> GroupValues:
    return GroupValues(optimizer="optimizer", index=0, values={name: real(v) for name, v in values.items()})


def compare(
    recorded: dict[str, float], replayed: dict[str, float], before: Values = BEFORE
) -> list[OtherStep]:
    """One step whose record changes ``recorded`` and that ran with ``replayed``."""
    step = Step(v=1, run=b"r" * 16, index=9, step=4, batch=b"b" * 32, groups=[group(**recorded)])
    done = ReplayedStep(step=4, groups=(group(**replayed),), batch=b"", metrics={})
    return differing_steps(before, [step], [done])


@pytest.mark.parametrize(
    ("recorded", "replayed"),
    [
        ({}, {"lr": 0.5, "momentum": 0.9}),
        ({"lr": 0.25}, {"lr": 0.25, "momentum": 0.9}),
        ({"lr": math.nan}, {"lr": math.nan, "momentum": 0.9}),
    ],
)
def test_equal_values_are_no_difference(recorded: dict[str, float], replayed: dict[str, float]) -> None:
    assert compare(recorded, replayed) == []


@pytest.mark.parametrize(
    ("recorded", "replayed", "name"),
    [
        ({"lr": 0.25}, {"lr": 0.5, "momentum": 0.9}, "lr"),
        ({"lr": math.nan}, {"lr": 0.5, "momentum": 0.9}, "lr"),
        ({}, {"lr": 0.25, "momentum": 0.9}, "lr"),
        ({}, {"lr": 0.5, "momentum": 0.9, "nesterov": 1.0}, "nesterov"),
        ({"dampening": 0.1}, {"lr": 0.5, "momentum": 0.9}, "dampening"),
        ({"lr": 0.25}, {"lr": 0.5}, "lr"),
    ],
)
def test_another_value_contradicts_the_record(
    recorded: dict[str, float], replayed: dict[str, float], name: str
) -> None:
    (other,) = compare(recorded, replayed)
    assert (other.record, other.stated) == (9, True)
    assert f"another {name} of group 0 of optimizer" in other.detail
    assert other.finding(2, confirmed=True, remedy="elsewhere").outcome == "fail"
    assert other.finding(2, confirmed=False, remedy="elsewhere").outcome == "unverifiable"


def test_a_value_that_is_gone_contradicts_nothing() -> None:
    (other,) = compare({}, {"lr": 0.5})
    finding = other.finding(2, confirmed=True, remedy="elsewhere")
    assert (finding.outcome, finding.remedy) == ("unverifiable", "elsewhere")
    assert "another momentum" in finding.detail
