"""The verdict fails closed, and the report says what decided it."""

import json
import math
from dataclasses import replace

import pytest

from polledger.core.opened import IntervalResult, Odds, Sample
from polledger.core.report import (
    ADVISORY,
    LIMITS,
    REQUIRED,
    REQUIRED_WITH_MODEL,
    Finding,
    Report,
    judge,
    missing_checks,
    sentence,
)
from polledger.core.timesummary import TimeSummary
from polledger.core.tolerance import Distances, GroupMeasure, Rules, judge_group

ALL = (*REQUIRED, *REQUIRED_WITH_MODEL)


def finding(step: int, name: str, outcome: str = "pass", **values: object) -> Finding:
    return Finding(**{"step": step, "name": name, "outcome": outcome, "detail": "d", **values})  # type: ignore[arg-type]


def passes(*, model: bool = False) -> list[Finding]:
    return [finding(step, name) for step, name in (ALL if model else REQUIRED)]


def test_required_checks_are_those_of_the_protocol() -> None:
    assert {step for step, _ in REQUIRED} == {1, 2, 3, 4, 5, 6, 7, 8, 9}
    assert {step for step, _ in REQUIRED_WITH_MODEL} == {10}


def test_verified_when_every_required_check_passed() -> None:
    assert judge(passes(), model=False) == "VERIFIED"
    assert judge(passes(model=True), model=True) == "VERIFIED"


@pytest.mark.parametrize("gone", ALL)
def test_never_verified_without_the_pass_of(gone: tuple[int, str]) -> None:
    left = [item for item in passes(model=True) if (item.step, item.name) != gone]
    assert judge(left, model=True) == "UNVERIFIABLE"
    assert missing_checks(left, model=True) == [gone]


@pytest.mark.parametrize("check", ALL)
def test_a_required_check_that_could_not_be_made_blocks_even_beside_a_pass(check: tuple[int, str]) -> None:
    found = [*passes(model=True), finding(*check, "unverifiable")]
    assert judge(found, model=True) == "UNVERIFIABLE"


def test_nothing_is_verified_without_findings() -> None:
    assert judge([], model=False) == "UNVERIFIABLE"


def test_a_pass_under_another_step_number_does_not_count() -> None:
    moved = [replace(item, step=5) if item.name == "replay" else item for item in passes()]
    assert judge(moved, model=False) == "UNVERIFIABLE"


def test_failure_takes_precedence_over_everything() -> None:
    assert judge([finding(9, "replay", "fail")], model=False) == "REFUTED"
    assert judge([*passes(), finding(5, "other", "fail")], model=False) == "REFUTED"


def test_an_unknown_unverifiable_finding_blocks() -> None:
    assert judge([*passes(), finding(9, "something", "unverifiable")], model=False) == "UNVERIFIABLE"


@pytest.mark.parametrize("name", sorted(ADVISORY))
def test_advisory_findings_inform_but_still_refute(name: str) -> None:
    assert judge([*passes(), finding(3, name, "unverifiable")], model=False) == "VERIFIED"
    assert judge([*passes(), finding(3, name, "fail")], model=False) == "REFUTED"


def test_no_required_check_is_advisory() -> None:
    assert not {name for _, name in ALL} & ADVISORY


def report(**values: object) -> Report:
    standard: dict[str, object] = {
        "run": "ab",
        "head": None,
        "findings": tuple(passes()),
        "comparison": "bitwise",
        "sample": Sample(nonce=b"\x01", total=60, drawn=8, intervals=tuple(range(8))),
        "odds": (Odds(label="10 %", bogus=6, detection=0.6, needed=30),),
        "time": TimeSummary(assurance="self-asserted"),
        "intervals": tuple(
            IntervalResult(interval=i, first=i, last=i + 1, outcome="pass", exact=True) for i in range(8)
        ),
    }
    return Report(**{**standard, **values})  # type: ignore[arg-type]


def test_sentence_of_a_verified_run_says_coverage_odds_and_time() -> None:
    assert sentence(report()) == (
        "VERIFIED: 8 of 60 intervals replayed bit for bit; a run with 10 % bogus intervals would pass with "
        "probability 0.40; time is self-asserted"
    )


def test_sentence_says_tolerance_and_external_time() -> None:
    time = TimeSummary(assurance="external", last="2026-01-01T00:00:00Z")
    text = sentence(report(comparison="tolerance", time=time))
    assert "within tolerance" in text
    assert "external time 2026-01-01T00:00:00Z" in text


def test_small_probabilities_are_not_rounded_to_zero() -> None:
    text = sentence(report(odds=(Odds(label="10 %", bogus=6, detection=0.9999, needed=30),)))
    assert "probability 0.0001" in text


def test_sentence_of_a_refuted_run_names_step_and_place() -> None:
    bad = finding(9, "replay", "fail", interval=12, detail="steps 120 to 130: momentum differs")
    text = sentence(report(findings=(finding(3, "time.consistency", "unverifiable"), bad)))
    assert text == "REFUTED: step 9 (replay): interval 12: steps 120 to 130: momentum differs"


def test_sentence_of_an_unverifiable_run_names_the_remedy() -> None:
    bad = finding(7, "inclusion", "unverifiable", record=4, detail="gone", remedy="restore it")
    text = sentence(report(findings=(*passes(), bad)))
    assert text == "UNVERIFIABLE: step 7 (inclusion): record 4: gone; restore it"


def test_sentence_names_a_check_that_was_never_made() -> None:
    left = tuple(item for item in passes() if item.name != "origin")
    assert sentence(report(findings=left)) == "UNVERIFIABLE: step 8 (origin) was not done"


def test_first_bad_prefers_a_failure_to_an_earlier_gap() -> None:
    found = (finding(1, "parse", "unverifiable"), finding(9, "replay", "fail"))
    bad = report(findings=found).first_bad
    assert bad is not None
    assert bad.step == 9


@pytest.mark.parametrize(("outcome", "code"), [("pass", 0), ("fail", 1), ("unverifiable", 3)])
def test_exit_code_follows_the_verdict(outcome: str, code: int) -> None:
    made = report(findings=(*passes(), finding(9, "extra", outcome)))
    assert made.exit_code == code
    assert made.to_json()["exit_code"] == code


def test_a_report_with_a_model_needs_step_10() -> None:
    assert report(model=True).verdict == "UNVERIFIABLE"


def test_json_has_every_field_of_the_protocol_and_no_nan() -> None:
    measure = GroupMeasure(name="g", exact=False, strict_equal=True, e=math.nan, u=math.inf, nu=0.5)
    judged = judge_group(measure, rules=Rules(), confirmed=False)
    interval = IntervalResult(
        interval=0, first=0, last=1, outcome="unverifiable", exact=False, groups=(judged,), why="w"
    )
    bad = finding(9, "replay", "fail", record=3, interval=0, expected="a", found="b", remedy="r")
    made = report(findings=(bad,), intervals=(interval,)).to_json()
    text = json.dumps(made, allow_nan=False)
    assert json.loads(text)["schema"] == "polledger.verify/1"
    fields = {
        "schema", "exit_code", "verdict", "run", "head", "findings", "intervals", "sample", "odds", "time",
        "code", "comparison", "environment", "first_bad",
    }  # fmt: skip
    assert fields <= set(made)
    assert made["intervals"][0]["groups"]["g"]["nu"] == 0.5
    assert set(made["findings"][0]) == {
        "step", "name", "outcome", "detail", "record", "interval", "expected", "found", "remedy"
    }  # fmt: skip
    assert made["first_bad"] == made["findings"][0]


def test_json_of_a_finding_leaves_out_what_does_not_apply() -> None:
    assert set(finding(1, "parse").to_json()) == {"step", "name", "outcome", "detail"}


def test_verified_report_has_no_first_bad() -> None:
    assert report().to_json()["first_bad"] is None


def test_limits_say_what_screening_leaves_to_the_odds() -> None:
    assert any("screening" in limit and "odds" in limit for limit in LIMITS)


def test_distances_are_told_by_group_and_normalised_where_there_is_a_reference() -> None:
    parameters = Distances(l1=3.0, l2=2.0, linf=1.0, cosine=1e-9, worst="model/w", reference=8.0)
    buffers = Distances(l1=3.0, l2=math.inf, linf=1.0, cosine=0.5, worst="model/mean")
    result = IntervalResult(
        interval=1,
        first=0,
        last=10,
        outcome="pass",
        exact=False,
        distances={"model/parameters": parameters, "model/buffers": buffers},
    )
    assert result.normalised == 0.25
    assert result.to_json()["distances"] == {
        "model/parameters": {
            "l1": 3.0,
            "l2": 2.0,
            "linf": 1.0,
            "cosine": 1e-9,
            "worst": "model/w",
            "d_ref": 8.0,
            "d_ref_normalised": 0.25,
        },
        "model/buffers": {"l1": 3.0, "l2": "inf", "linf": 1.0, "cosine": 0.5, "worst": "model/mean"},
    }
