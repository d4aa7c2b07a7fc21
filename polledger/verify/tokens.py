"""Tokens as they lie in a run: whole, the answer to their request, and whether an entry of the trust file vouches.

What :mod:`polledger.verify.time` makes of them is PROTOCOL sections 8 and 10.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from msgspec import UnsetType

from polledger.core.moment import utc_text
from polledger.core.records import TokenRef
from polledger.core.renewal import Covered
from polledger.core.report import Finding
from polledger.errors import MalformedError, Unavailable
from polledger.store.objects import ObjectStore
from polledger.timestamp import cms
from polledger.timestamp.authority import self_asserted
from polledger.timestamp.certificates import read_certificate
from polledger.timestamp.messages import parse_request, token_of
from polledger.timestamp.revocation import RevocationPool
from polledger.timestamp.token import TOKEN_BYTES, Timestamp, TokenRejected, verify_response
from polledger.timestamp.trust import REVOCATION_BYTES, Trust, TrustEntry
from polledger.timestamp.tstinfo import TSTInfo, parse_tst_info
from polledger.verify.heads import SealedHead
from polledger.verify.policy import Policy

CONSISTENCY = "time.consistency"

CERTIFICATE_BYTES = 1 << 16
"""Largest certificate read."""

STORED_REVOCATION_BYTES = 1 << 26
"""Most bytes of revocation data read from one run: a few large lists. What is beyond is said to be unread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """One usable token over the head of ``seal``. ``operator`` is None unless the trust file vouches for it."""

    seal: int
    authority: str
    operator: str | None
    timestamp: Timestamp
    entry: bytes
    """The token as an entry of renewals."""
    renewal: int | None = None
    """It is over this renewal, which covers heads up to that of ``seal``."""

    @property
    def place(self) -> str:
        """What it is over."""
        return place_of(self.seal, self.renewal)


def place_of(seal: int, renewal: int | None) -> str:
    """The seal, or the renewal, that a token is over."""
    return f"seal {seal}" if renewal is None else f"renewal {renewal}"


class _Ahead(MalformedError):
    """A genTime ahead of the verifier's clock: one of two clocks is wrong, and nothing is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What is stored of one token."""

    response: bytes
    nonce: int | None
    chain: list[x509.Certificate]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenReader:
    """Reads one token after the other, collecting findings; stored revocation data go into ``pool``, each once."""

    objects: ObjectStore
    trust: Trust | None
    policy: Policy
    now: datetime
    pool: RevocationPool = field(default_factory=RevocationPool)
    findings: list[Finding] = field(default_factory=list)
    refusals: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)
    """(authority, entry, why) of tokens that an entry knows and does not vouch for: what they are over."""
    revocation: set[bytes] = field(default_factory=set)
    """Names of the stored revocation data seen so far."""

    def seal(self, sealed: SealedHead) -> Iterator[Stamp]:
        """The usable tokens over the head of ``sealed``."""
        for ref in sealed.seal.seal.tokens if sealed.seal.seal else ():
            stamp = self.token(sealed.seal.name, ref, sealed.head.digest(), sealed.seal.number)
            if stamp is not None:
                yield stamp

    def token(
        self, file: str, ref: TokenRef, digest: bytes, seal: int, renewal: int | None = None
    ) -> Stamp | None:
        """The token ``ref`` of ``file`` over ``digest``, for the heads up to that of ``seal``; None if unusable."""
        place = f"{file}, token of {ref.authority!r}"
        try:
            parts = self._parts(ref, digest)
        except _Ahead as error:
            self._add(CONSISTENCY, f"{place}: {error}", "check this machine's clock: the token may be sound")
            return None
        except (MalformedError, Unavailable) as error:
            self._add(CONSISTENCY, f"{place}: {error}", "restore the object from a copy")
            return None
        entry = Covered(v=1, over=digest, token=ref).entry()
        over = place_of(seal, renewal)
        try:
            operator, timestamp = self._vouched(parts, digest, ref.authority, over)
        except TokenRejected as error:
            remedy = "ask another authority with timestamp retry; the token counts for nothing"
            self._add("time.tokens", f"{place}: {error}", remedy)
            return None
        return Stamp(
            seal=seal,
            authority=ref.authority,
            operator=operator,
            timestamp=timestamp,
            entry=entry,
            renewal=renewal,
        )

    def _parts(self, ref: TokenRef, digest: bytes) -> _Parts:
        request = parse_request(self.objects.get(ref.request, limit=TOKEN_BYTES))
        if (request.hash_name, request.imprint) != ("sha256", digest):
            raise MalformedError("the request is about something else than this")
        certificates = [] if isinstance(ref.chain, UnsetType) else ref.chain
        for name in [] if isinstance(ref.revocation, UnsetType) else ref.revocation:
            self.read_revocation(name)
        response = self.objects.get(ref.response, limit=TOKEN_BYTES)
        info = parse_tst_info(cms.parse_token(token_of(response)).content)
        self._check_statement(info, request.nonce, digest)
        return _Parts(
            response=response,
            nonce=request.nonce,
            chain=[_certificate(self.objects.get(name, limit=CERTIFICATE_BYTES)) for name in certificates],
        )

    def _check_statement(self, info: TSTInfo, nonce: int | None, digest: bytes) -> None:
        if (info.hash_name, info.imprint) != ("sha256", digest):
            raise MalformedError("the token is over something else than this")
        if info.nonce != nonce:
            raise MalformedError("the token is not the answer to the stored request: another nonce")
        if info.gen_time > self.now + timedelta(seconds=self.policy.time.skew):
            raise _Ahead(f"genTime {utc_text(info.gen_time)} lies in the future")

    def _vouched(
        self, parts: _Parts, digest: bytes, authority: str, over: str
    ) -> tuple[str | None, Timestamp]:
        """The timestamp and the operator that vouches for it, if one does; refusals of entries that know it are kept.

        Raises TokenRejected if none does and it does not verify under the certificates stored beside it either.
        """
        refusing: list[tuple[str, str, str]] = []
        for entry in self.trust.entries if self.trust else ():
            timestamp = _signed_for(entry, parts, digest, self.now)
            if timestamp is None:
                continue
            why = _refusal(entry, timestamp)
            if why is None:
                return entry.operator, timestamp
            refusing.append((authority, entry.name, why))
        for key in refusing:
            self.refusals.setdefault(key, []).append(over)
        if not parts.chain:
            raise TokenRejected("no certificate is stored beside it, and the trust file does not know it")
        return None, verify_response(parts.response, digest=digest, roots=parts.chain, nonce=parts.nonce)

    def read_revocation(self, name: bytes) -> None:
        """Take the revocation data called ``name`` into the pool. Raises Unavailable if they are not there whole."""
        if name in self.revocation:
            return
        data = self.objects.get(name, limit=REVOCATION_BYTES)
        self.revocation.add(name)
        label = f"revocation data {name.hex()}"
        if self.pool.stored + len(data) > STORED_REVOCATION_BYTES:
            self.pool.problems[label] = (
                f"not read: the run holds more than {STORED_REVOCATION_BYTES} bytes of them"
            )
            return
        self.pool.stored += len(data)
        self.pool.add(label, data)

    def _add(self, name: str, detail: str, remedy: str) -> None:
        self.findings.append(Finding(step=3, name=name, outcome="unverifiable", detail=detail, remedy=remedy))


def _certificate(data: bytes) -> x509.Certificate:
    try:
        return read_certificate(data).parsed
    except MalformedError:
        raise MalformedError("a stored certificate cannot be read") from None


def _signed_for(entry: TrustEntry, parts: _Parts, digest: bytes, now: datetime) -> Timestamp | None:
    """The timestamp if its signer leads to one of the roots of ``entry``; to one that lasts until ``now`` if it can."""
    found = _under(entry.roots, entry, parts, digest)
    lasting = [root for root in entry.roots if root.not_valid_after_utc >= now]
    # Only where another root could help: the signer lasts, and something above it does not.
    if found is None or not lasting or not found.until < now <= found.chain[0].not_valid_after_utc:
        return found
    return _under(lasting, entry, parts, digest) or found


def _under(
    roots: Sequence[x509.Certificate], entry: TrustEntry, parts: _Parts, digest: bytes
) -> Timestamp | None:
    if not roots:
        return None
    try:
        return verify_response(
            parts.response,
            digest=digest,
            roots=roots,
            # A root that is none here is still known, and no more than a candidate.
            intermediates=[
                *entry.intermediates,
                *parts.chain,
                *(one for one in entry.roots if one not in roots),
            ],
            nonce=parts.nonce,
        )
    except TokenRejected:
        return None


def _refusal(entry: TrustEntry, timestamp: Timestamp) -> str | None:
    """Why ``entry`` does not vouch for a token that a root of it leads to; None if it does."""
    # The prover's own clock never counts, even where a trust file names its root. What it states is signed; what a
    # manifest calls it is not.
    if self_asserted(timestamp):
        return "it comes from an embedded authority, whose time is the prover's own"
    if entry.policies and timestamp.policy not in entry.policies:
        return f"its policy is {timestamp.policy}"
    for name in (timestamp.hash_name, timestamp.signature_hash):
        if entry.hashes and name not in entry.hashes:
            return f"it uses {name}"
    if entry.not_before is not None and timestamp.gen_time < entry.not_before:
        return f"its genTime lies before {utc_text(entry.not_before)}"
    if entry.not_after is not None and timestamp.gen_time > entry.not_after:
        return f"its genTime lies after {utc_text(entry.not_after)}"
    return None


def refused(refusals: Mapping[tuple[str, str, str], Sequence[str]]) -> Iterator[Finding]:
    """One finding for all tokens that are refused for the same reason: runs have thousands of seals."""
    for (authority, entry, why), places in refusals.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        detail = f"{places[0]}{more}, token of {authority!r}: {entry!r} does not vouch for it: {why}"
        yield Finding(step=3, name="time.tokens", outcome="unverifiable", detail=detail)
