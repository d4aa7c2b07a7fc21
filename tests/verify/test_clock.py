"""Clock sanity: steps between anchors, clocks against each other, and what the replay says about both."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import combinations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from polledger.cli.reporting import report_text
from polledger.core.head import Head
from polledger.core.records import Step
from polledger.core.report import ADVISORY, Finding
from polledger.core.timesummary import TimeSummary
from polledger.timestamp.token import Timestamp
from polledger.verify.clock import (
    COMMON_SEALS,
    FASTER_ELSEWHERE,
    FASTER_HERE,
    STEPS_PER_SECOND,
    Anchor,
    Clock,
    at_least,
    fastest,
    find_anchors,
    judge_clock,
    replay_pace,
)
from polledger.verify.evidence import SealFile
from polledger.verify.heads import Heads, SealedHead
from polledger.verify.policy import Policy, parse_policy
from polledger.verify.tokens import Stamp
from tests.verify.build import NOW, RUN, START, Built, Spec, genesis_of
from tests.verify.check import check

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
STEP = Step(v=1, run=RUN, index=1, step=0, batch=bytes(32))


def heads(*steps: int) -> Heads:
    """Matching heads, each over genesis and so many steps; the records are one step again and again."""
    sealed = tuple(
        SealedHead(
            seal=SealFile(number=number, seal=None),
            head=Head(run=RUN, size=count + 1, root=bytes(32), chainpoint=bytes(32), previous=bytes(32)),
            matches=True,
            chainpoint_matches=True,
        )
        for number, count in enumerate(steps)
    )
    records = (genesis_of(Spec(), msgspec.UNSET), *[STEP] * steps[-1])
    return Heads(heads=sealed, problems={}, records=records, newest=sealed[-1], whole=True)


def stamp(
    seal: int, after: timedelta, operator: str | None = "A", accuracy: timedelta | None = SECOND
) -> Stamp:
    timestamp = Timestamp(
        gen_time=START + after,
        accuracy=accuracy,
        policy="1.2.3",
        serial=1,
        nonce=None,
        hash_name="sha256",
        imprint=bytes(32),
        ordering=False,
        tsa=f"CN={operator}",
        chain=(),
        signature_hash="sha256",
    )
    return Stamp(seal=seal, authority="x", operator=operator, timestamp=timestamp, entry=bytes(32))


def judged(
    known: Heads, stamps: Sequence[Stamp], policy: str = "", *, external: bool = True, now: Any = NOW
) -> Clock:
    return judge_clock(known, stamps, external=external, policy=parse_policy(policy), now=now)


def said(found: Clock) -> list[tuple[str, str]]:
    assert all(finding.outcome == "unverifiable" and finding.step == 3 for finding in found.findings)
    return [(finding.name, finding.detail) for finding in found.findings]


def test_an_ordinary_run_is_told_by_its_steps_a_second() -> None:
    found = judged(heads(0, 1000, 3000), [stamp(0, 0 * HOUR), stamp(1, HOUR), stamp(2, 2 * HOUR)])
    assert said(found) == []
    assert found.pace is not None
    quick = found.pace.pop("fastest")
    assert found.pace == {
        "seals": [0, 2],
        "steps": 3000,
        "seconds": 7200.0,
        "steps_per_second": pytest.approx(3000 / 7200),
    }
    assert quick == {
        "seals": [1, 2],
        "steps": 2000,
        "seconds": 3602.0,
        "steps_per_second": pytest.approx(2000 / 3602),
    }


def test_a_million_steps_in_a_second_are_no_training() -> None:
    found = judged(heads(0, 1_000_000), [stamp(0, 0 * SECOND), stamp(1, SECOND)])
    ((name, detail),) = said(found)
    assert name == "time.pace"
    assert detail.startswith(
        "1000000 steps lie between seals 0 and 1, whose anchors leave 3 s: 3.33e+05 a second"
    )
    assert not found.findings[0].blocks


def test_the_bound_is_on_what_the_accuracies_leave() -> None:
    steps = 400_000
    known = heads(0, steps)
    # 2 s apart: with an accuracy of 1 s each there may be 4 s between them.
    assert steps / 4 == STEPS_PER_SECOND
    assert said(judged(known, [stamp(0, 0 * SECOND), stamp(1, 2 * SECOND)])) == []
    less = SECOND - timedelta(microseconds=1)
    sharper = [stamp(0, 0 * SECOND, accuracy=less), stamp(1, 2 * SECOND)]
    assert [name for name, _ in said(judged(known, sharper))] == ["time.pace"]
    unstated = [stamp(0, 0 * SECOND, accuracy=None), stamp(1, 2 * SECOND, accuracy=None)]
    assert said(judged(known, unstated)) == []
    assert [name for name, _ in said(judged(known, unstated, "[time]\naccuracy = 0.5"))] == ["time.pace"]


def test_the_fastest_stretch_counts_not_the_whole_run() -> None:
    """An hour of nothing before and after does not hide seals that were all stamped together."""
    counts = [0, 1, *range(100_000, 1_100_000, 100_000), 1_000_001]
    times = [0 * HOUR, HOUR, *[HOUR + SECOND] * 10, 3 * HOUR]
    found = judged(heads(*counts), [stamp(i, time) for i, time in enumerate(times)])
    assert [name for name, _ in said(found)] == ["time.pace"]
    assert found.pace is not None
    assert found.pace["fastest"]["seals"] == [2, 11]


def test_time_that_stands_still_leaves_only_the_accuracies() -> None:
    found = judged(heads(0, 300_000, 600_000), [stamp(n, HOUR) for n in range(3)])
    assert found.pace is not None
    assert (found.pace["seconds"], found.pace["steps_per_second"]) == (0.0, None)
    assert found.pace["fastest"]["seconds"] == 2.0
    assert [name for name, _ in said(found)] == ["time.pace"]


def test_exact_clocks_at_one_moment_divide_by_no_zero() -> None:
    exact = timedelta()
    found = judged(heads(0, 1), [stamp(0, HOUR, accuracy=exact), stamp(1, HOUR, accuracy=exact)])
    assert [name for name, _ in said(found)] == ["time.pace"]


def test_a_late_token_over_an_early_head_changes_no_anchor() -> None:
    """The head is anchored by the token over the next one: asking late is normal."""
    known = heads(0, 1000, 2000)
    late = [stamp(0, 0 * HOUR), stamp(1, 9 * HOUR), stamp(2, 2 * HOUR)]
    found = judged(known, late)
    assert said(found) == []
    anchors = find_anchors(known, late, quorum=1, policy=Policy())
    assert [anchor.time for anchor in anchors] == [0, 7200, 7200]


def test_a_story_that_begins_after_its_end_is_told() -> None:
    known = heads(0, 1000)
    ((name, detail),) = said(judged(known, [stamp(0, HOUR), stamp(1, 0 * HOUR)]))
    assert name == "time.pace"
    assert "the first head was itself stamped only at 2026-03-01T13:00:00Z, after the last" in detail
    close = [stamp(0, 2 * SECOND), stamp(1, 0 * SECOND)]
    assert said(judged(known, close)) == []
    earlier_too = [stamp(0, HOUR), stamp(0, 0 * HOUR, "B"), stamp(1, 0 * HOUR)]
    assert said(judged(known, earlier_too)) == []


def test_without_two_anchors_there_is_no_pace() -> None:
    assert judged(heads(0, 1000), []) == Clock()
    assert judged(heads(5), [stamp(0, HOUR)]).pace is None
    assert judged(heads(0, 5), [stamp(0, HOUR)]).pace is None


def test_a_quorum_anchors_when_it_is_complete() -> None:
    known = heads(0, 1000)
    stamps = [stamp(n, n * HOUR + late * HOUR, who) for n in (0, 1) for who, late in (("A", 0), ("B", 3))]
    found = judged(known, stamps, "[time]\nquorum = 2")
    assert found.pace is not None
    anchors = find_anchors(known, stamps, quorum=2, policy=Policy())
    assert [anchor.time for anchor in anchors] == [0, 3600]
    assert find_anchors(known, stamps, quorum=3, policy=Policy()) == []
    spread = [*stamps[:3], stamp(1, 6 * HOUR, "B")]
    for quorum, seconds in ((1, 3600.0), (2, 3 * 3600.0)):
        pace = judged(known, spread, f"[time]\nquorum = {quorum}").pace
        assert pace is not None
        assert pace["seconds"] == seconds


def test_an_operator_spelled_in_two_ways_completes_no_quorum_of_two() -> None:
    stamps = [stamp(n, n * HOUR, who) for n in (0, 1) for who in ("A Ltd", "a  ltd")]
    assert find_anchors(heads(0, 1000), stamps, quorum=2, policy=Policy()) == []


def test_a_head_that_does_not_match_the_records_is_no_anchor() -> None:
    known = heads(0, 1000, 2000)
    bent = replace(known, heads=(*known.heads[:2], replace(known.heads[2], matches=False)))
    anchors = find_anchors(bent, [stamp(n, n * HOUR) for n in range(3)], quorum=1, policy=Policy())
    assert [(anchor.seal, anchor.time) for anchor in anchors] == [(0, 0), (1, 3600)]


def test_what_nobody_vouches_for_does_not_count_beside_what_somebody_does() -> None:
    known = heads(0, 1_000_000)
    own = [stamp(0, HOUR, None), stamp(1, HOUR, None)]
    trusted = [stamp(0, 0 * HOUR), stamp(1, 5 * HOUR)]
    assert said(judged(known, [*own, *trusted])) == []
    assert [name for name, _ in said(judged(known, own, external=False))] == ["time.pace"]


def test_the_policy_may_bound_the_pace_of_external_anchors() -> None:
    known, stamps = heads(0, 7200), [stamp(0, 0 * HOUR), stamp(1, 2 * HOUR)]
    assert said(judged(known, stamps, "[time]\npace = 1.0")) == []
    found = judged(known, stamps, "[time]\npace = 0.9")
    assert [name for name, _ in said(found)] == ["time.required"]
    assert found.findings[0].blocks
    for some, external in ((stamps[:1], True), (stamps, False)):
        missing = judged(known, some, "[time]\npace = 1000.0", external=external)
        assert [name for name, _ in said(missing)] == ["time.required"]
        assert missing.findings[0].blocks


def clocks(found: Clock) -> list[Finding]:
    return [finding for finding in found.findings if finding.name in ("time.clocks", "time.required")]


def two(lags: Sequence[timedelta], *, apart: timedelta = HOUR) -> tuple[Heads, list[Stamp]]:
    """Seals ``apart``, each stamped by A at once and by B after a lag."""
    known = heads(*[10 * (n + 1) for n in range(len(lags))])
    stamps = [stamp(n, n * apart, "A") for n in range(len(lags))]
    return known, stamps + [stamp(n, n * apart + lag, "B") for n, lag in enumerate(lags)]


def test_the_same_lag_on_every_head_is_a_clock_that_is_off() -> None:
    known, stamps = two([HOUR] * COMMON_SEALS)
    (finding,) = clocks(judged(known, stamps))
    assert finding.name == "time.clocks"
    assert finding.name in ADVISORY
    assert "'B' stamped 3 heads 1 h to 1 h after 'A'" in finding.detail
    (required,) = clocks(judged(known, stamps, "[require]\nexternal_time = true"))
    assert required.blocks


def test_one_operator_spelled_in_two_ways_is_one_voice_on_the_clock() -> None:
    known, stamps = two([HOUR] * COMMON_SEALS)
    spelled = [replace(one, operator="a  " if one.operator == "B" else "A") for one in stamps]
    assert clocks(judged(known, spelled)) == []
    third = [stamp(n, n * HOUR + HOUR, who) for n, who in enumerate(("C", "c", " C"))]
    (finding,) = clocks(judged(known, [*spelled, *third]))
    assert "stamped 3 heads 1 h to 1 h after" in finding.detail


@pytest.mark.parametrize(
    "lags",
    [
        [HOUR] * (COMMON_SEALS - 1),
        [2 * SECOND] * COMMON_SEALS,
        [HOUR, HOUR, HOUR + 3 * SECOND],
        [3 * HOUR, 2 * HOUR, HOUR],
        [0 * HOUR, 0 * HOUR, HOUR],
    ],
    ids=["two heads", "within the accuracies", "not the same", "asked together, late", "one asked late"],
)
def test_other_lags_are_requests_that_were_late(lags: list[timedelta]) -> None:
    assert clocks(judged(*two(lags))) == []


def test_heads_made_together_and_asked_late_are_no_clock_that_is_off() -> None:
    assert clocks(judged(*two([HOUR] * COMMON_SEALS, apart=SECOND))) == []


def test_tokens_of_renewals_are_nobodys_first_word_on_a_head() -> None:
    known, stamps = two([HOUR] * COMMON_SEALS)
    later = [replace(one, renewal=0) if one.operator == "B" else one for one in stamps]
    assert clocks(judged(known, later)) == []
    renewed = [stamp(0, HOUR), replace(stamp(1, 0 * HOUR, "B"), renewal=0)]
    assert said(judged(heads(0, 1000), renewed)) == []


def test_a_machine_behind_its_authorities_is_told() -> None:
    known, stamps = heads(0, 10), [stamp(0, 0 * HOUR), stamp(1, HOUR)]
    now = START + HOUR - SECOND
    assert clocks(judged(known, stamps, now=now)) == []
    (finding,) = clocks(judged(known, stamps, now=now - SECOND))
    assert finding.name == "time.clocks"
    assert "2 s ahead of this machine's clock" in finding.detail


def test_how_far_ahead_is_what_the_farthest_token_says() -> None:
    stamps = [stamp(0, 3 * HOUR), stamp(1, 2 * HOUR), stamp(1, 2 * HOUR, "B")]
    (finding,) = clocks(judged(heads(0, 10), stamps, now=START))
    assert "tokens of 2 operators lie up to 3 h ahead" in finding.detail


def test_an_accuracy_of_decades_leaves_the_calendar_nowhere() -> None:
    wide = timedelta(seconds=2**31)
    known = heads(0, 10)
    for after in (timedelta(days=-730_000), timedelta(days=2_900_000)):
        found = judged(known, [stamp(0, after, accuracy=wide), stamp(1, after, accuracy=wide)], now=START)
        assert found.pace is not None


# --- the replay ---------------------------------------------------------------------------------------------------


def summary(steps: int, seconds: float) -> TimeSummary:
    quick = {"seals": [0, 1], "steps": steps, "seconds": seconds, "steps_per_second": steps / seconds}
    return TimeSummary(pace={"seals": [0, 1], "fastest": quick})


@pytest.mark.parametrize(("same_class", "factor"), [(True, FASTER_HERE), (False, FASTER_ELSEWHERE)])
def test_a_run_far_faster_than_its_replay_is_told(same_class: bool, factor: float) -> None:
    run = summary(100, 1.0)
    at_bound, nothing = replay_pace(run, factor / 100, same_class=same_class)
    assert nothing == []
    assert at_bound.pace is not None
    assert at_bound.pace["replayed_steps_per_second"] == pytest.approx(100 / factor)
    _, (finding,) = replay_pace(run, factor / 100 * 1.01, same_class=same_class)
    assert (finding.name, finding.outcome, finding.blocks) == ("time.pace", "unverifiable", False)


def test_what_was_said_without_the_replay_is_not_said_again() -> None:
    assert replay_pace(summary(10**6, 1.0), 1.0, same_class=True)[1] == []


def test_without_anchors_or_replay_nothing_is_added() -> None:
    assert replay_pace(TimeSummary(), 1.0, same_class=True) == (TimeSummary(), [])
    run = summary(100, 1.0)
    assert replay_pace(run, 0.0, same_class=True) == (run, [])


def test_a_report_says_what_anchors_and_replay_imply(honest: Built) -> None:
    report = check(honest)
    pace = report.to_json()["time"]["pace"]
    assert (pace["seals"], pace["steps"], pace["seconds"]) == ([0, 2], 12, 120.0)
    assert pace["steps_per_second"] == pytest.approx(0.1)
    assert pace["replayed_steps_per_second"] > 0
    assert report.verdict == "VERIFIED"
    text = report_text(report, Console(width=200))
    assert "0.1 steps a second between the anchors of seals 0 and 2, at the fastest 0.0" in text
    assert "replayed here" in text


# --- the fastest stretch ------------------------------------------------------------------------------------------


@st.composite
def anchor_lists(draw: st.DrawFn) -> list[Anchor]:
    count = draw(st.integers(2, 12))
    steps = sorted(draw(st.lists(st.integers(0, 1000), min_size=count, max_size=count)))
    times = sorted(draw(st.lists(st.integers(0, 1000), min_size=count, max_size=count)))
    slacks = draw(st.lists(st.integers(0, 100), min_size=count, max_size=count))
    return [
        Anchor(seal=i, steps=n, time=float(t), slack=float(s))
        for i, (n, t, s) in enumerate(zip(steps, times, slacks, strict=True))
    ]


@given(anchors=anchor_lists())
def test_the_fastest_stretch_is_the_fastest_of_all_pairs(anchors: list[Anchor]) -> None:
    pair = fastest(anchors)
    assert pair is not None
    assert at_least(*pair) == max(at_least(*other) for other in combinations(anchors, 2))
