"""The screening rules over numbers: what each one flags, what it leaves alone, and at which bound."""

import math
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from polledger.core.screening import (
    FEWEST,
    Flag,
    ScreeningRules,
    Segment,
    Track,
    adam_reach,
    cosine,
    largest,
    nearly_still,
    probes,
    screen,
)

RULES = ScreeningRules()
GROUP = "model/parameters"
SEED = b"s" * 32


def wandering(count: int, *, dimensions: int = 16, seed: int = 1) -> list[list[float]]:
    """Places of a run that moves by about 1 each time, in a new direction."""
    rng = random.Random(seed)
    places = [[0.0] * dimensions]
    for _ in range(count):
        step = [rng.gauss(0, 1 / math.sqrt(dimensions)) for _ in range(dimensions)]
        places.append([a + b for a, b in zip(places[-1], step, strict=True)])
    return places


def track(places: list[list[float]], *, steps: int = 1, **groups: list[float]) -> Track:
    """The run through ``places``; further groups by their displacements."""
    segments = [
        Segment(
            first=i,
            last=i,
            steps=steps,
            moved={
                GROUP: math.dist(a, b),
                **{f"optimizer/{name}": moved[i] for name, moved in groups.items()},
            },
        )
        for i, (a, b) in enumerate(pairwise(places))
    ]
    return Track(segments=segments, places={GROUP: places})


def shifted(places: list[list[float]], at: int, by: float) -> list[list[float]]:
    """The run with one jump of length ``by`` before place ``at``."""
    return [[place[0] + by, *place[1:]] if i >= at else place for i, place in enumerate(places)]


def kinds(flags: list[Flag], *wanted: str) -> list[tuple[str, int]]:
    return [(flag.kind, flag.first) for flag in flags if flag.kind in wanted]


def test_a_run_that_wanders_evenly_has_no_jump_and_only_its_end_arrives() -> None:
    flags = screen(track(wandering(200)), RULES)
    assert kinds(flags, "jump", "alone", "straight", "optimizer") == []
    assert all(flag.first >= 190 for flag in flags if flag.kind == "arrival")


@pytest.mark.parametrize("at", [1, 17, 100, 199, 200])
def test_a_jump_is_flagged_wherever_it_is(at: int) -> None:
    flags = screen(track(shifted(wandering(200), at, 10.0)), RULES)
    assert kinds(flags, "jump") == [("jump", at - 1)]


def test_the_limit_of_a_jump_is_a_multiple_of_the_upper_quartile_of_its_neighbours() -> None:
    moved = [1.0] * 50
    for value, flagged in ((3.0, False), (3.0 + 1e-9, True)):
        moved[20] = value
        flags = screen(track(wandering(50), momentum=moved), RULES)
        assert kinds(flags, "jump") == [("jump", 20)] * flagged


def test_a_jump_is_seen_in_every_group_and_the_worst_is_named() -> None:
    moved, other = [1.0] * 50, [1.0] * 50
    moved[20], other[20] = 5.0, 7.0
    (flag,) = [f for f in screen(track(wandering(50), exp_avg=moved, step=other), RULES) if f.kind == "jump"]
    assert (flag.group, flag.value, flag.limit) == ("optimizer/step", 7.0, 3.0)


def test_small_displacements_are_no_jump() -> None:
    moved = [1.0] * 50
    moved[20] = 1e-6
    assert kinds(screen(track(wandering(50), momentum=moved), RULES), "jump") == []


def test_neighbours_are_near_in_time() -> None:
    """A phase of large steps excuses nothing in a phase of small ones."""
    moved = [10.0] * 100 + [0.1] * 100
    assert kinds(screen(track(wandering(200), momentum=moved), RULES), "jump") == []
    moved[150] = 5.0
    assert kinds(screen(track(wandering(200), momentum=moved), RULES), "jump") == [("jump", 150)]


def test_a_quarter_of_the_neighbours_excuses_nothing_and_more_do() -> None:
    for spikes, flagged in ((8, True), (9, False)):
        moved = [1.0] * 33
        for i in range(spikes + 1):
            moved[3 * i] = 10.0
        flags = screen(track(wandering(33), momentum=moved), RULES)
        assert bool(kinds(flags, "jump")) == flagged


def test_segments_are_compared_with_those_of_as_many_steps() -> None:
    places = wandering(100)
    segments = [
        replace(segment, steps=1 if i % 2 else 4, moved={GROUP: 1.0 if i % 2 else 4.0})
        for i, segment in enumerate(track(places).segments)
    ]
    assert kinds(screen(Track(segments=segments, places={}), RULES), "jump") == []
    segments[51] = replace(segments[51], moved={GROUP: 4.0})
    assert kinds(screen(Track(segments=segments, places={}), RULES), "jump") == [("jump", 51)]


@pytest.mark.parametrize(("count", "alone"), [(FEWEST - 1, True), (FEWEST, False)])
def test_too_few_of_one_length_stand_alone(count: int, alone: bool) -> None:
    segments = list(track(wandering(60)).segments)
    for i in range(count):
        segments[10 * i] = replace(segments[10 * i], steps=7)
    flags = screen(Track(segments=segments, places={}), RULES)
    assert kinds(flags, "alone") == [("alone", 10 * i) for i in range(count) if alone]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_displacement_that_is_not_finite_is_always_flagged(value: float) -> None:
    flags = screen(track(wandering(50), momentum=[value] * 50), RULES)
    assert len(kinds(flags, "jump")) == 50


def test_who_arrives_with_a_large_step_and_stays_is_flagged_among_steps_as_large() -> None:
    """Chaos before the jump makes it ordinary; that the run hardly moves afterwards gives it away."""
    chaos = [[30.0 * x for x in place] for place in wandering(60)]
    end = chaos[-1]
    rest = [[a + 0.1 * b for a, b in zip(end, place, strict=True)] for place in wandering(60, seed=2)[1:]]
    flags = screen(track(chaos + rest), RULES)
    assert kinds(flags, "jump") == []
    assert ("arrival", 59) in kinds(flags, "arrival")
    kept = replace(RULES, arrival=1e9)
    assert kinds(screen(track(chaos + rest), kept), "arrival") == []


@pytest.mark.parametrize(("length", "whole"), [(RULES.probes, True), (RULES.probes + 1, False)])
def test_a_long_segment_at_the_end_is_opened_in_part(length: int, whole: bool) -> None:
    run = track(wandering(40), steps=length)
    segments = [replace(s, first=length * s.first, last=length * s.first + length - 1) for s in run.segments]
    flag = next(f for f in screen(replace(run, segments=segments), RULES) if f.last == 40 * length - 1)
    assert (flag.kind, flag.whole) == ("arrival", whole)


def test_a_schedule_that_falls_to_zero_arrives_with_nothing() -> None:
    places = [[0.0]]
    for i in range(200):
        places.append([places[-1][0] + (1 - i / 200) ** 2])
    assert kinds(screen(track(places), replace(RULES, straight=1.0)), "arrival") == []


def walked(places: list[list[float]], at: int, pieces: int) -> list[list[float]]:
    """The run with a straight walk of ``pieces`` steps of length 1 in the place of as many steps."""
    start = places[at]
    straight = [[start[0] + i, *start[1:]] for i in range(1, pieces + 1)]
    offset = [a - b for a, b in zip(straight[-1], places[at + pieces], strict=True)]
    rest = [[a + b for a, b in zip(place, offset, strict=True)] for place in places[at + pieces + 1 :]]
    return [*places[: at + 1], *straight, *rest]


@pytest.mark.parametrize("pieces", [16, 40])
def test_a_walk_of_ordinary_steps_leads_too_far(pieces: int) -> None:
    run = track(walked(wandering(400), 150, pieces))
    flags = [flag for flag in screen(run, replace(RULES, straight=1.0)) if flag.kind == "pace"]
    assert any(flag.first < 150 + pieces and flag.last >= 150 for flag in flags)
    assert kinds(screen(run, RULES), "jump") == []
    assert kinds(screen(run, replace(RULES, pace=100.0)), "pace") == []


def test_only_a_few_intervals_of_a_walk_are_opened_and_they_lie_in_it() -> None:
    flag = Flag(kind="pace", first=150, last=190, group=GROUP, value=3.0, limit=1.0, whole=False)
    found = {probes(flag, seed=bytes([i]) * 32, count=3) for i in range(20)}
    assert all(len(drawn) == 3 and all(150 <= number <= 190 for number in drawn) for drawn in found)
    assert len(found) > 10
    assert probes(replace(flag, whole=True), seed=SEED, count=3) == tuple(range(150, 191))
    assert probes(flag, seed=SEED, count=100) == tuple(range(150, 191))


def test_a_straight_line_is_flagged_as_one_stretch() -> None:
    flags = screen(track(walked(wandering(400), 150, 5)), RULES)
    assert [(flag.first, flag.last) for flag in flags if flag.kind == "straight"] == [(150, 154)]
    assert kinds(screen(track(wandering(400)), RULES), "straight") == []


def test_cosine_between_consecutive_displacements() -> None:
    assert cosine([0.0, 0.0], [1.0, 0.0], [3.0, 0.0]) == 1.0
    assert cosine([0.0, 0.0], [1.0, 0.0], [1.0, 2.0]) == 0.0
    assert cosine([0.0, 0.0], [1.0, 0.0], [1.0, 0.0]) == 0.0


@pytest.mark.parametrize(
    ("values", "flagged"),
    [
        ({"lessened": {"optimizer/exp_avg_sq": 0}}, False),
        ({"lessened": {"optimizer/exp_avg_sq": 1}}, True),
        ({"limited": {"optimizer/step": (4.0, 4.0)}}, False),
        ({"limited": {"optimizer/step": (5.0, 4.0)}}, True),
        ({"limited": {"optimizer/step": (math.nan, 4.0)}}, True),
    ],
)
def test_what_no_optimizer_does_is_flagged(values: dict[str, Any], flagged: bool) -> None:
    run = track(wandering(50))
    segments = [replace(segment, **values) if i == 20 else segment for i, segment in enumerate(run.segments)]
    flags = screen(replace(run, segments=segments), RULES)
    assert kinds(flags, "optimizer") == [("optimizer", 20)] * flagged


def test_flags_come_in_order_and_say_how_strong_they_are() -> None:
    moved = [1.0] * 50
    moved[40], moved[20] = 6.0, 9.0
    flags = screen(track(wandering(50), momentum=moved), RULES)
    assert [flag.first for flag in flags] == sorted(flag.first for flag in flags)
    assert [flag.strength for flag in flags if flag.kind == "jump"] == [3.0, 2.0]
    unlimited = Flag(kind="jump", first=0, last=0, group=GROUP, value=1.0, limit=0.0)
    assert unlimited.strength == math.inf
    assert unlimited.to_json() == {
        "kind": "jump",
        "intervals": [0, 0],
        "group": GROUP,
        "value": 1.0,
        "limit": 0.0,
        "opened": "all",
    }


def test_numbers_near_the_end_of_their_range_are_only_large() -> None:
    """What float64 parameters may hold: squares that no sum holds."""
    huge = Segment(first=0, last=0, steps=1, moved={GROUP: 1.3e154, "ema/parameters": 1.3e154})
    assert huge.pace > 1.3e154
    assert largest([huge], 1) == (0,)
    places = [[(-1.0) ** at * 1e99 * (-1.0) ** axis for axis in range(16)] for at in range(9)]
    assert {flag.kind for flag in screen(track(places), RULES)} == {"arrival"}
    assert cosine(places[0], places[1], places[2]) == pytest.approx(-1)


def test_a_number_that_is_not_finite_hides_no_arrival() -> None:
    """One parameter that turns into NaN somewhere makes the mean pace infinite, not the steps of others small."""
    places = shifted(wandering(64), 60, 30.0)
    flagged = {flag.first for flag in screen(track(places), RULES) if flag.kind == "arrival"}
    assert 59 in flagged
    broken = track(places)
    segments = list(broken.segments)
    segments[5] = replace(segments[5], moved={GROUP: math.inf})
    found = screen(replace(broken, segments=segments), RULES)
    assert {flag.first for flag in found if flag.kind == "arrival"} == flagged | {5}
    assert ("jump", 5) in kinds(found, "jump")


@pytest.mark.parametrize("kind", ["arrival", "pace", "straight"])
def test_a_place_that_is_no_number_is_beyond_every_limit(kind: str) -> None:
    places = wandering(64)
    places[20] = [math.nan, *places[20][1:]]
    flagged = [flag for flag in screen(track(places), RULES) if flag.kind == kind]
    assert any(flag.first <= 20 <= flag.last + 1 for flag in flagged)


def test_the_largest_segments_are_chosen_by_intervals_and_at_least_one_is() -> None:
    segments = [
        Segment(first=0, last=0, steps=1, moved={GROUP: 1.0}),
        Segment(first=1, last=4, steps=4, moved={GROUP: 9.0}),
        Segment(first=5, last=5, steps=1, moved={GROUP: 5.0, "optimizer/step": 99.0}),
    ]
    assert largest(segments, 5) == (1, 2, 3, 4, 5)
    assert largest(segments, 4) == (1, 2, 3, 4)
    assert largest(segments, 1) == (1, 2, 3, 4)
    assert largest(segments, 0) == ()


def test_nearly_still_is_relative_to_the_mean_pace_of_the_run() -> None:
    segments = [Segment(first=i, last=i, steps=2, moved={GROUP: 1.0}) for i in range(10)]
    segments[3] = replace(segments[3], moved={GROUP: 8e-5})
    segments[4] = replace(segments[4], moved={GROUP: 1e-4})
    segments[5] = replace(segments[5], still=True)
    assert [segment.first for segment in nearly_still(segments, ratio=1e-4)] == [3, 5]
    assert [segment.first for segment in nearly_still(segments, ratio=0.0)] == [5]


def test_a_run_without_parameters_stands_still() -> None:
    """No rule over parameters would look at it; that the rest of its state changes is no reason to let it pass."""
    segments = [Segment(first=i, last=i, steps=1, moved={"model": 1.0}) for i in range(10)]
    assert nearly_still(segments, ratio=1e-4) == segments


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("beta2", [0.95, 0.99, 0.999])
def test_no_gradients_move_adam_further_than_its_reach(beta1: float, beta2: float) -> None:
    worst = 0.0
    for length in (1, 2, 3, 5, 10, 30, 100, 10_000):
        # The sequence for which Cauchy and Schwarz is an equality: the last gradient is the largest.
        gradients = [(beta1 / beta2) ** (length - 1 - i) for i in range(length)]
        m = v = 0.0
        for g in gradients:
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        worst = max(worst, m / (1 - beta1**length) / math.sqrt(v / (1 - beta2**length)))
    reach = adam_reach(beta1=beta1, beta2=beta2)
    assert worst <= reach * (1 + 1e-9)
    assert worst > 0.8 * reach


def test_adam_without_a_bound_is_never_flagged() -> None:
    assert adam_reach(beta1=0.99, beta2=0.9) == math.inf
    assert adam_reach(beta1=0.9, beta2=1.0) == math.inf
