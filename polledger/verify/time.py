"""Step 3: what the timestamps over the heads show, and whether they are consistent. PROTOCOL sections 8 and 10.

Trust comes only from the verifier's trust file. Without one, tokens are checked against the certificates stored
beside them: that finds damage and borrowed tokens, and the time stays ``self-asserted``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median

from polledger.core.moment import utc_text
from polledger.core.report import Finding, counted
from polledger.core.timesummary import Lag, TimeSummary, Waiting
from polledger.store.objects import ObjectStore
from polledger.timestamp.authority import self_asserted
from polledger.timestamp.revocation import held_by
from polledger.timestamp.trust import Trust, operator_key
from polledger.verify.clock import judge_clock, step_counts
from polledger.verify.evidence import RenewalFile
from polledger.verify.heads import Heads, SealedHead
from polledger.verify.policy import Policy
from polledger.verify.renewal import read_renewals
from polledger.verify.standing import judge_standing
from polledger.verify.timeline import timeline
from polledger.verify.tokens import CONSISTENCY, Stamp, TokenReader, refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Outcome of step 3."""

    findings: tuple[Finding, ...]
    summary: TimeSummary
    stamps: tuple[Stamp, ...]


def step_time(
    heads: Heads,
    objects: ObjectStore,
    *,
    trust: Trust | None,
    policy: Policy,
    now: datetime,
    waiting: Sequence[Waiting] = (),
    made: Mapping[int, datetime] | None = None,
    renewals: Sequence[RenewalFile] = (),
) -> Times:
    """Step 3 over every head that the records match; ``now`` is the verifier's clock (UTC-aware).

    ``pass`` of ``time.consistency`` means: every stored token is whole, over the head of its seal, the answer to
    its request and not from the future. That anybody trusts the time is ``time.assurance``, required only by policy.
    ``waiting`` and ``made`` (when seals were made, by number) are the prover's own notes: reported, and never judged.
    """
    reader = TokenReader(objects=objects, trust=trust, policy=policy, now=now, pool=held_by(trust))
    matching = [item for item in heads.heads if item.matches]
    read = [stamp for item in matching for stamp in reader.seal(item)]
    found = read_renewals(renewals, heads=matching, stamps=read, reader=reader)
    standing = judge_standing(read, found, pool=reader.pool, policy=policy, now=now)
    stamps = standing.stamps
    # A renewal is a token over the heads that it covers, besides what it does for theirs.
    dating = [*stamps, *standing.renewing]
    summary = _summarise(matching, dating, trust=trust, policy=policy, pending=len(waiting))
    external = summary.assurance == "external"
    clock = judge_clock(heads, dating, external=external, policy=policy, now=now)
    steps = step_counts(heads.records, {item.head.size for item in matching})
    summary = replace(
        summary,
        renewals=standing.renewals,
        until=_moment(standing.until),
        seals=len(matching),
        stamped=len({stamp.seal for stamp in stamps}),
        waiting=tuple(waiting),
        lag=lag_of(stamps, made or {}),
        pace=clock.pace,
        timeline=timeline(matching, stamps, made or {}, steps),
    )
    findings = [
        *reader.findings,
        *(_damaged(problem) for problem in found.problems),
        *refused(reader.refusals),
        *_labels(stamps),
        *_order(stamps, policy),
        *_assurance(summary, trust, policy, _voices(matching, dating)),
        *standing.findings,
        *clock.findings,
    ]
    if not any(finding.name == CONSISTENCY for finding in findings):
        findings.append(_consistent(stamps, matching))
    return Times(findings=tuple(findings), summary=summary, stamps=stamps)


def lag_of(stamps: Sequence[Stamp], made: Mapping[int, datetime]) -> Lag | None:
    """From seals to their tokens; None without a token whose seal's time is known.

    Tokens of embedded authorities do not count: they are made with the seal, by the same clock.
    """
    lags = sorted(
        ((stamp.timestamp.gen_time - made[stamp.seal]).total_seconds(), stamp.seal)
        for stamp in stamps
        if stamp.seal in made and not self_asserted(stamp.timestamp)
    )
    if not lags:
        return None
    longest, seal = lags[-1]
    return Lag(tokens=len(lags), median=median(lag for lag, _ in lags), longest=longest, seal=seal)


def _damaged(problem: str) -> Finding:
    remedy = "restore it from a copy; what is left of the renewals counts"
    return Finding(step=3, name=CONSISTENCY, outcome="unverifiable", detail=problem, remedy=remedy)


def _consistent(stamps: Sequence[Stamp], matching: Sequence[SealedHead]) -> Finding:
    tokens = f"{counted(len(stamps), 'token')} over {counted(len(matching), 'head')}: consistent"
    detail = tokens if stamps else "no token to contradict"
    return Finding(step=3, name=CONSISTENCY, outcome="pass", detail=detail)


def _summarise(
    matching: Sequence[SealedHead],
    stamps: Sequence[Stamp],
    *,
    trust: Trust | None,
    policy: Policy,
    pending: int,
) -> TimeSummary:
    if not matching or not stamps:
        return TimeSummary(pending=pending)
    first = min(item.seal.number for item in matching)
    last = max(item.seal.number for item in matching)
    quorum = policy.time.quorum
    if trust is not None:
        final = anchor([stamp for stamp in stamps if stamp.operator], last, quorum=quorum)
        if final is not None:
            trusted = [stamp for stamp in stamps if stamp.operator]
            genesis = anchor(trusted, first, quorum=quorum)
            return TimeSummary(
                assurance="external",
                first=utc_text(genesis) if genesis else None,
                last=utc_text(final),
                operators=tuple(sorted({stamp.operator for stamp in trusted if stamp.operator})),
                pending=pending,
            )
    genesis, final = anchor(stamps, first, quorum=1), anchor(stamps, last, quorum=1)
    return TimeSummary(
        assurance="self-asserted",
        first=utc_text(genesis) if genesis else None,
        last=utc_text(final) if final else None,
        pending=pending,
    )


def anchor(stamps: Sequence[Stamp], seal: int, *, quorum: int) -> datetime | None:
    """When ``quorum`` distinct operators had vouched for the head of ``seal``: a token over a later head covers it too.

    Tokens without an operator count as one each by authority name. None where there are too few.
    """
    earliest: dict[str, datetime] = {}
    for stamp in stamps:
        if stamp.seal >= seal:
            who = operator_key(stamp.operator) if stamp.operator else f"({stamp.authority})"
            earliest[who] = min(earliest.get(who, stamp.timestamp.gen_time), stamp.timestamp.gen_time)
    times = sorted(earliest.values())
    return times[quorum - 1] if len(times) >= quorum else None


def _labels(stamps: Sequence[Stamp]) -> Iterator[Finding]:
    """One signer under two names that differ in a single character: a damaged manifest.

    The name in a manifest is a label that nothing signs; whoever has two names for one authority, has two.
    """
    labels: dict[str, Stamp] = {}
    for stamp in stamps:
        known = labels.setdefault(stamp.timestamp.tsa, stamp)
        if _one_apart(known.authority, stamp.authority):
            yield Finding(
                step=3,
                name=CONSISTENCY,
                outcome="unverifiable",
                detail=(
                    f"seal {known.seal} calls the authority {known.authority!r}, seal {stamp.seal} calls it "
                    f"{stamp.authority!r}: one of the two is damaged"
                ),
                remedy="restore the seal from a copy",
            )


def _one_apart(a: str, b: str) -> bool:
    return len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1


def _order(stamps: Sequence[Stamp], policy: Policy) -> Iterator[Finding]:
    """One authority's tokens against the order of the heads, beyond their accuracy.

    Never a contradiction by itself: a token asked for late lies after that over a later head, whose own token
    covers the earlier one as well. It is said so that a person can look.
    """
    newest: dict[str, Stamp] = {}
    turned: dict[str, list[tuple[Stamp, Stamp]]] = {}
    for stamp in sorted(stamps, key=lambda item: item.seal):
        before = newest.get(stamp.timestamp.tsa)
        if before is not None and _certainly_earlier(stamp, before, policy):
            turned.setdefault(stamp.timestamp.tsa, []).append((before, stamp))
        if before is None or stamp.timestamp.gen_time > before.timestamp.gen_time:
            newest[stamp.timestamp.tsa] = stamp
    for (before, stamp), *more in turned.values():
        detail = (
            f"{stamp.authority!r} stamped seal {stamp.seal} at {utc_text(stamp.timestamp.gen_time)}, before "
            f"the earlier seal {before.seal} at {utc_text(before.timestamp.gen_time)}: asked late, or its clock moved"
            f"{f'; the same for {len(more)} more' if more else ''}"
        )
        yield Finding(step=3, name="time.tokens", outcome="unverifiable", detail=detail)


def _certainly_earlier(a: Stamp, b: Stamp, policy: Policy) -> bool:
    default = timedelta(seconds=policy.time.accuracy)
    slack = sum((stamp.timestamp.accuracy or default for stamp in (a, b)), timedelta())
    return a.timestamp.gen_time + slack < b.timestamp.gen_time


def _voices(matching: Sequence[SealedHead], stamps: Sequence[Stamp]) -> list[str]:
    """The operators that vouch for the newest head, each once."""
    last = max((item.seal.number for item in matching), default=0)
    found = {
        operator_key(stamp.operator): stamp.operator
        for stamp in stamps
        if stamp.operator and stamp.seal >= last
    }
    return sorted(found.values())


def _assurance(
    summary: TimeSummary, trust: Trust | None, policy: Policy, voices: Sequence[str]
) -> Iterator[Finding]:
    if summary.assurance == "external":
        detail = (
            f"the end of the run existed by {summary.last}, vouched for by {', '.join(voices)}"
            f" (quorum {policy.time.quorum})"
        )
        yield Finding(step=3, name="time.assurance", outcome="pass", detail=detail)
        return
    waiting = f", {counted(summary.pending, 'request')} waiting for an authority" if summary.pending else ""
    quorum = counted(policy.time.quorum, "operator")
    vouching = "" if trust is None else f": {len(voices)} of {quorum} of the trust file vouch for its end"
    detail = f"time is {summary.assurance}{vouching}{waiting}"
    name = "time.required" if policy.require.external_time else "time.assurance"
    yield Finding(step=3, name=name, outcome="unverifiable", detail=detail, remedy=_remedy(trust))


def _remedy(trust: Trust | None) -> str:
    if trust is None:
        return "give the authorities you trust with --trust"
    if not any(entry.roots for entry in trust.entries):
        return "give roots in the trust file: without one an authority vouches for nothing"
    return "ask a trusted authority"


def _moment(time: datetime | None) -> str | None:
    return None if time is None else utc_text(time)
