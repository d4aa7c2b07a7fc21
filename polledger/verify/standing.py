"""Which tokens still stand: certificates that ended, algorithms past their day, revocations, and what renewals save.

A token stands as long as nobody but its authority can have made it: until the first certificate on its chain ends, the
policy no longer counts one of its algorithms, or a key on the chain may have been another's. It stands longer if by
then a renewal covered it that stands itself. So renewals are judged from the newest to the oldest (RFC 4998).
PROTOCOL section 8; docs/decisions/0026.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from polledger.core.moment import utc_text
from polledger.core.report import Finding, counted
from polledger.core.reportform import RenewalForm
from polledger.timestamp.revocation import Outcome, RevocationPool
from polledger.timestamp.token import Timestamp
from polledger.timestamp.trust import operator_key
from polledger.verify.policy import Policy
from polledger.verify.renewal import Renewal, Renewals
from polledger.verify.sunset import sunset
from polledger.verify.tokens import Stamp

RENEWED = "time.renewed"
REVOCATION = "time.revocation"

_Groups: TypeAlias = dict[tuple[str, str], list[str]]
"""(authority, why) of tokens of one fate: where they are. Runs have thousands of seals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What still stands. ``stamps``: those of the seals, without an operator where they stand no more.

    ``renewing``: the tokens of renewals that stand, which show that heads existed by their own time at the latest.
    ``renewals``: the renewals as the report names them. ``until``: when the first token that counts falls unless it is
    renewed; None where no operator vouches for any, or the policy counts some that have fallen.
    """

    stamps: tuple[Stamp, ...]
    renewing: tuple[Stamp, ...]
    renewals: tuple[RenewalForm, ...]
    until: datetime | None
    findings: tuple[Finding, ...]


def judge_standing(
    stamps: Sequence[Stamp], renewals: Renewals, *, pool: RevocationPool, policy: Policy, now: datetime
) -> Standing:
    """Judge the renewals from the newest to the oldest, then the tokens of the seals, all at the time ``now``.

    Tokens that no operator vouches for are passed on as they are: nobody is trusted to have made them.
    """
    judge = _Judge(pool=pool, policy=policy, now=now)
    renewing = [stamp for renewal in reversed(renewals.found) for stamp in judge.renewal(renewal)]
    return Standing(
        stamps=tuple(judge.tokens(stamps)),
        renewing=tuple(renewing),
        renewals=tuple(dated.to_json() for dated in reversed(judge.dated)),
        until=None if judge.accepted else judge.until,
        findings=(*judge.renewed(), *judge.revocation()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    """Until when a token stands by itself, and what ends it."""

    moment: datetime
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dated:
    """A judged renewal. ``voices``: by when each operator had stamped it, ascending, of its tokens that stand.

    Fewer operators than ``quorum`` save nothing.
    """

    number: int
    operators: tuple[str, ...]
    voices: tuple[tuple[datetime, ...], ...]
    quorum: int

    def saves(self, after: datetime, before: datetime) -> bool:
        """Whether a quorum stamped it from ``after`` to ``before``, both included."""
        return sum(_any_within(times, after, before) for times in self.voices) >= self.quorum

    @property
    def when(self) -> datetime | None:
        """By when a quorum had stamped it; None where too few stand."""
        earliest = sorted(times[0] for times in self.voices)
        return earliest[self.quorum - 1] if len(earliest) >= self.quorum else None

    def to_json(self) -> RenewalForm:
        when = self.when
        return {
            "index": self.number,
            "by": None if when is None else utc_text(when),
            "operators": list(self.operators),
        }


def _any_within(times: Sequence[datetime], after: datetime, before: datetime) -> bool:
    """Whether one of ``times``, ascending, lies from ``after`` to ``before``."""
    at = bisect_left(times, after)
    return at < len(times) and times[at] <= before


@dataclass(slots=True, kw_only=True)
class _Judge:
    """Judges at ``now`` and collects what it finds, by fate."""

    pool: RevocationPool
    policy: Policy
    now: datetime
    dated: list[_Dated] = field(default_factory=list)
    covering: dict[bytes, list[_Dated]] = field(default_factory=dict)
    """By entry, those of ``dated`` that cover it: looking a token up in each would be quadratic on a hostile run."""
    until: datetime | None = None
    lapsed: _Groups = field(default_factory=dict)
    accepted: _Groups = field(default_factory=dict)
    rejected: _Groups = field(default_factory=dict)
    unchecked: dict[str, int] = field(default_factory=dict)
    standing: int = 0
    saved: int = 0
    checked: int = 0

    def renewal(self, renewal: Renewal) -> list[Stamp]:
        """The tokens of ``renewal`` that stand, after those of all newer ones were judged."""
        standing = [stamp for stamp in self.tokens(renewal.stamps) if stamp.operator is not None]
        names, voices = set[str](), dict[str, list[datetime]]()
        for stamp in standing:
            who, by = stamp.operator or "", stamp.timestamp.gen_time + self._accuracy(stamp.timestamp)
            names.add(who)
            voices.setdefault(operator_key(who), []).append(by)
        dated = _Dated(
            number=renewal.number,
            operators=tuple(sorted(names)),
            voices=tuple(tuple(sorted(times)) for times in voices.values()),
            quorum=self.policy.time.quorum,
        )
        self.dated.append(dated)
        for entry in renewal.covers:
            self.covering.setdefault(entry, []).append(dated)
        return standing

    def tokens(self, stamps: Sequence[Stamp]) -> Iterator[Stamp]:
        """Each of ``stamps``, without operator if it stands no more.

        Those whose certificate was revoked before they were made are left out.
        """
        skew = timedelta(seconds=self.policy.time.skew)
        for stamp in stamps:
            if stamp.operator is None:
                yield stamp
                continue
            timestamp = stamp.timestamp
            outcome = self.pool.check(timestamp.chain, gen_time=timestamp.gen_time, now=self.now + skew)
            if outcome.rejected:
                _note(self.rejected, stamp, outcome.rejected)
            elif self._stands(stamp, self._limits(timestamp, outcome)):
                self._count(outcome)
                yield stamp
            else:
                yield replace(stamp, operator=None)

    def _count(self, outcome: Outcome) -> None:
        self.standing += 1
        self.checked += not outcome.unchecked
        for name in outcome.unchecked[:1]:
            self.unchecked[name] = self.unchecked.get(name, 0) + 1

    def _limits(self, timestamp: Timestamp, outcome: Outcome) -> list[_Limit]:
        """The end of its first certificate; of an algorithm's days; of the time when its keys were their owners'."""
        ended = timestamp.until
        limits = [_Limit(moment=ended, why=f"a certificate on its chain ended {utc_text(ended)}")]
        aged = sunset(timestamp, self.policy.time.sunset)
        if aged is not None:
            moment, name = aged
            limits.append(
                _Limit(moment=moment, why=f"{name} counts no more by the policy since {utc_text(moment)}")
            )
        if outcome.before is not None:
            limits.append(_Limit(moment=outcome.before, why=outcome.why))
        return limits

    def _stands(self, stamp: Stamp, limits: Sequence[_Limit]) -> bool:
        """Whether ``stamp`` stands, by itself or by a renewal."""
        renewals = self.covering.get(stamp.entry, ())
        first = min(limits, key=lambda limit: limit.moment)
        if self._saved(stamp, first.moment, renewals):
            # It falls with the renewal, whose tokens are judged like any other.
            self.saved += first.moment < self.now
            return True
        if first.moment >= self.now:
            self.until = first.moment if self.until is None else min(self.until, first.moment)
            return True
        why = f"{first.why}, and {self._missed(renewals, first)}"
        # The policy may do without the first of the limits, not without the others.
        other = min((limit.moment for limit in limits[1:]), default=self.now)
        if self.policy.time.accept_expired and (other >= self.now or self._saved(stamp, other, renewals)):
            _note(self.accepted, stamp, why)
            return True
        _note(self.lapsed, stamp, why)
        return False

    def _saved(self, stamp: Stamp, moment: datetime, renewals: Sequence[_Dated]) -> bool:
        """Whether one of ``renewals`` was made while ``stamp`` stood by itself, until ``moment``."""
        # A renewal comes after what it covers, whatever the accuracy of both clocks leaves open.
        after = stamp.timestamp.gen_time - self._accuracy(stamp.timestamp)
        return any(dated.saves(after, moment) for dated in renewals)

    def _missed(self, renewals: Sequence[_Dated], limit: _Limit) -> str:
        """Why none of the ``renewals`` that cover a token saves it."""
        if not renewals:
            return "no renewal covers it"
        when = [dated.when for dated in renewals if dated.when is not None]
        if not when:
            return "too few operators that you trust vouch for the renewals that cover it"
        late = [moment for moment in when if moment > limit.moment]
        if late:
            return f"it was renewed only by {utc_text(min(late))}: a gap"
        return f"its renewal states {utc_text(min(when))}, before it was made"

    def _accuracy(self, timestamp: Timestamp) -> timedelta:
        default = timedelta(seconds=self.policy.time.accuracy)
        return default if timestamp.accuracy is None else timestamp.accuracy

    def renewed(self) -> Iterator[Finding]:
        """``pass``: every token that an operator vouches for stands by itself or was renewed without a gap."""
        for place, why in _places(self.lapsed):
            remedy = "a copy of the run that was renewed in time, or tokens of other authorities"
            yield _finding(RENEWED, f"{place}: it counts no more: {why}", remedy)
        for place, why in _places(self.accepted):
            yield _finding(
                RENEWED, f"{place}: it counts because the policy accepts it (time.accept_expired): {why}"
            )
        if self.lapsed or self.accepted or self.until is None:
            return
        said = "of no token that counts a certificate has ended"
        if self.saved:
            # The newest ones come first.
            last = next(dated for dated in self.dated if dated.when is not None)
            tokens = (
                f"{counted(self.saved, 'token')} past {'its' if self.saved == 1 else 'their'} certificates"
            )
            said = (
                f"{tokens} renewed in time, last by renewal {last.number} ({utc_text(last.when or self.now)})"
            )
        detail = f"{said}; the first to fall, unless it is renewed, does {utc_text(self.until)}"
        yield Finding(step=3, name=RENEWED, outcome="pass", detail=detail)

    def revocation(self) -> Iterator[Finding]:
        """``pass``: authentic data speak for every certificate of every token that counts, at its genTime."""
        for place, why in _places(self.rejected):
            yield _finding(REVOCATION, f"{place}: it counts for nothing: {why}")
        for label, why in self.pool.problems.items():
            yield _finding(REVOCATION, f"{label}: {why}", "ask its issuer for another copy")
        for label in self.pool.unused() if self.standing else ():
            yield _finding(REVOCATION, f"{label} speaks of no certificate of these tokens")
        if self.unchecked:
            name = max(self.unchecked, key=lambda one: self.unchecked[one])
            of = f"{self.standing - self.checked} of {counted(self.standing, 'token')}"
            detail = f"revocation was not checked for {of}: nothing at hand speaks for {name!r} at genTime"
            remedy = "give CRLs or OCSP responses: revocation = […] in the trust file, or timestamp renew --revocation"
            yield _finding(REVOCATION, detail, remedy)
        elif self.standing:
            detail = f"revocation was checked for {counted(self.standing, 'token')} up to the roots"
            yield Finding(step=3, name=REVOCATION, outcome="pass", detail=detail)


def _note(groups: _Groups, stamp: Stamp, why: str) -> None:
    groups.setdefault((stamp.authority, why), []).append(stamp.place)


def _places(groups: _Groups) -> Iterator[tuple[str, str]]:
    """Where the tokens of each group are, and their fate."""
    for (authority, why), places in groups.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        yield f"{places[0]}{more}, token of {authority!r}", why


def _finding(name: str, detail: str, remedy: str | None = None) -> Finding:
    return Finding(step=3, name=name, outcome="unverifiable", detail=detail, remedy=remedy)
