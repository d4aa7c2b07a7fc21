"""Which segments of a run look like anything but training: the rules of PROTOCOL section 10, step 5, over numbers.

A *segment* lies between two consecutive stored checkpoints. Nothing here measures: displacements and sketches come in
as floats, from states whose roots the verifier rechecked. A flag accuses nobody: it has intervals opened, and their
replay decides. What the prover wrote about its own movement has no say, and no rule can be switched off by it.

What these rules cannot see: a walk that is as slow and as crooked as the training around it, and whatever happens
inside a segment that moves no further than its neighbours.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from polledger.core.digest import sha256, u64
from polledger.core.reportform import FlagForm, number
from polledger.core.sampling import draw

Kind = Literal["jump", "alone", "arrival", "pace", "straight", "optimizer"]
Place = Sequence[float]

_PROBE_LABEL = b"polledger/probe/1\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreeningRules:
    """Bounds of the rules; they come from the verifier's policy, whose documentation gives the measurements."""

    jump: float = 3.0
    neighbours: int = 32
    arrival: float = 0.5
    pace: float = 2.0
    straight: float = 0.9999
    probes: int = 2


FEWEST = 4
"""Segments that are compared with each other, at least: with fewer, one of two could be the bogus one."""

QUARTER = 4
"""A segment is held against the upper quartile of its neighbours: up to a quarter of them may be spikes, or bogus."""

NEGLIGIBLE = 0.25
"""Of the mean pace of the run: where a schedule falls to 0, every step outweighs what is left, and is smaller."""

WINDOWS = 16
"""Windows of one length that a window is compared with: those nearest in time that do not overlap it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The intervals ``first`` to ``last`` (both included) as one: what lies between two stored checkpoints.

    ``moved``: l2 displacement by float group. ``lessened``: elements of an optimizer's running sums that fell more
    than its rule lets them. ``limited``: by group, what was measured and the most that the optimizer's rule allows.
    """

    first: int
    last: int
    steps: int
    moved: Mapping[str, float]
    still: bool = False
    lessened: Mapping[str, int] = field(default_factory=dict)
    limited: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def intervals(self) -> range:
        """The intervals it consists of."""
        return range(self.first, self.last + 1)

    @property
    def pace(self) -> float:
        """l2 displacement of all parameters; infinite where one changed to or from what is not finite."""
        return math.hypot(*(u for group, u in self.moved.items() if is_parameters(group)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """A run as the rules see it. ``places``: by group of parameters, the sketch of each stored checkpoint, in order.

    There is one place more than there are segments. Distances between places estimate those between states.
    """

    segments: Sequence[Segment]
    places: Mapping[str, Sequence[Place]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """Intervals ``first`` to ``last`` look odd: ``value`` is beyond ``limit``. ``whole``: all of them are opened,

    because any one may be the bogus one; otherwise a few, because all of them would be.
    """

    kind: Kind
    first: int
    last: int
    group: str
    value: float
    limit: float
    whole: bool = True

    @property
    def strength(self) -> float:
        """How far beyond the limit; infinite where the limit is 0 or a number is not finite."""
        ratio = self.value / self.limit if self.limit else math.inf
        return ratio if math.isfinite(ratio) else math.inf

    def to_json(self) -> FlagForm:
        """The flag as plain values."""
        return {
            "kind": self.kind,
            "intervals": [self.first, self.last],
            "group": self.group,
            "value": number(self.value),
            "limit": number(self.limit),
            "opened": "all" if self.whole else "some",
        }


def is_parameters(group: str) -> bool:
    """True for the group of the parameters of a module."""
    return group.endswith("/parameters")


def screen(track: Track, rules: ScreeningRules) -> list[Flag]:
    """Every flag of ``track``, in order of intervals: per segment and rule the group that is furthest beyond.

    A number that is not finite is always flagged: comparisons are written so that NaN is beyond every limit.
    """
    flags = [
        *_worst(_jumps(track.segments, rules)),
        *_alone(track.segments, rules),
        *_worst(_arrivals(track, rules)),
        *_paces(track, rules),
        *_straights(track, rules),
        *_worst(_broken(track.segments)),
    ]
    return sorted(flags, key=lambda flag: (flag.first, flag.last, flag.kind, flag.group))


def _worst(flags: Iterator[Flag]) -> list[Flag]:
    strongest: dict[int, Flag] = {}
    for flag in flags:
        if flag.first not in strongest or flag.strength > strongest[flag.first].strength:
            strongest[flag.first] = flag
    return list(strongest.values())


def _classes(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments by number of steps: a longer one moves further, by how much is not known."""
    by_steps: dict[int, list[Segment]] = {}
    for segment in segments:
        by_steps.setdefault(segment.steps, []).append(segment)
    return list(by_steps.values())


def _jumps(segments: Sequence[Segment], rules: ScreeningRules) -> Iterator[Flag]:
    """Further in one group than ``jump`` times the upper quartile of the neighbours in time."""
    for alike in _classes(segments):
        if len(alike) < FEWEST:
            continue
        for group in sorted({group for segment in alike for group in segment.moved}):
            moved = [segment.moved.get(group, 0.0) for segment in alike]
            for place, value in enumerate(moved):
                limit = rules.jump * _upper(_around(moved, place, rules.neighbours))
                if not (math.isfinite(value) and value <= limit):
                    yield _flag("jump", alike[place], group, value, limit)


def _flag(kind: Kind, segment: Segment, group: str, value: float, limit: float) -> Flag:
    return Flag(kind=kind, first=segment.first, last=segment.last, group=group, value=value, limit=limit)


def _around(values: Sequence[float], place: int, count: int) -> list[float]:
    """The ``count`` values nearest to ``place``, without its own."""
    begin = max(0, min(place - count // 2, len(values) - 1 - count))
    return [value for at, value in enumerate(values[begin : begin + count + 1], begin) if at != place]


def _upper(values: Sequence[float]) -> float:
    """Upper quartile: a quarter of ``values``, rounded down, is greater or equal and does not count."""
    return sorted(values, reverse=True)[len(values) // QUARTER]


def _alone(segments: Sequence[Segment], rules: ScreeningRules) -> Iterator[Flag]:
    """Fewer than FEWEST of one length: there is nothing to compare with."""
    for alike in _classes(segments):
        if len(alike) < FEWEST:
            for segment in alike:
                yield _flag("alone", segment, "", len(alike), FEWEST)


def distance(a: Place, b: Place) -> float:
    """l2 distance of two sketches."""
    return math.dist(a, b)


def _arrivals(track: Track, rules: ScreeningRules) -> Iterator[Flag]:
    """Further in one segment than ``arrival`` times all the way that is left: who arrives has to stay."""
    steps = sum(segment.steps for segment in track.segments)
    for group, places in track.places.items():
        moved = [segment.moved.get(group, 0.0) for segment in track.segments]
        # Where one number is not finite its segment is flagged anyway, and the others are still compared.
        mean = math.fsum(value for value in moved if math.isfinite(value)) / steps if steps else 0.0
        for segment, value, place in zip(track.segments, moved, places[1:], strict=True):
            limit = max(rules.arrival * distance(place, places[-1]), NEGLIGIBLE * mean * segment.steps)
            if not value <= limit:
                # The end of any run is one: a long segment there is not worth opening whole.
                whole = len(segment.intervals) <= rules.probes
                yield replace(_flag("arrival", segment, group, value, limit), whole=whole)


def _paces(track: Track, rules: ScreeningRules) -> Iterator[Flag]:
    """Windows of 2, 4, 8, … segments that lead further than ``pace`` times what the windows nearest in time do."""
    for group, places in sorted(track.places.items()):
        width = 2
        while len(track.segments) >= (FEWEST + 1) * width:
            yield from _apart(_fast_windows(track, group, places, width, rules))
            width *= 2


def _fast_windows(
    track: Track, group: str, places: Sequence[Place], width: int, rules: ScreeningRules
) -> Iterator[Flag]:
    # Each window overlaps half of the one before: a walk of 1.5 widths fills at least one.
    starts = range(0, len(places) - width, width // 2)
    nets = [distance(places[start], places[start + width]) for start in starts]
    for at, (start, net) in enumerate(zip(starts, nets, strict=True)):
        near = range(max(0, at - 1 - WINDOWS), min(len(nets), at + 2 + WINDOWS))
        apart = sorted((j for j in near if abs(j - at) >= 2), key=lambda j: abs(j - at))
        limit = rules.pace * _upper([nets[j] for j in apart[:WINDOWS]])
        if not net <= limit:
            first, last = track.segments[start].first, track.segments[start + width - 1].last
            yield Flag(kind="pace", first=first, last=last, group=group, value=net, limit=limit, whole=False)


def _apart(flags: Iterator[Flag]) -> Iterator[Flag]:
    """The strongest, then the strongest that overlaps none so far, and so on: what lies in the middle of a walk."""
    chosen: list[Flag] = []
    for flag in sorted(flags, key=lambda flag: -flag.strength):
        if all(flag.last < other.first or flag.first > other.last for other in chosen):
            chosen.append(flag)
    yield from chosen


def _merged(flags: Iterator[Flag]) -> Iterator[Flag]:
    """Flags that overlap as one over all their intervals, with the values of the strongest."""
    current: Flag | None = None
    for flag in flags:
        if current is None or flag.first > current.last:
            if current is not None:
                yield current
            current = flag
            continue
        strong = max(current, flag, key=lambda item: item.strength)
        current = replace(strong, first=current.first, last=max(current.last, flag.last))
    if current is not None:
        yield current


def _straights(track: Track, rules: ScreeningRules) -> Iterator[Flag]:
    """Consecutive displacements of the parameters in one direction: what interpolation does."""
    for group, places in sorted(track.places.items()):
        yield from _merged(_collinear(track, group, places, rules))


def _collinear(track: Track, group: str, places: Sequence[Place], rules: ScreeningRules) -> Iterator[Flag]:
    for at in range(len(track.segments) - 1):
        value = cosine(places[at], places[at + 1], places[at + 2])
        if not value <= rules.straight:
            first, last = track.segments[at].first, track.segments[at + 1].last
            yield Flag(
                kind="straight",
                first=first,
                last=last,
                group=group,
                value=value,
                limit=rules.straight,
                whole=False,
            )


def cosine(a: Place, b: Place, c: Place) -> float:
    """Cosine between b − a and c − b; 0 where one of them is zero."""
    one = [y - x for x, y in zip(a, b, strict=True)]
    two = [y - x for x, y in zip(b, c, strict=True)]
    scale = math.hypot(*one) * math.hypot(*two)
    return math.fsum(x * y for x, y in zip(one, two, strict=True)) / scale if scale else 0.0


def _broken(segments: Sequence[Segment]) -> Iterator[Flag]:
    """What no step of the optimizer does."""
    for segment in segments:
        for group, count in segment.lessened.items():
            if count:
                yield _flag("optimizer", segment, group, count, 0)
        for group, (value, limit) in segment.limited.items():
            if not (math.isfinite(value) and value <= limit):
                yield _flag("optimizer", segment, group, value, limit)


def probes(flag: Flag, *, seed: bytes, count: int) -> tuple[int, ...]:
    """The intervals that ``flag`` opens: all, or ``count`` drawn under the sample seed."""
    if flag.whole:
        return tuple(range(flag.first, flag.last + 1))
    own = sha256(_PROBE_LABEL + seed + u64(flag.first) + u64(flag.last))
    return tuple(flag.first + place for place in draw(own, total=flag.last + 1 - flag.first, count=count))


def largest(segments: Sequence[Segment], count: int) -> tuple[int, ...]:
    """The intervals of the segments that move the parameters furthest, up to ``count`` but at least one segment's."""
    found: list[int] = []
    for segment in sorted(segments, key=lambda item: -item.pace):
        if count < 1 or (found and len(found) + len(segment.intervals) > count):
            break
        found += segment.intervals
    return tuple(sorted(found))


def nearly_still(segments: Sequence[Segment], *, ratio: float) -> list[Segment]:
    """Segments whose parameters keep their bits, or move less than ``ratio`` of the run's mean pace per step.

    Where there are no parameters nothing moves.
    """
    steps = sum(segment.steps for segment in segments)
    mean = math.fsum(segment.pace for segment in segments) / steps if steps else 0.0
    return [item for item in segments if item.still or not item.pace or item.pace < ratio * mean * item.steps]


def adam_reach(*, beta1: float, beta2: float) -> float:
    """Largest change of one parameter in one step of Adam, in learning rates, without weight decay.

    |m| ≤ (1 − β1) Σ β1^i |g| and v = (1 − β2) Σ β2^i g²: by Cauchy and Schwarz m/√v is at most
    (1 − β1) / √((1 − β2)(1 − β1²/β2)), which the corrections for the start do not exceed. Infinite where β1² ≥ β2.
    """
    if beta1 * beta1 >= beta2 or beta2 >= 1:
        return math.inf
    return max(1.0, (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1 * beta1 / beta2)))
