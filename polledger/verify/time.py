"""Step 3: what the timestamps over the heads show, and whether they are consistent. PROTOCOL sections 8 and 10.

Trust comes only from the verifier's trust file. Without one, tokens are checked against the certificates stored
beside them: that finds damage and borrowed tokens, and the time stays ``self-asserted``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from msgspec import UnsetType

from polledger.core.records import TokenRef
from polledger.core.report import Finding, TimeSummary, counted
from polledger.errors import MalformedError, Unavailable
from polledger.store.objects import ObjectStore
from polledger.timestamp import cms
from polledger.timestamp.authority import POLICY as EMBEDDED_POLICY
from polledger.timestamp.messages import parse_request, token_of
from polledger.timestamp.token import TOKEN_BYTES, Timestamp, TokenRejected, verify_response
from polledger.timestamp.trust import REVOCATION_BYTES, Trust, TrustEntry, operator_key
from polledger.timestamp.tstinfo import TSTInfo, parse_tst_info
from polledger.verify.heads import Heads, SealedHead
from polledger.verify.policy import Policy

CONSISTENCY = "time.consistency"

CERTIFICATE_BYTES = 1 << 16
"""Largest certificate read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """One usable token over the head of ``seal``. ``operator`` is None unless the trust file vouches for it."""

    seal: int
    authority: str
    operator: str | None
    timestamp: Timestamp


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
    pending: int = 0,
) -> Times:
    """Step 3 over every head that the records match; ``now`` is the verifier's clock (UTC-aware).

    ``pass`` of ``time.consistency`` means: every stored token is whole, over the head of its seal, the answer to
    its request and not from the future. That anybody trusts the time is ``time.assurance``, required only by policy.
    """
    reader = _Reader(objects=objects, trust=trust, policy=policy, now=now, findings=[], refusals={})
    matching = [item for item in heads.heads if item.matches]
    stamps = tuple(stamp for item in matching for stamp in reader.read(item))
    summary = _summarise(matching, stamps, trust=trust, policy=policy, pending=pending)
    findings = [
        *reader.findings,
        *_refused(reader.refusals),
        *_labels(stamps),
        *_order(stamps, policy),
        *_assurance(summary, trust, policy, _voices(matching, stamps)),
    ]
    if not any(finding.name == CONSISTENCY for finding in findings):
        tokens = (
            f"{counted(len(stamps), 'token')} over {counted(len(matching), 'head')}: consistent"
            if stamps
            else "no token to contradict"
        )
        findings.append(Finding(step=3, name=CONSISTENCY, outcome="pass", detail=tokens))
    return Times(findings=tuple(findings), summary=summary, stamps=stamps)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What is stored of one token. ``signature_hash``: digest algorithm that its signature states."""

    response: bytes
    nonce: int | None
    chain: list[x509.Certificate]
    signature_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Reads the tokens of one seal after the other, collecting findings."""

    objects: ObjectStore
    trust: Trust | None
    policy: Policy
    now: datetime
    findings: list[Finding]
    refusals: dict[tuple[str, str, str], list[int]]
    """(authority, entry, why) of tokens that an entry knows and does not vouch for: the seals they are over."""

    def read(self, sealed: SealedHead) -> Iterator[Stamp]:
        if sealed.seal.seal is None:
            return
        for ref in sealed.seal.seal.tokens:
            place = f"{sealed.seal.name}, token of {ref.authority!r}"
            try:
                parts = self._parts(ref, sealed.head.digest())
            except (MalformedError, Unavailable) as error:
                self._inconsistent(f"{place}: {error}")
                continue
            try:
                yield self._stamp(sealed, ref, parts)
            except TokenRejected as error:
                remedy = "ask another authority with timestamp retry; the token counts for nothing"
                self._add("time.tokens", f"{place}: {error}", remedy)

    def _parts(self, ref: TokenRef, digest: bytes) -> _Parts:
        request = parse_request(self.objects.get(ref.request, limit=TOKEN_BYTES))
        if (request.hash_name, request.imprint) != ("sha256", digest):
            raise MalformedError("the request is about something else than this head")
        certificates = [] if isinstance(ref.chain, UnsetType) else ref.chain
        revocation = [] if isinstance(ref.revocation, UnsetType) else ref.revocation
        for name in revocation:
            self.objects.get(name, limit=REVOCATION_BYTES)
        response = self.objects.get(ref.response, limit=TOKEN_BYTES)
        signed = cms.parse_token(token_of(response))
        self._check_statement(parse_tst_info(signed.content), request.nonce, digest)
        return _Parts(
            response=response,
            nonce=request.nonce,
            chain=[_certificate(self.objects.get(name, limit=CERTIFICATE_BYTES)) for name in certificates],
            signature_hash=signed.hash_name,
        )

    def _check_statement(self, info: TSTInfo, nonce: int | None, digest: bytes) -> None:
        if (info.hash_name, info.imprint) != ("sha256", digest):
            raise MalformedError("the token is over something else than this head")
        if info.nonce != nonce:
            raise MalformedError("the token is not the answer to the stored request: another nonce")
        if info.gen_time > self.now + timedelta(seconds=self.policy.time.skew):
            raise MalformedError(f"genTime {_iso(info.gen_time)} lies in the future")

    def _stamp(self, sealed: SealedHead, ref: TokenRef, parts: _Parts) -> Stamp:
        digest = sealed.head.digest()
        entries = self.trust.entries if self.trust else ()
        refused: list[tuple[str, str, str]] = []
        for entry in entries:
            timestamp = _signed_for(entry, parts, digest)
            if timestamp is None:
                continue
            why = _refusal(entry, timestamp, parts.signature_hash)
            if why is None:
                return Stamp(
                    seal=sealed.seal.number,
                    authority=ref.authority,
                    operator=entry.operator,
                    timestamp=timestamp,
                )
            refused.append((ref.authority, entry.name, why))
        for key in refused:
            self.refusals.setdefault(key, []).append(sealed.seal.number)
        if not parts.chain:
            raise TokenRejected("no certificate is stored beside it, and the trust file does not know it")
        timestamp = verify_response(parts.response, digest=digest, roots=parts.chain, nonce=parts.nonce)
        return Stamp(seal=sealed.seal.number, authority=ref.authority, operator=None, timestamp=timestamp)

    def _inconsistent(self, detail: str) -> None:
        self._add(CONSISTENCY, detail, "restore the object from a copy")

    def _add(self, name: str, detail: str, remedy: str) -> None:
        self.findings.append(Finding(step=3, name=name, outcome="unverifiable", detail=detail, remedy=remedy))


def _certificate(data: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(data)
    except ValueError:
        raise MalformedError("a stored certificate cannot be read") from None


def _signed_for(entry: TrustEntry, parts: _Parts, digest: bytes) -> Timestamp | None:
    """The timestamp if its signer leads to one of the roots of ``entry``."""
    if not entry.roots:
        return None
    try:
        return verify_response(
            parts.response,
            digest=digest,
            roots=entry.roots,
            intermediates=[*entry.intermediates, *parts.chain],
            nonce=parts.nonce,
        )
    except TokenRejected:
        return None


def _refusal(entry: TrustEntry, timestamp: Timestamp, signature_hash: str) -> str | None:
    """Why ``entry`` does not vouch for a token that a root of it leads to; None if it does."""
    # The prover's own clock never counts, even where a trust file names its root. What it states is signed; what a
    # manifest calls it is not.
    if timestamp.policy == EMBEDDED_POLICY:
        return "it comes from an embedded authority, whose time is the prover's own"
    if entry.policies and timestamp.policy not in entry.policies:
        return f"its policy is {timestamp.policy}"
    for name in (timestamp.hash_name, signature_hash):
        if entry.hashes and name not in entry.hashes:
            return f"it uses {name}"
    if entry.not_before is not None and timestamp.gen_time < entry.not_before:
        return f"its genTime lies before {_iso(entry.not_before)}"
    if entry.not_after is not None and timestamp.gen_time > entry.not_after:
        return f"its genTime lies after {_iso(entry.not_after)}"
    return None


def _refused(refusals: Mapping[tuple[str, str, str], Sequence[int]]) -> Iterator[Finding]:
    """One finding for all tokens that are refused for the same reason: runs have thousands of seals."""
    for (authority, entry, why), seals in refusals.items():
        more = f" and {len(seals) - 1} more" if len(seals) > 1 else ""
        detail = f"seal {seals[0]}{more}, token of {authority!r}: {entry!r} does not vouch for it: {why}"
        yield Finding(step=3, name="time.tokens", outcome="unverifiable", detail=detail)


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
                first=_iso(genesis) if genesis else None,
                last=_iso(final),
                operators=tuple(sorted({stamp.operator for stamp in trusted if stamp.operator})),
                pending=pending,
            )
    genesis, final = anchor(stamps, first, quorum=1), anchor(stamps, last, quorum=1)
    return TimeSummary(
        assurance="self-asserted",
        first=_iso(genesis) if genesis else None,
        last=_iso(final) if final else None,
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
    for stamp in sorted(stamps, key=lambda item: item.seal):
        before = newest.get(stamp.timestamp.tsa)
        if before is not None and _certainly_earlier(stamp, before, policy):
            detail = (
                f"{stamp.authority!r} stamped seal {stamp.seal} at {_iso(stamp.timestamp.gen_time)}, before "
                f"the earlier seal {before.seal} at {_iso(before.timestamp.gen_time)}: asked late, or its clock moved"
            )
            yield Finding(step=3, name="time.tokens", outcome="unverifiable", detail=detail)
        if before is None or stamp.timestamp.gen_time > before.timestamp.gen_time:
            newest[stamp.timestamp.tsa] = stamp


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


def _iso(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
