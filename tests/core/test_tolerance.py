"""The comparison rules over numbers: PROTOCOL section 10, "Comparison"."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polledger.core.tolerance import (
    LEAN_CEILING,
    LEAN_FLOOR,
    Distances,
    GroupMeasure,
    Rules,
    judge_group,
    judge_interval,
    judge_lean,
    lean_false_alarm,
)

RULES = Rules()
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)


def measure(
    e: float, u: float, nu: float | None, *, exact: bool = False, strict: bool = True
) -> GroupMeasure:
    return GroupMeasure(name="g", exact=exact, strict_equal=strict, e=e, u=u, nu=nu)


def outcome(item: GroupMeasure, *, confirmed: bool = False) -> str:
    return judge_group(item, rules=RULES, confirmed=confirmed).outcome


def test_equal_bits_pass_whatever_the_numbers_say() -> None:
    assert outcome(measure(math.nan, math.nan, None, exact=True)) == "pass"


def test_error_within_noise_and_noise_within_displacement_passes_in_another_class() -> None:
    assert outcome(measure(0.02, 1.0, 0.01)) == "pass"


def test_error_equal_to_the_tolerance_passes_and_just_above_does_not() -> None:
    assert outcome(measure(0.03, 1.0, 0.01)) == "pass"
    assert outcome(measure(0.0301, 1.0, 0.01)) == "unverifiable"


def test_tolerance_that_reaches_half_the_displacement_is_unverifiable_however_small_the_error() -> None:
    judged = judge_group(measure(0.0001, 1.0, 0.5 / 3), rules=RULES, confirmed=False)
    assert judged.outcome == "unverifiable"
    assert "displacement" in judged.why


def test_error_of_half_the_displacement_fails_when_noise_does_not_explain_it() -> None:
    assert outcome(measure(0.5, 1.0, 0.01)) == "fail"
    assert outcome(measure(0.5, 1.0, 0.2)) == "unverifiable"


def test_error_between_tolerance_and_half_the_displacement_is_unverifiable() -> None:
    judged = judge_group(measure(0.2, 1.0, 0.01), rules=RULES, confirmed=False)
    assert (judged.outcome, "tolerance" in judged.why) == ("unverifiable", True)


def test_confirmed_difference_fails_above_the_noise_and_never_passes_below_it() -> None:
    assert outcome(measure(0.0301, 1.0, 0.01), confirmed=True) == "fail"
    assert outcome(measure(0.0299, 1.0, 0.01), confirmed=True) == "unverifiable"


def test_a_group_that_did_not_move_must_be_equal() -> None:
    assert outcome(measure(1e-9, 0.0, 0.0)) == "fail"
    assert outcome(measure(0.0, 0.0, 0.0)) == "unverifiable"
    for noise in (0.0, 1.0, math.nan, None):
        assert outcome(measure(1e-9, 0.0, noise), confirmed=True) == "fail"
    assert outcome(measure(0.0, 0.0, 1.0), confirmed=True) == "unverifiable"


def test_integers_that_differ_fail_only_when_confirmed() -> None:
    assert outcome(measure(0.0, 1.0, 0.0, strict=False), confirmed=True) == "fail"
    assert outcome(measure(0.0, 1.0, 0.0, strict=False)) == "unverifiable"


def test_unmeasured_noise_decides_nothing() -> None:
    assert outcome(measure(100.0, 1.0, None), confirmed=True) == "unverifiable"
    assert outcome(measure(100.0, 1.0, None)) == "unverifiable"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_number_that_is_not_finite_never_passes_and_never_refutes_in_another_class(
    bad: float, place: int
) -> None:
    values = [0.001, 1.0, 0.01]
    values[place] = bad
    assert outcome(measure(values[0], values[1], values[2])) == "unverifiable"


def test_infinite_error_fails_when_confirmed_but_infinite_noise_does_not() -> None:
    assert outcome(measure(math.inf, 1.0, 0.01), confirmed=True) == "fail"
    assert outcome(measure(math.inf, 1.0, math.inf), confirmed=True) == "unverifiable"
    assert outcome(measure(math.nan, 1.0, 0.01), confirmed=True) == "unverifiable"


@given(e=ANY_FLOAT, u=ANY_FLOAT, nu=ANY_FLOAT, confirmed=st.booleans(), strict=st.booleans())
def test_nothing_but_the_stated_inequality_passes_when_bits_differ(
    e: float, u: float, nu: float, confirmed: bool, strict: bool
) -> None:
    passed = outcome(measure(e, u, nu, strict=strict), confirmed=confirmed) == "pass"
    assert passed == (
        strict and not confirmed and math.isfinite(e) and math.isfinite(u) and e <= 3 * nu < 0.5 * u
    )


def test_margin_and_rho_come_from_the_rules() -> None:
    item = measure(0.05, 1.0, 0.01)
    assert judge_group(item, rules=Rules(margin=5.0), confirmed=False).outcome == "pass"
    assert judge_group(item, rules=Rules(rho=0.04), confirmed=False).outcome == "fail"


def judged(*outcomes: str) -> str:
    items = {
        "pass": measure(0.0, 1.0, 0.0, exact=True),
        "fail": measure(0.9, 1.0, 0.0),
        "unverifiable": measure(0.2, 1.0, 0.0),
    }
    return judge_interval(judge_group(items[name], rules=RULES, confirmed=False) for name in outcomes)


def test_an_interval_fails_if_one_group_fails() -> None:
    assert judged("pass", "unverifiable", "fail") == "fail"


def test_an_interval_passes_only_if_all_groups_pass() -> None:
    assert judged("pass", "pass") == "pass"
    assert judged("pass", "unverifiable") == "unverifiable"


def test_an_interval_without_groups_does_not_pass() -> None:
    assert judged() == "unverifiable"


def test_residuals_that_lean_no_more_than_the_verifiers_own_are_acceptable() -> None:
    assert judge_lean([0.1, 0.2], [(0.1, 0.0), (0.0, -0.1)], margin=3.0).acceptable


def test_residuals_that_all_point_at_the_final_model_are_not() -> None:
    own = [(0.01, -0.02)] * 4
    assert not judge_lean([0.9] * 4, own, margin=3.0).acceptable
    assert not judge_lean([0.08] * 4, own, margin=3.0).acceptable


def test_lean_limit_lies_between_floor_and_ceiling() -> None:
    assert judge_lean([0.0], [(0.0, 0.0)], margin=3.0).limit == LEAN_FLOOR
    assert judge_lean([0.0], [(0.9, 0.9)], margin=3.0).limit == LEAN_CEILING
    assert not judge_lean([0.95], [(0.9, 0.9)], margin=3.0).acceptable


def test_residuals_away_from_the_final_model_are_acceptable() -> None:
    assert judge_lean([-0.9], [(0.0, 0.0)], margin=3.0).acceptable


@pytest.mark.parametrize(
    ("recorded", "own"),
    [([], []), ([0.0], []), ([0.0], [()]), ([math.nan], [(0.0,)]), ([0.0], [(math.nan,)])],
)
def test_a_lean_that_cannot_be_computed_is_not_acceptable(
    recorded: list[float], own: list[tuple[float, ...]]
) -> None:
    assert not judge_lean(recorded, own, margin=3.0).acceptable


@pytest.mark.parametrize("replicas", [1, 4, 5, 9])
def test_false_alarm_without_a_margin_is_that_of_ranks(replicas: int) -> None:
    # The largest of replicas + 1 exchangeable values, and positive.
    assert lean_false_alarm(margin=1, replicas=replicas) == pytest.approx(1 / (2 * (replicas + 1)), rel=1e-5)


def test_false_alarm_of_the_default_test_is_what_a_simulation_gives() -> None:
    generator = random.Random(5)
    trials = 200_000
    alarms = sum(
        generator.gauss(0, 1) > 3 * max(abs(generator.gauss(0, 1)) for _ in range(5)) for _ in range(trials)
    )
    assert lean_false_alarm(margin=3, replicas=5) == pytest.approx(alarms / trials, rel=0.2)


def test_lean_states_the_false_alarm_of_the_test_that_was_made() -> None:
    lean = judge_lean([0.1, 0.1], [(0.01, 0.02, 0.03)] * 2, margin=2)
    assert lean.false_alarm == lean_false_alarm(margin=2, replicas=3)


def test_a_replica_that_is_equal_in_every_bit_lowers_no_false_alarm() -> None:
    # As the change of the CPU's threads is on a GPU.
    lean = judge_lean([0.1, 0.1], [(0.01, 0.02, 0.0)] * 2, margin=2)
    assert lean.false_alarm == lean_false_alarm(margin=2, replicas=2)


def test_no_false_alarm_is_stated_where_noise_would_explain_more_than_the_ceiling() -> None:
    assert judge_lean([0.95], [(0.9, 0.9)], margin=3.0).false_alarm is None


def test_distances_are_normalised_by_the_reference_where_there_is_one() -> None:
    found = Distances(l1=1.0, l2=0.5, linf=0.1, cosine=0.0, worst="a", reference=2.0)
    assert found.normalised == 0.25
    assert replace(found, reference=None).normalised is None
    assert replace(found, reference=0.0).normalised is None
