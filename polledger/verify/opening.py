"""What a sample has replayed with it, and how much of a sample fits the policy's seconds. PROTOCOL section 14."""

from collections.abc import Callable, Sequence
from typing import Any

from polledger.core.opened import Odds, Sample
from polledger.core.report import counted
from polledger.verify.lineage import Interval, Lineage
from polledger.verify.policy import Policy
from polledger.verify.replaying import ReplaySession
from polledger.verify.sampling import capped_count


def with_sources(numbers: set[int], intervals: Sequence[Interval]) -> tuple[int, ...]:
    """``numbers`` and all that lies between the same stored checkpoints, ascending.

    The intervals before one re-derive its start. Those after it cost no more again, and without them a prover who
    stores one checkpoint in K would have to be met in one interval of K: the last, where the others lead.
    """
    wanted = set(numbers)
    for at in range(max(numbers, default=0), 0, -1):
        if at in wanted and not intervals[at].start.stored:
            wanted.add(at - 1)
    for at in range(min(numbers, default=0), len(intervals) - 1):
        if at in wanted and not intervals[at + 1].start.stored:
            wanted.add(at + 1)
    return tuple(sorted(wanted))


def steps_of(numbers: Sequence[int], lineage: Lineage) -> int:
    """Steps that the intervals ``numbers`` have together."""
    return sum(len(lineage.intervals[number].steps) for number in numbers)


def within_budget(
    draw: Callable[..., tuple[Sample, Any, Any]],
    count: int,
    lineage: Lineage,
    probed: Sequence[int],
    *,
    pace: float,
    policy: Policy,
) -> int:
    """``count``, or fewer so that replaying what is drawn stays within the policy's seconds.

    What the prover did not store has to be replayed as well and counts, and so do first, last and ``probed``. Where
    these alone take longer, only so many are drawn as take no longer. What screening and the largest displacements add
    does not count: it is opened whatever it costs.
    """
    ends = {0, len(lineage.intervals) - 1} if lineage.intervals else set()
    owed = pace * steps_of(with_sources({*ends, *probed}, lineage.intervals), lineage)
    limit = max(policy.sample.seconds, owed)
    while True:
        drawn = {*draw(count=count)[0].intervals, *probed}
        seconds = pace * steps_of(with_sources(drawn, lineage.intervals), lineage)
        smaller = capped_count(count, seconds=seconds, limit=limit)
        if smaller == count:
            return count
        count = smaller


def probe(session: ReplaySession, lineage: Lineage) -> tuple[tuple[int, ...], float]:
    """Replay the first interval or two; returns them and the seconds that a step is estimated to take.

    The quickest counts: the first step pays for what the libraries set up once.
    """
    rates = []
    numbers = tuple(range(min(2, len(lineage.intervals))))
    for number in numbers:
        seconds, steps = session.replay_seconds, session.replayed_steps
        session.open(number)
        if session.replayed_steps > steps:
            rates.append((session.replay_seconds - seconds) / (session.replayed_steps - steps))
    return numbers, min(rates, default=0.0)


def announcement(sample: Sample, odds: Sequence[Odds], *, seconds: float, rederived: int) -> str:
    """One line before replay starts: how much is opened and why, what that finds, how long it takes."""
    tenth = next((item for item in odds if item.label == "10 %"), None)
    chance = f"; finds 10 % bogus intervals with probability {tenth.detection:.3f}" if tenth else ""
    estimate = f"; about {seconds:.0f} s" if seconds else ""
    derived = f", {rederived} between the same stored checkpoints" if rederived else ""
    return (
        f"replaying {len(sample.intervals)} of {counted(sample.total, 'interval')} ({sample.drawn} drawn, "
        f"{len(sample.top)} that move furthest, {len(sample.flagged)} flagged by screening{derived})"
        f"{chance}{estimate}"
    )
