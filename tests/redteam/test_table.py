"""What tables and pages make of trials: counts, intervals of confidence, words, one page that fetches nothing."""

import math
from typing import Any

import pytest

from polledger.errors import UsageError
from polledger.redteam.page import redteam_page
from polledger.redteam.table import (
    Row,
    chance,
    clopper_pearson,
    lines_of,
    opened_words,
    reference_words,
    smallest_ratio,
    verdict_words,
)
from tests.publish.html import assert_inert, read


def row(**values: Any) -> Row:
    plain: dict[str, Any] = {
        "spoof": "9",
        "number": 9,
        "title": "one jump",
        "source": "this project",
        "seed": 0,
        "verdict": "REFUTED",
        "step": 9,
        "finding": "replay",
        "detail": "too far",
        "cost": 1.0,
        "reference": True,
        "shipped": True,
        "why": "",
        "sample": 20,
        "intervals": 1000,
        "opened": 25,
        "bogus": 1,
        "odds": 0.02,
        "flagged": 3,
        "smallest": 1.0,
        "parameters": 0.5,
        "reached": {"wt": 0.25},
        "note": "",
        "limit": False,
    }
    return Row(**{**plain, **values})


VERIFIED = {
    "verdict": "VERIFIED",
    "step": None,
    "finding": "",
    "detail": "",
    "smallest": None,
    "parameters": None,
}


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(20, 20, 0.83157, 1.0), (0, 20, 0.0, 0.16843), (19, 20, 0.75127, 0.99873), (2, 3, 0.09430, 0.99160)],
)
def test_intervals_of_confidence_are_those_of_the_tables(
    hits: int, trials: int, low: float, high: float
) -> None:
    assert clopper_pearson(hits, trials) == pytest.approx((low, high), abs=5e-6)


def test_a_rate_of_nothing_has_no_interval() -> None:
    with pytest.raises(UsageError):
        clopper_pearson(0, 0)
    with pytest.raises(UsageError):
        clopper_pearson(3, 2)


def test_one_line_per_spoof_counts_what_was_found() -> None:
    rows = [row(seed=0), row(seed=1, **VERIFIED), row(seed=2, cost=4.0, smallest=0.3), row(spoof="10")]
    line, other = lines_of(rows)
    assert (line.spoof, other.spoof) == ("9", "10")
    assert (line.trials, line.detected, line.verdicts) == (3, 2, {"REFUTED": 2, "VERIFIED": 1})
    assert (line.low, line.high) == clopper_pearson(2, 3)
    assert (line.by, line.cost, line.smallest, line.reference) == (("step 9 (replay)",), 2.0, 0.3, 3)
    assert line.succeeded
    assert not other.succeeded
    assert verdict_words(line) == "2 REFUTED, 1 VERIFIED of 3 by step 9 (replay)"


def test_a_stated_limit_that_verifies_is_no_success() -> None:
    (line,) = lines_of([row(limit=True, **VERIFIED)])
    assert not line.succeeded
    assert verdict_words(line) == "VERIFIED, as the limits say"


def test_ratios_are_those_of_the_closest_interval_that_failed() -> None:
    def interval(outcome: str, **groups: tuple[float, float]) -> dict[str, Any]:
        return {
            "outcome": outcome,
            "groups": {f"model/{name}": {"e": e, "u": u} for name, (e, u) in groups.items()},
        }

    report = {
        "intervals": [
            interval("pass", parameters=(1e-9, 1.0)),
            interval("fail", parameters=(0.2, 1.0), buffers=(3.0, 4.0)),
            interval("fail", parameters=(0.1, 1.0), buffers=(1.0, 0.0)),
        ]
    }
    assert smallest_ratio(report) == 0.75
    assert smallest_ratio(report, group="/parameters") == 0.1
    assert smallest_ratio({"intervals": report["intervals"][2:]}) == math.inf
    assert smallest_ratio({"intervals": report["intervals"][:1]}) is None


def test_words_say_what_was_drawn_and_who_else_accepts() -> None:
    (line,) = lines_of([row()])
    assert opened_words(line) == "n = 20 of 1000, 1 bogus: the draw alone finds 2 %"
    assert reference_words(line) == "published verifier accepts"
    (line,) = lines_of([row(shipped=False)])
    assert reference_words(line) == "published verifier accepts by l2, not by all four of its distances"
    (line,) = lines_of(
        [row(), row(seed=1, reference=False, shipped=False), row(reference=None, shipped=None)]
    )
    assert reference_words(line) == "published verifier accepts 1 of 2, 1 by all four of its distances"
    (line,) = lines_of([row(reference=None, shipped=None, why="it knows no time")])
    assert reference_words(line) == "published verifier: it knows no time"
    assert (chance(0.9999), chance(1.0)) == (">99.9 %", "100 %")


def page(*rows: Row) -> str:
    target = {"run": "R", "task": "t.py", "settings": ["lr=0.1"], "steps": 5, "every": 1, "warm": 0}
    skipped = [{"spoof": "22", "seed": seed, "reason": "needs <labels>"} for seed in range(2)]
    return redteam_page({"target": target, "skipped": skipped}, lines_of(rows))


def test_the_page_is_well_formed_and_has_a_row_for_every_spoof() -> None:
    text = page(row(), row(spoof="10", title="a < b & c", **VERIFIED))
    tags = read(text)
    assert sum(tag == "th" and attributes.get("scope") == "row" for tag, attributes in tags.seen) == 2
    assert "a &lt; b &amp; c" in text
    assert text.count("needs &lt;labels&gt;") == 1
    assert "1 of 2 spoofs got a VERIFIED: 10." in text


def test_the_page_does_not_count_a_limit_that_verified_among_what_did_not() -> None:
    text = page(row(spoof="16+unbound", limit=True, **VERIFIED), row())
    assert "No spoof of 1 was VERIFIED; 1 verified as the limits say." in text
    assert "No spoof could be tried." in page()


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    assert_inert(page(row()))
