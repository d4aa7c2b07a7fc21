"""What step 3 of a verification says about time, as plain values for the report. PROTOCOL section 14."""

from dataclasses import dataclass, field

from polledger.core.reportform import (
    Assurance,
    LagForm,
    PaceForm,
    RenewalForm,
    TimeForm,
    TimelineForm,
    WaitingForm,
    WitnessForm,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A request that no authority has answered yet, for a token over the head of ``seal``.

    ``since`` (ISO 8601, UTC) is by the prover's clock, None where it is not known; ``reason``: why the last of
    ``attempts`` failed.
    """

    seal: int
    authority: str
    since: str | None
    attempts: int
    reason: str

    def to_json(self) -> WaitingForm:
        """The request as plain values."""
        return {
            "seal": self.seal,
            "authority": self.authority,
            "since": self.since,
            "attempts": self.attempts,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """Seconds from seals, by the prover's clock, to the genTime of their ``tokens``; ``seal`` had to wait longest."""

    tokens: int
    median: float
    longest: float
    seal: int

    def to_json(self) -> LagForm:
        """The lag as plain values."""
        return {
            "tokens": self.tokens,
            "median": round(self.median, 3),
            "longest": round(self.longest, 3),
            "seal": self.seal,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessSummary:
    """What one witness of the trust file cosigned: ``size`` records, the largest head among them.

    ``first`` and ``last``: the earliest and latest time it states (ISO 8601, UTC), by its own clock; None without any
    cosignature. ``final``: the newest head is among them.
    """

    name: str
    operator: str
    heads: int = 0
    size: int = 0
    first: str | None = None
    last: str | None = None
    final: bool = False

    def to_json(self) -> WitnessForm:
        """The summary as plain values."""
        return {
            "name": self.name,
            "operator": self.operator,
            "heads": self.heads,
            "size": self.size,
            "first": self.first,
            "last": self.last,
            "final": self.final,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSummary:
    """What the timestamps show: ``first`` covers genesis, ``last`` the newest head (all times ISO 8601, UTC).

    ``renewals``: each with its ``index``, the time ``by`` which a quorum had vouched for it, and its operators.
    ``until``: when the first token that counts falls unless it is renewed. ``stamped`` of ``seals`` have a token that
    is usable; ``waiting`` and ``lag`` are known where the prover's own directory is verified. ``pace``: the steps
    between anchors and the time these leave for them, see :mod:`polledger.verify.clock`; None without two anchors.
    """

    assurance: Assurance = "unverified"
    first: str | None = None
    last: str | None = None
    operators: tuple[str, ...] = ()
    pending: int = 0
    renewals: tuple[RenewalForm, ...] = ()
    until: str | None = None
    seals: int = 0
    stamped: int = 0
    waiting: tuple[Waiting, ...] = ()
    lag: Lag | None = None
    pace: PaceForm | None = None
    witnesses: tuple[WitnessSummary, ...] = ()
    """Those of the trust file. Their clocks are information: no assurance follows from them."""
    timeline: TimelineForm = field(default_factory=lambda: TimelineForm(seals=[], left_out=0))
    """Seals and tokens one by one, as far as there is room."""

    def to_json(self) -> TimeForm:
        """The summary as plain values."""
        return {
            "assurance": self.assurance,
            "first": self.first,
            "last": self.last,
            "operators": list(self.operators),
            "pending": self.pending,
            "renewals": list(self.renewals),
            "until": self.until,
            "seals": self.seals,
            "stamped": self.stamped,
            "waiting": [waiting.to_json() for waiting in self.waiting],
            "lag": None if self.lag is None else self.lag.to_json(),
            "pace": self.pace,
            "witnesses": [witness.to_json() for witness in self.witnesses],
            "timeline": self.timeline,
        }
