"""Where a run's parameters went, as far as screening measured it: what a report draws. PROTOCOL section 10, step 5.

Facts for people to look at. Nothing is judged here, and no verdict depends on it.
"""

import math
from collections.abc import Sequence

from polledger.core.reportform import GroupTrackForm, Number, TrajectoryForm, number
from polledger.core.screening import Place, Segment, Track, distance
from polledger.core.sketch import DIRECTIONS

POINTS = 1000
"""Points of one trajectory besides the first, at most: more than a page can show, and 100 KB of JSON for 8 groups."""

GROUPS = 8
"""Groups of parameters that are listed: colours that can be told apart."""

_ERROR = 1 / math.sqrt(2 * DIRECTIONS)
"""Relative standard error of a distance between two sketches of DIRECTIONS random signs."""


def trajectory(track: Track, *, begin: int) -> TrajectoryForm | None:
    """``track`` as at most POINTS points after its first, which lies behind ``begin`` steps; None without a segment."""
    segments = track.segments
    if not segments:
        return None
    merged = -(-len(segments) // POINTS)
    pieces = [segments[at : at + merged] for at in range(0, len(segments), merged)]
    steps, intervals = [begin], [segments[0].first]
    for piece in pieces:
        steps.append(steps[-1] + sum(segment.steps for segment in piece))
        intervals.append(piece[-1].last + 1)
    shown = _furthest(track)
    return {
        "steps": steps,
        "intervals": intervals,
        "merged": merged,
        "error": round(_ERROR, 3),
        "groups": [_group(name, track.places[name], pieces) for name in shown],
        "left_out": len(track.places) - len(shown),
    }


def _furthest(track: Track) -> list[str]:
    """Names of the groups that have the longest way, at most GROUPS, in alphabetical order."""
    ways = {name: math.fsum(item.moved.get(name, 0.0) for item in track.segments) for name in track.places}
    return sorted(sorted(ways, key=lambda name: (-ways[name], name))[:GROUPS])


def _group(name: str, places: Sequence[Place], pieces: Sequence[Sequence[Segment]]) -> GroupTrackForm:
    away, moved, at = [0.0], [0.0], 0
    for piece in pieces:
        at += len(piece)
        away.append(distance(places[0], places[at]))
        moved.append(max(segment.moved.get(name, 0.0) for segment in piece))
    return {"name": name, "distance": _numbers(away), "moved": _numbers(moved)}


def _numbers(values: Sequence[float]) -> list[Number]:
    """Six digits are more than a sketch knows or a drawing shows."""
    return [number(float(f"{value:.6g}")) for value in values]
