"""What was opened of a run, as a report has it: the sample, each interval of it, and the odds of the draw."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from polledger.core.reportform import DistancesForm, GroupForm, IntervalForm, OddsForm, SampleForm, number
from polledger.core.tolerance import Distances, GroupJudgement, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalResult:
    """One opened interval: steps ``first`` to ``last`` − 1, replayed and compared."""

    interval: int
    first: int
    last: int
    outcome: Outcome
    exact: bool
    groups: tuple[GroupJudgement, ...] = ()
    distances: Mapping[str, Distances] = field(default_factory=dict)
    """By group, where bits differ: distances that are reported and never judged."""
    why: str = ""
    reached: bytes | None = None
    """State root that the replay reached; None if it reached no end."""
    remedy: str = ""
    """What helps where it could not be replayed."""

    def to_json(self) -> IntervalForm:
        """The interval as plain values; numbers that are not finite become strings."""
        return {
            "interval": self.interval,
            "steps": [self.first, self.last],
            "outcome": self.outcome,
            "exact": self.exact,
            "groups": {judgement.measure.name: _group_json(judgement) for judgement in self.groups},
            "distances": {name: _distances_json(found) for name, found in self.distances.items()},
            "why": self.why,
        }

    @property
    def normalised(self) -> float | None:
        """Largest error of a group of parameters over d_ref; None where none was measured."""
        found = [item.normalised for item in self.distances.values() if item.normalised is not None]
        return max(found, default=None)


def _group_json(judgement: GroupJudgement) -> GroupForm:
    measure = judgement.measure
    values: GroupForm = {"e": number(measure.e), "u": number(measure.u), "outcome": judgement.outcome}
    if measure.nu is not None:
        values["nu"] = number(measure.nu)
    if judgement.why:
        values["why"] = judgement.why
    return values


def _distances_json(found: Distances) -> DistancesForm:
    values: DistancesForm = {
        "l1": number(found.l1),
        "l2": number(found.l2),
        "linf": number(found.linf),
        "cosine": number(found.cosine),
        "worst": found.worst,
    }
    if found.reference is not None:
        values["d_ref"] = number(found.reference)
    if found.normalised is not None:
        values["d_ref_normalised"] = number(found.normalised)
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was opened: ``drawn`` uniformly out of ``total``, and ``intervals``, all that were opened.

    ``chosen``: those that the draw gave. ``top``: those that move the parameters furthest; ``flagged``: those that
    screening asked for. Both may be among the drawn ones.
    """

    nonce: bytes
    total: int
    drawn: int
    intervals: tuple[int, ...]
    chosen: tuple[int, ...] = ()
    top: tuple[int, ...] = ()
    flagged: tuple[int, ...] = ()

    def to_json(self) -> SampleForm:
        """The sample as plain values."""
        return {
            "nonce": self.nonce.hex(),
            "total": self.total,
            "drawn": self.drawn,
            "drawn_intervals": list(self.chosen),
            "intervals": list(self.intervals),
            "top": list(self.top),
            "flagged": list(self.flagged),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """For ``bogus`` intervals of the total: chance that the drawn sample holds one, and the n that reaches 99 %."""

    label: str
    bogus: int
    detection: float
    needed: int

    def to_json(self) -> OddsForm:
        """The odds as plain values."""
        return {
            "share": self.label,
            "bogus": self.bogus,
            "detection": self.detection,
            "passes": 1 - self.detection,
            "sample_for_99": self.needed,
        }
