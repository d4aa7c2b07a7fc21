"""Schedules: pure functions of (config, step), the same bits on every machine."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polledger.core.schedule import (
    SHAPES,
    Schedule,
    check_recipe,
    half_cosine,
    hyperparameters,
    integer_power,
    optimizer_arguments,
)
from polledger.errors import UsageError

BASE: dict[str, Any] = {"steps": 100, "batch_size": 8, "optimizer": "SGD", "lr": 0.1}


def factors(steps: int = 100, **config: Any) -> list[float]:
    schedule = Schedule({**BASE, "steps": steps, **config})
    return [schedule.lr_factor(n) for n in range(steps)]


@given(st.floats(0, 1))
def test_half_cosine_agrees_with_the_library(share: float) -> None:
    assert half_cosine(share) == pytest.approx((1 + math.cos(math.pi * share)) / 2, abs=3e-16)


def test_half_cosine_has_these_bits() -> None:
    shares = [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.75, 0.9, 1.0]
    assert [half_cosine(share).hex() for share in shares] == [
        "0x1.0000000000000p+0",
        "0x1.f378709a22a80p-1",
        "0x1.b504f333f9de6p-1",
        "0x1.8000000000000p-1",
        "0x1.0000000000000p-1",
        "0x1.a61b9f7154b46p-3",
        "0x1.2bec333018866p-3",
        "0x1.90f1ecbbab000p-6",
        "0x0.0p+0",
    ]


@given(st.floats(0, 2), st.integers(0, 60))
def test_integer_power_agrees_with_the_library(base: float, exponent: int) -> None:
    assert integer_power(base, exponent) == pytest.approx(base**exponent, rel=1e-14)


def test_constant_is_one() -> None:
    assert set(factors()) == {1.0}


@pytest.mark.parametrize("schedule", sorted(set(SHAPES) - {"onecycle"}))
def test_warmup_rises_linearly_to_one(schedule: str) -> None:
    found = factors(schedule=schedule, warmup=10)
    assert found[:10] == [(n + 1) / 10 for n in range(10)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial", "wsd", "onecycle"])
def test_descent_ends_above_the_final_fraction_and_never_at_zero(schedule: str) -> None:
    found = factors(schedule=schedule, warmup=10, final_lr=0.0)
    assert found[-1] > 0
    assert max(found) <= 1.0
    assert found[50:] == sorted(found[50:], reverse=True)
    assert factors(schedule=schedule, warmup=10, final_lr=0.3)[-1] == pytest.approx(0.3, abs=0.01)


def test_linear_descends_evenly() -> None:
    assert factors(steps=4, schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    assert factors(steps=4, schedule="linear", final_lr=0.5) == [1.0, 0.875, 0.75, 0.625]


def test_cosine_follows_torch() -> None:
    expected = [(1 + math.cos(math.pi * n / 100)) / 2 for n in range(100)]
    assert factors(schedule="cosine") == pytest.approx(expected, abs=1e-15)


def test_polynomial_has_its_power() -> None:
    assert factors(steps=4, schedule="polynomial", power=3) == [1.0, 0.75**3, 0.125, 0.25**3]


def test_exponential_multiplies_after_warmup() -> None:
    assert factors(steps=5, schedule="exponential", gamma=0.5, warmup=2) == [0.5, 1.0, 1.0, 0.5, 0.25]


def test_step_multiplies_every_step_size() -> None:
    assert factors(steps=6, schedule="step", gamma=0.5, step_size=2) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_multistep_multiplies_at_each_milestone() -> None:
    found = factors(steps=6, schedule="multistep", gamma=0.5, milestones=[1, 4, 4])
    assert found == [1.0, 0.5, 0.5, 0.5, 0.125, 0.125]


def test_inverse_sqrt_falls_from_the_end_of_warmup() -> None:
    found = factors(steps=16, schedule="inverse_sqrt", warmup=4)
    assert found[3] == 1.0
    assert found[15] == 0.5


def test_wsd_stays_then_descends() -> None:
    assert factors(steps=8, schedule="wsd", decay_steps=4) == [1.0] * 5 + [0.75, 0.5, 0.25]


def test_onecycle_peaks_at_warmup_or_three_tenths() -> None:
    assert factors(schedule="onecycle").index(1.0) == 30
    found = factors(schedule="onecycle", warmup=50, start_lr=0.2)
    assert found[0] == pytest.approx(0.2)
    assert found.index(1.0) == 50


@pytest.mark.parametrize("schedule", sorted(SHAPES))
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs_have_finite_factors(schedule: str, steps: int) -> None:
    for warmup in (0, 1, 5):
        assert all(0 < factor <= 1 for factor in factors(steps=steps, schedule=schedule, warmup=warmup))


def test_steps_beyond_the_end_stay_at_the_final_fraction() -> None:
    assert Schedule({**BASE, "schedule": "cosine", "final_lr": 0.25}).lr_factor(500) == 0.25


def test_one_group_lists_what_config_owns() -> None:
    config = {**BASE, "momentum": 0.9, "nesterov": True, "weight_decay": 0, "hidden": 64, "alpha": 0.5}
    assert hyperparameters(config, 0) == [{"momentum": 0.9, "nesterov": True, "weight_decay": 0, "lr": 0.1}]
    assert type(hyperparameters(config, 0)[0]["weight_decay"]) is int


def test_pairs_are_numbered() -> None:
    config = {**BASE, "optimizer": "AdamW", "betas": [0.8, 0.95]}
    assert hyperparameters(config, 0) == [{"betas_0": 0.8, "betas_1": 0.95, "lr": 0.1}]


def test_texts_are_left_out() -> None:
    config = {**BASE, "optimizer": "Muon", "adjust_lr_fn": "original", "ns_steps": 4}
    assert hyperparameters(config, 0) == [{"ns_steps": 4, "lr": 0.1}]


def test_groups_override_scale_and_freeze() -> None:
    config = {
        **BASE,
        "lr": 1,
        "momentum": 0.9,
        "schedule": "linear",
        "groups": [
            {"match": ["a*"], "lr_scale": 0.5, "momentum": 0.0},
            {"match": ["b*"], "frozen": True},
            {"match": ["c*"], "lr": 0.25, "weight_decay": 0.1},
        ],
    }
    assert hyperparameters(config, 50) == [
        {"momentum": 0.0, "lr": 0.25},
        {"momentum": 0.9, "weight_decay": 0.1, "lr": 0.125},
        {"momentum": 0.9, "lr": 0.5},
    ]


def test_optimizer_arguments_are_those_config_names() -> None:
    config = {**BASE, "optimizer": "AdamW", "eps": 1e-6, "momentum": 0.9}
    assert optimizer_arguments(config) == {"eps": 1e-6}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "'steps'"),
        ({"steps": True}, "'steps'"),
        ({"batch_size": None}, "'batch_size'"),
        ({"optimizer": "SDG"}, "did you mean SGD"),
        ({"optimizer": None}, "'optimizer': is missing"),
        ({"optimizer": ["SGD"]}, "'optimizer'"),
        ({"optimizer": "LBFGS"}, "override step"),
        ({"lr": None}, "'lr'"),
        ({"lr": "0.1"}, "'lr'"),
        ({"lr": math.inf}, "'lr'"),
        ({"lr": True}, "'lr'"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"schedule": ["cosine"]}, "'schedule'"),
        ({"warmup": -1}, "'warmup'"),
        ({"final_lr": "x"}, "'final_lr'"),
        ({"schedule": "step", "step_size": 0}, "'step_size'"),
        ({"schedule": "step", "gamma": "x"}, "'gamma'"),
        ({"schedule": "wsd", "decay_steps": 0}, "'decay_steps'"),
        ({"schedule": "polynomial", "power": 0.5}, "'power'"),
        ({"schedule": "multistep", "milestones": [1.5]}, "'milestones'"),
        ({"schedule": "multistep", "milestones": 3}, "'milestones'"),
        ({"accumulate": 3}, "multiple"),
        ({"accumulate": 0}, "'accumulate'"),
        ({"precision": "fp8"}, "'precision'"),
        ({"clip": -1.0}, "'clip'"),
        ({"clip": "x"}, "'clip'"),
        ({"ema": 1.0}, "'ema'"),
        ({"ema": -0.1}, "'ema'"),
        ({"groups": {"match": ["a"]}}, "'groups'"),
        ({"groups": [["a"]]}, "'groups'"),
        ({"groups": [{"match": "a"}]}, "groups.0..match"),
        ({"groups": [{"match": []}]}, "groups.0..match"),
        ({"groups": [{"match": [1]}]}, "groups.0..match"),
        ({"groups": [{"match": ["a"], "weight_deca": 0.1}]}, "did you mean weight_decay"),
        ({"groups": [{"match": ["a"], "betas": [0.1, 0.2]}]}, "betas"),
        ({"groups": [{"match": ["a"], "frozen": 1}]}, "frozen"),
        ({"groups": [{"match": ["a"], "lr_scale": "x"}]}, "'lr_scale'"),
    ],
)
def test_config_that_cannot_run_is_refused_and_the_key_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_recipe({**BASE, **change})


def test_keys_of_the_user_are_not_looked_at() -> None:
    check_recipe({**BASE, "gamma": "focal", "power": None, "milestones": "x", "hidden": object()})
