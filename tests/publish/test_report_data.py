"""What a page shows of a long run: never less than the worst of it."""

import re
from typing import Any, cast

import pytest

from polledger.core.reportform import IntervalForm, TrajectoryForm, VerificationForm
from polledger.publish.reportdata import (
    blocks,
    cells,
    error_point,
    error_points,
    fates,
    finite,
    spread,
    step_at,
    step_states,
)
from polledger.publish.reportsample import RANGES, ranges
from polledger.publish.style import base_style


def interval(
    number: int, outcome: str = "pass", *, e: Any = 1e-6, nu: Any = 1e-5, **values: Any
) -> IntervalForm:
    group = {"e": e, "u": 1.0, "nu": nu, "outcome": outcome}
    plain = {"interval": number, "steps": [number * 5, number * 5 + 5], "outcome": outcome, "exact": False,
             "groups": {"model/parameters": group}, "distances": {}, "why": ""}  # fmt: skip
    return cast(IntervalForm, plain | values)


def value(results: list[IntervalForm], total: int, **sample: Any) -> VerificationForm:
    opened = [result["interval"] for result in results]
    plain = {"total": total, "drawn_intervals": opened[:1], "intervals": opened, "flagged": []}
    return cast(
        VerificationForm,
        {
            "intervals": results,
            "rules": {"margin": 3.0, "rho": 0.5},
            "sample": plain | sample,
            "findings": [],
        },
    )


@pytest.mark.parametrize("bad", range(0, 1000, 37))
def test_of_many_intervals_the_one_that_failed_is_drawn(bad: int) -> None:
    results = [interval(at, "fail" if at == bad else "pass") for at in range(1000)]
    points, merged = error_points(value(results, 1000), count=50)
    assert (len(points), merged) == (50, 20)
    assert [point.interval for point in points if point.outcome == "fail"] == [bad]


def test_of_neighbours_that_passed_the_one_closest_to_its_tolerance_is_drawn() -> None:
    results = [interval(0), interval(1, e=2e-5), interval(2, nu=2e-6, e=5e-6), interval(3, exact=True)]
    [point], merged = error_points(value(results, 4), count=1)
    assert (point.interval, merged) == (2, 4)
    assert point.tolerance == pytest.approx(6e-6)


def test_an_interval_that_was_not_compared_outranks_equal_bits() -> None:
    results = [interval(0, exact=True), interval(1, "unverifiable", groups={})]
    [point], _ = error_points(value(results, 2), count=1)
    assert (point.interval, point.bits) == (1, "not compared")


def test_equal_bits_are_shown_by_their_parameters() -> None:
    group = {"e": 0.0, "outcome": "pass"}
    groups = {"ema": group | {"u": 9.0}, "model/parameters": group | {"u": 2.0}}
    point = error_point(interval(0, exact=True, groups=groups), margin=3.0)
    assert (point.group, point.u, point.bits) == ("model/parameters", 2.0, "equal")


@pytest.mark.parametrize("bad", [0, 1, 49, 50, 998, 999])
def test_a_cell_shows_the_worst_of_its_intervals(bad: int) -> None:
    results = [interval(at, "fail" if at == bad else "pass") for at in range(1000)]
    found = cells(value(results, 1000, drawn_intervals=list(range(1000)), flagged=[bad]), count=20)
    assert sum(cell.size for cell in found) == 1000
    assert [at for at, cell in enumerate(found) if cell.fate == "failed"] == [bad // 50]
    assert [at for at, cell in enumerate(found) if cell.flagged] == [bad // 50]
    assert {cell.fate for cell in found} == {"failed", "drawn"}


def test_what_was_asked_for_and_never_opened_is_not_called_passed() -> None:
    sample = {"drawn_intervals": [1, 4], "intervals": [0, 1, 4]}
    found = fates(value([interval(0), interval(1)], 6, **sample))
    assert found == {0: "added", 1: "drawn", 4: "unchecked"}
    assert [cell.fate for cell in cells(value([], 3, drawn_intervals=[0], intervals=[0]))] == [
        "unchecked",
        "closed",
        "closed",
    ]


def finding(step: int, outcome: str, name: str = "parse") -> Any:
    return {"step": step, "name": name, "outcome": outcome, "detail": ""}


@pytest.mark.parametrize(
    ("findings", "state"),
    [
        ([], "missing"),
        ([finding(3, "pass")], "pass"),
        ([finding(3, "pass"), finding(3, "unverifiable")], "unverifiable"),
        ([finding(3, "pass"), finding(3, "unverifiable"), finding(3, "fail")], "fail"),
        ([finding(3, "pass"), finding(3, "unverifiable", "time.assurance")], "pass"),
        ([finding(3, "unverifiable", "time.assurance")], "noted"),
        ([finding(3, "fail", "time.assurance")], "fail"),
    ],
)
def test_a_step_is_what_blocks_in_it(findings: list[Any], state: str) -> None:
    found = step_states(cast(VerificationForm, {"findings": findings}))
    assert [item.step for item in found] == list(range(1, 11))
    assert found[2].state == state
    assert any(map(blocks, findings)) == (state in ("fail", "unverifiable"))


def test_intervals_lie_between_the_points_of_a_trajectory() -> None:
    way = cast(TrajectoryForm, {"intervals": [0, 2, 10], "steps": [0, 2, 42]})
    assert [step_at(way, at) for at in (0, 1, 2, 6, 10, 99)] == [0, 1, 2, 22, 42, 42]


def test_a_choice_keeps_both_ends() -> None:
    assert spread([1, 2, 3], 3) == [1, 2, 3]
    chosen = spread(range(100), 7)
    assert (len(chosen), chosen[0], chosen[-1]) == (7, 0, 99)


def test_ranges_are_short() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert ranges([]) == ""
    many = ranges(range(0, 4 * RANGES, 2))
    assert many.endswith(f"and {RANGES} more ranges")


def test_only_numbers_that_can_be_drawn_are_drawn() -> None:
    assert [finite(item) for item in (None, "inf", "nan", 1e300, -1e300, 1e-300, 0.0, 2)] == [
        None, None, None, None, None, None, 0.0, 2,
    ]  # fmt: skip


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_can_be_read_in_light_dark_and_on_paper() -> None:
    themes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", base_style(), re.DOTALL)
    ]
    assert len(themes) == 3
    for theme in themes:
        pairs = [(name, "paper") for name in ("ink", "faint", "good", "bad", "open", "mark", "second")]
        pairs += [(name, f"{name}-shade") for name in ("good", "bad", "open")]
        for ink, ground in [*pairs, *(("ink", f"{name}-shade") for name in ("good", "bad", "open"))]:
            dark, light = sorted(luminance(theme[name]) for name in (ink, ground))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground, theme)
