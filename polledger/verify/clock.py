"""Whether the story that the timestamps tell could have happened: steps between anchors, clocks against each other.

A timestamp bounds from above: what it is over existed by then. So no set of genTimes contradicts another, and nothing
here refutes. What can be said is how much time the anchors leave for the steps between them, if each head was stamped
when it was made; and a prover who stamped late, all at once, or trained before the first seal, tells a story that no
hardware could have lived. PROTOCOL sections 1, 8 and 10; docs/decisions/0028.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from polledger.core.moment import utc_text
from polledger.core.records import AnyRecord, Step
from polledger.core.report import Finding, counted
from polledger.core.reportform import PaceForm
from polledger.core.timesummary import TimeSummary
from polledger.timestamp.trust import operator_key
from polledger.verify.heads import Heads
from polledger.verify.policy import Policy
from polledger.verify.tokens import Stamp

PACE: Final = "time.pace"
CLOCKS: Final = "time.clocks"
REQUIRED: Final = "time.required"

STEPS_PER_SECOND: Final = 1e5
"""More than any training: writing the record of a step takes 5 µs (docs/benchmarks.md), so that steps which cost
nothing at all would reach twice this."""

FASTER_HERE: Final = 20.0
"""How many times faster than its replay in the same environment class a recording may have been without a word: the
replay of short steps is mostly reading, hashing and digests, and the verifier's machine may be busy."""

FASTER_ELSEWHERE: Final = 1000.0
"""The same in another class: a large accelerator against one core of a processor."""

RESOLUTION: Final = 1e-6
"""Shortest time in seconds that genTimes tell apart: none is read finer than a microsecond."""

COMMON_SEALS: Final = 3
"""Seals that two authorities must both have stamped before the same lag on each is called a clock that is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """The head of ``seal``, over ``steps`` steps, existed by ``time``, give or take ``slack`` seconds.

    ``time`` is in seconds since the first anchor.
    """

    seal: int
    steps: int
    time: float
    slack: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What the genTimes say together. ``pace`` is the ``time.pace`` object of the report, None without two anchors."""

    findings: tuple[Finding, ...] = ()
    pace: PaceForm | None = None


def judge_clock(
    heads: Heads, stamps: Sequence[Stamp], *, external: bool, policy: Policy, now: datetime
) -> Clock:
    """Judge the genTimes of ``stamps``; where time is ``external``, of those that operators vouch for.

    Every finding is ``unverifiable`` and blocks only where the policy asks for a pace or for external time.
    """
    counting = [stamp for stamp in stamps if stamp.operator] if external else list(stamps)
    anchors = find_anchors(heads, counting, quorum=policy.time.quorum if external else 1, policy=policy)
    window = fastest(anchors)
    findings = [*_pace(window, policy, external=external), *_own_order(heads, counting, policy)]
    if external:
        findings += [*_lags(counting, policy), *_behind(counting, now, policy)]
    return Clock(findings=tuple(findings), pace=_pace_json(anchors, window))


def find_anchors(heads: Heads, stamps: Sequence[Stamp], *, quorum: int, policy: Policy) -> list[Anchor]:
    """For every head that ``quorum`` operators vouch for: when the last of the first ``quorum`` had, by seal number.

    A token over a later head counts for the earlier ones, so the times never fall. One pass over heads and stamps.
    """
    by_seal: dict[int, list[Stamp]] = {}
    for stamp in stamps:
        by_seal.setdefault(stamp.seal, []).append(stamp)
    sizes = {item.seal.number: item.head.size for item in heads.heads if item.matches}
    steps = step_counts(heads.records, set(sizes.values()))
    earliest: dict[str, tuple[datetime, timedelta]] = {}
    found: list[tuple[int, int, tuple[datetime, timedelta]]] = []
    for seal in sorted(sizes, reverse=True):
        for stamp in by_seal.get(seal, ()):
            # Without operators there is no quorum: whoever was first counts, and there may be thousands of names.
            voice = operator_key(stamp.operator) if stamp.operator else ""
            moment = stamp.timestamp.gen_time, _accuracy(stamp, policy)
            earliest[voice] = min(earliest.get(voice, moment), moment)
        if len(earliest) >= quorum and sizes[seal] in steps:
            found.append((seal, steps[sizes[seal]], sorted(earliest.values())[quorum - 1]))
    found.reverse()
    return [
        Anchor(
            seal=seal,
            steps=count,
            time=(time - found[0][2][0]).total_seconds(),
            slack=slack.total_seconds(),
        )
        for seal, count, (time, slack) in found
    ]


def step_counts(records: Sequence[AnyRecord], sizes: set[int]) -> dict[int, int]:
    """How many of the first ``size`` records are steps, for every one of ``sizes`` that the records reach."""
    counts, steps = {}, 0
    for size, record in enumerate(records, start=1):
        steps += isinstance(record, Step)
        if size in sizes:
            counts[size] = steps
    return counts


def fastest(anchors: Sequence[Anchor]) -> tuple[Anchor, Anchor] | None:
    """The two anchors with the most steps a second between them, their slack counted against it; None without two.

    Dinkelbach's method: for a pace, one pass finds the pair that beats it by most, and the pair's own pace is the
    next. The pace grows with every pass, and a handful of passes end it, however many anchors there are.
    """
    if len(anchors) < 2:
        return None
    best = anchors[0], anchors[-1]
    while True:
        pair = _beating(anchors, at_least(*best))
        if pair is None or at_least(*pair) <= at_least(*best):
            return best
        best = pair


def _beating(anchors: Sequence[Anchor], pace: float) -> tuple[Anchor, Anchor] | None:
    """The pair whose steps exceed what ``pace`` gives for its time by most."""
    first, start = anchors[0], anchors[0].steps - pace * (anchors[0].time - anchors[0].slack)
    best, most = None, 0.0
    for anchor in anchors[1:]:
        excess = anchor.steps - pace * (anchor.time + anchor.slack) - start
        if excess > most:
            best, most = (first, anchor), excess
        begin = anchor.steps - pace * (anchor.time - anchor.slack)
        if begin < start:
            first, start = anchor, begin
    return best


def longest(first: Anchor, last: Anchor) -> float:
    """Seconds that may have passed between two anchors at the most."""
    return max(last.time + last.slack - first.time + first.slack, RESOLUTION)


def at_least(first: Anchor, last: Anchor) -> float:
    """Steps a second between two anchors, in the longest time that their accuracies allow."""
    return (last.steps - first.steps) / longest(first, last)


def _pace_json(anchors: Sequence[Anchor], window: tuple[Anchor, Anchor] | None) -> PaceForm | None:
    if window is None:
        return None
    first, last = anchors[0], anchors[-1]
    seconds, steps = last.time - first.time, last.steps - first.steps
    quick, late = window
    return {
        "seals": [first.seal, last.seal],
        "steps": steps,
        "seconds": seconds,
        "steps_per_second": steps / seconds if seconds else None,
        "fastest": {
            "seals": [quick.seal, late.seal],
            "steps": late.steps - quick.steps,
            "seconds": longest(quick, late),
            "steps_per_second": at_least(quick, late),
        },
    }


def _pace(window: tuple[Anchor, Anchor] | None, policy: Policy, *, external: bool) -> Iterator[Finding]:
    """Between which anchors more steps lie than their time allows, by the policy or by any hardware."""
    bound = policy.time.pace
    if bound and (window is None or not external):
        detail = "the policy bounds the pace between external anchors (time.pace), and there are none to take it from"
        yield _finding(REQUIRED, detail, "give the authorities you trust with --trust")
    elif bound and window is not None and at_least(*window) > bound:
        detail = f"{_between(*window)}; the policy allows {bound:g} (time.pace)"
        yield _finding(REQUIRED, detail, "tokens that were asked for while the run went on")
    elif window is not None and at_least(*window) > STEPS_PER_SECOND:
        yield _finding(PACE, f"{_between(*window)}: no training is that fast; {_LATE}")


_LATE: Final = (
    "the heads were stamped late, or the training lay before them: how long it took is not shown, "
    "only by when it was done"
)


def _between(first: Anchor, last: Anchor) -> str:
    steps = counted(last.steps - first.steps, "step")
    time, pace = _span(longest(first, last)), f"{at_least(first, last):.3g}"
    return (
        f"{steps} lie between seals {first.seal} and {last.seal}, whose anchors leave {time}: {pace} a second"
    )


def _span(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 3600:.3g} h"


def replay_pace(
    summary: TimeSummary, seconds: float, *, same_class: bool
) -> tuple[TimeSummary, list[Finding]]:
    """``summary`` with the pace of the replay here, at ``seconds`` a step; and a finding if the run was far beyond it.

    ``same_class``: the replay ran in the recorded environment class.
    """
    if summary.pace is None or seconds <= 0:
        return summary, []
    reached, quickest = 1 / seconds, summary.pace["fastest"]
    allowed = reached * (FASTER_HERE if same_class else FASTER_ELSEWHERE)
    findings = []
    if allowed < quickest["steps_per_second"] <= STEPS_PER_SECOND:
        first, last = quickest["seals"]
        where = "in the same environment class" if same_class else "on other hardware"
        detail = (
            f"{counted(quickest['steps'], 'step')} lie between seals {first} and {last}, whose anchors leave "
            f"{_span(quickest['seconds'])}; the replay here, {where}, takes {_span(quickest['steps'] * seconds)}; "
            f"{_LATE}"
        )
        findings.append(_finding(PACE, detail))
    return replace(summary, pace={**summary.pace, "replayed_steps_per_second": reached}), findings


def _own_order(heads: Heads, stamps: Sequence[Stamp], policy: Policy) -> Iterator[Finding]:
    """The first head's own tokens against the last one's: a story that begins after its end."""
    numbers = [item.seal.number for item in heads.heads if item.matches]
    if len(numbers) < 2:
        return
    first, last = (
        min(
            (stamp for stamp in stamps if stamp.seal == seal and stamp.renewal is None),
            key=_gen_time,
            default=None,
        )
        for seal in (min(numbers), max(numbers))
    )
    if first is None or last is None:
        return
    # Differences of times never leave the calendar, as sums with an accuracy of decades do.
    if _gen_time(first) - _gen_time(last) > _accuracy(first, policy) + _accuracy(last, policy):
        detail = (
            f"the first head was itself stamped only at {utc_text(_gen_time(first))}, after the last "
            f"({utc_text(_gen_time(last))}), whose token covers it as well; {_LATE}"
        )
        yield _finding(PACE, detail)


@dataclass(slots=True, kw_only=True)
class _Lag:
    """How long after the first token over the same heads an operator's came, in seconds; beyond the accuracies."""

    begin: datetime
    end: datetime
    """The first and the last of the earlier tokens."""
    seals: int = 0
    least: float = float("inf")
    most: float = 0.0
    slack: float = 0.0

    def add(self, early: datetime, seconds: float, slack: float) -> None:
        self.seals += 1
        self.begin, self.end = min(self.begin, early), max(self.end, early)
        self.least, self.most = min(self.least, seconds), max(self.most, seconds)
        self.slack = max(self.slack, slack)

    @property
    def constant(self) -> bool:
        """The same on every head as far as accuracies tell, more than they explain, on heads that lie apart.

        Requests that were late come late by less and less, or are over heads that were made together.
        """
        same = self.least > self.slack and self.most - self.least <= self.slack
        apart = (self.end - self.begin).total_seconds() > 2 * self.slack
        return self.seals >= COMMON_SEALS and same and apart


def _lags(stamps: Sequence[Stamp], policy: Policy) -> Iterator[Finding]:
    """Operators whose tokens come the same time after the others' on every head: one of the clocks is off."""
    by_seal: dict[int, dict[str, Stamp]] = {}
    for stamp in stamps:
        if stamp.operator and stamp.renewal is None:
            voices, voice = by_seal.setdefault(stamp.seal, {}), operator_key(stamp.operator)
            voices[voice] = min(voices.get(voice, stamp), stamp, key=_gen_time)
    names = {operator_key(stamp.operator): stamp.operator for stamp in stamps if stamp.operator}
    lags: dict[tuple[str, str], _Lag] = {}
    for voices in by_seal.values():
        first = min(voices, key=lambda voice: _gen_time(voices[voice]))
        earliest, began = voices[first], _gen_time(voices[first])
        for voice, stamp in voices.items():
            if voice != first:
                slack = (_accuracy(stamp, policy) + _accuracy(earliest, policy)).total_seconds()
                lag = lags.setdefault((first, voice), _Lag(begin=began, end=began))
                lag.add(began, (_gen_time(stamp) - began).total_seconds(), slack)
    for (early, late), lag in sorted(lags.items()):
        if lag.constant:
            detail = (
                f"{names[late]!r} stamped {counted(lag.seals, 'head')} {_span(lag.least)} to {_span(lag.most)} "
                f"after {names[early]!r}, the same on each and beyond their accuracies: one of the two clocks is off"
            )
            name = REQUIRED if policy.require.external_time else CLOCKS
            yield _finding(name, detail, "find out which, and limit that authority in the trust file")


def _behind(stamps: Sequence[Stamp], now: datetime, policy: Policy) -> Iterator[Finding]:
    """This machine's own clock: tokens that lie ahead of it, within what the policy lets pass."""
    ahead = [
        stamp for stamp in stamps if stamp.operator and _gen_time(stamp) - now > _accuracy(stamp, policy)
    ]
    if ahead:
        operators = {operator_key(stamp.operator or "") for stamp in ahead}
        seconds = (max(map(_gen_time, ahead)) - now).total_seconds()
        detail = (
            f"tokens of {counted(len(operators), 'operator')} lie up to {_span(seconds)} ahead of this machine's "
            f"clock: it is slow, or theirs are fast"
        )
        yield _finding(CLOCKS, detail, "set this machine's clock")


def _accuracy(stamp: Stamp, policy: Policy) -> timedelta:
    stated = stamp.timestamp.accuracy
    return timedelta(seconds=policy.time.accuracy) if stated is None else stated


def _gen_time(stamp: Stamp) -> datetime:
    return stamp.timestamp.gen_time


def _finding(name: str, detail: str, remedy: str | None = None) -> Finding:
    return Finding(step=3, name=name, outcome="unverifiable", detail=detail, remedy=remedy)
