"""Where the parameters went, in as many points as a report shows."""

import math
from typing import Any

import pytest

from polledger.core.screening import Segment, Track
from polledger.core.trajectory import GROUPS, POINTS, trajectory

MODEL = "model/parameters"


def segment(number: int, moved: float = 1.0, steps: int = 5, **groups: float) -> Segment:
    return Segment(first=number, last=number, steps=steps, moved={MODEL: moved, **groups})


def walk(count: int, *, jump: int | None = None) -> Track:
    segments = [segment(at, 50.0 if at == jump else 1.0) for at in range(count)]
    return Track(segments=segments, places={MODEL: [[3.0 * at, 4.0 * at] for at in range(count + 1)]})


def test_every_stored_checkpoint_is_a_point_of_a_short_run() -> None:
    found = trajectory(walk(4, jump=2), begin=10)
    assert found is not None
    assert found["steps"] == [10, 15, 20, 25, 30]
    assert found["intervals"] == [0, 1, 2, 3, 4]
    assert found["merged"] == 1
    assert found["groups"] == [{"name": MODEL, "distance": [0, 5, 10, 15, 20], "moved": [0, 1, 1, 50, 1]}]


@pytest.mark.parametrize("count", [POINTS, POINTS + 1, 3 * POINTS - 7])
def test_long_runs_keep_their_ends_and_the_largest_movements(count: int) -> None:
    found = trajectory(walk(count, jump=count // 2), begin=0)
    assert found is not None
    assert len(found["steps"]) <= POINTS + 1
    assert found["merged"] == -(-count // POINTS)
    assert (found["steps"][0], found["steps"][-1]) == (0, 5 * count)
    assert found["intervals"][-1] == count
    [group] = found["groups"]
    assert group["distance"][-1] == pytest.approx(5.0 * count)
    assert [value for value in group["moved"] if value == 50] == [50]


def test_a_run_without_segments_has_no_trajectory() -> None:
    assert trajectory(Track(segments=[], places={MODEL: [[0.0]]}), begin=0) is None


def test_a_segment_that_reaches_over_lost_states_is_one_point() -> None:
    long = Segment(first=3, last=6, steps=20, moved={MODEL: 2.0})
    found = trajectory(Track(segments=[long], places={MODEL: [[0.0], [2.0]]}), begin=12)
    assert found is not None
    assert (found["steps"], found["intervals"]) == ([12, 32], [3, 7])


def test_only_the_groups_that_move_furthest_are_listed() -> None:
    names = {f"object{at:02}/parameters": float(at) for at in range(GROUPS + 3)}
    places = {name: [[0.0], [way]] for name, way in names.items()}
    found = trajectory(
        Track(segments=[Segment(first=0, last=0, steps=1, moved=names)], places=places), begin=0
    )
    assert found is not None
    assert [group["name"] for group in found["groups"]] == list(names)[3:]
    assert found["left_out"] == 3


def test_what_is_not_finite_is_named() -> None:
    broken: dict[str, Any] = {MODEL: [[0.0], [math.inf]]}
    found = trajectory(Track(segments=[segment(0, math.inf)], places=broken), begin=0)
    assert found is not None
    assert found["groups"][0]["distance"] == [0, "inf"]
    assert found["groups"][0]["moved"] == [0, "inf"]
