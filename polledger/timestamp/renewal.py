"""Renewing the tokens of a run: what there is to cover, whether it is time, and asking. PROTOCOL section 8.

What is stamped is in :mod:`polledger.core.renewal`. A renewal has no file before its first token, so that nothing is
left behind where no authority answers; each token is then added in one step. Whoever is interrupted asks again.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final, Protocol

from polledger.core.digest import DIGEST_BYTES, ZERO
from polledger.core.encoding import encode
from polledger.core.head import parse_note
from polledger.core.records import Seal, TokenRef
from polledger.core.renewal import (
    ENTRIES_MAX,
    REVOCATION_MAX,
    Renewal,
    Statement,
    gapless,
    imprint,
    make_statement,
    parse_entries,
    parse_statement,
    seal_entries,
    tokens_over,
)
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.timestamp import cms
from polledger.timestamp.certificates import read_certificate
from polledger.timestamp.client import make_request
from polledger.timestamp.messages import token_of
from polledger.timestamp.stamper import NONCE_BITS, Authority, Token, obtain_token, store_token
from polledger.timestamp.token import TOKEN_BYTES
from polledger.timestamp.tstinfo import parse_tst_info

AGED: Final = Fraction(2, 3)
"""Share of the time from a renewal's token to the end of its certificates after which it is renewed itself: a year
before the end of one that lasts three, as certificates are commonly replaced."""

CERTIFICATE_BYTES: Final = 1 << 16


class Objects(Protocol):
    """Where payloads go (``polledger.store.objects.ObjectStore``)."""

    def has(self, name: bytes) -> bool: ...
    def get(self, digest: bytes, *, limit: int) -> bytes: ...
    def read(self, name: bytes, *, limit: int) -> memoryview: ...
    def put(self, data: bytes) -> bytes: ...
    def put_named(self, name: bytes, chunks: Sequence[bytes | memoryview]) -> None: ...
    def sync(self) -> None: ...


class RenewalStore(Protocol):
    """The part of a run directory that is renewed (``polledger.store.run.RunDirectory``)."""

    @property
    def objects(self) -> Objects: ...
    def seals(self) -> list[int]: ...
    def read_seal(self, index: int) -> Seal: ...
    def renewals(self) -> list[int]: ...
    def read_renewal(self, index: int) -> Renewal: ...
    def write_renewal(self, renewal: Renewal) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A renewal that exists."""

    renewal: Renewal
    statement: Statement
    imprint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a run has to renew. ``problems``: a line for each seal that is not covered, each object that is missing."""

    run: bytes
    entries: tuple[bytes, ...]
    """Of every head and of every token over one."""
    heads: int
    renewals: tuple[Made, ...]
    covered: frozenset[bytes]
    """What the newest renewal covers of all that there is."""
    problems: tuple[str, ...]
    authorities: tuple[str, ...]
    """What the newest seal that has tokens, or the newest renewal, calls those who were asked; labels, not trust."""

    @property
    def newest(self) -> Made | None:
        """The last renewal."""
        return self.renewals[-1] if self.renewals else None

    def uncovered(self, revocation: Sequence[bytes]) -> int:
        """How many entries, and data named ``revocation``, the newest renewal does not cover; its own tokens aside."""
        if self.newest is None:
            return len(self.entries) + len(revocation)
        wanted = {*self.entries, *_tokens(self.renewals[:-1])}
        return len(wanted - self.covered) + len(set(revocation) - self._stamped())

    def _stamped(self) -> set[bytes]:
        """Names of the revocation data in the renewals so far."""
        return {name for made in self.renewals for name in made.statement.revocation or ()}

    def statement(self, revocation: Sequence[bytes]) -> tuple[Statement, list[bytes]]:
        """What the next renewal stamps, and the entries that it covers. Raises UsageError above the limits."""
        entries = [*self.entries, *_tokens(self.renewals)]
        if len(entries) > ENTRIES_MAX:
            raise UsageError(
                f"the run has {len(entries)} heads and tokens, at most {ENTRIES_MAX} are renewed"
            )
        new = set(revocation) - self._stamped()
        if len(new) > REVOCATION_MAX:
            raise UsageError(
                f"{len(new)} CRLs and OCSP responses are new, at most {REVOCATION_MAX} go into one renewal: give fewer"
            )
        made = make_statement(
            run=self.run,
            index=self.newest.statement.index + 1 if self.newest else 0,
            previous=self.newest.imprint if self.newest else ZERO,
            entries=entries,
            revocation=new,
        )
        return made, entries


def survey(store: RenewalStore) -> Survey:
    """Look through the seals and renewals of a run; nothing in them is verified.

    A seal or an earlier renewal that cannot be read is a problem of its own: the others must not wait for it. Raises
    Unavailable or MalformedError if the newest renewal cannot be read, which the next one has to name; UsageError for
    a run without a seal.
    """
    run, heads, entries = b"", 0, list[bytes]()
    problems, asked = list[str](), list[TokenRef]()
    for number in gapless(store.seals()):
        try:
            seal = store.read_seal(number)
            head = parse_note(seal.note).head
        except (MalformedError, Unavailable) as error:
            problems.append(str(error))
            continue
        if run and head.run != run:
            problems.append(f"seal {number} belongs to another run")
            continue
        run, heads = head.run, heads + 1
        entries += seal_entries(head.digest(), seal)
        asked = seal.tokens or asked
        problems += _missing(store.objects, f"seal {number}", seal.tokens)
    if not run:
        raise UsageError(
            "the run has no seal that could be renewed" + "".join(f": {one}" for one in problems[:1])
        )
    renewals = _renewals(store, run, problems)
    for made in renewals:
        asked = made.renewal.tokens
        problems += _missing(store.objects, f"renewal {made.renewal.index}", asked)
    wanted = {*entries, *_tokens(renewals)}
    return Survey(
        run=run,
        entries=tuple(entries),
        covered=_covered(store, renewals[-1], wanted) if renewals else frozenset(),
        heads=heads,
        renewals=tuple(renewals),
        problems=tuple(problems),
        authorities=tuple(dict.fromkeys(token.authority for token in asked)),
    )


def _renewals(store: RenewalStore, run: bytes, problems: list[str]) -> list[Made]:
    """The renewals that can be read; what keeps others from it goes to ``problems``."""
    numbers = gapless(store.renewals())
    found = []
    for number in numbers:
        try:
            found.append(read_made(store, number, run=run))
        except (MalformedError, Unavailable) as error:
            if number == numbers[-1]:
                raise _needed(error) from None
            problems.append(str(error))
    return found


def _needed(error: Exception) -> Unavailable:
    return Unavailable(f"{error}; the next renewal builds on this one: restore it, or move its file away")


def _covered(store: RenewalStore, newest: Made, wanted: set[bytes]) -> frozenset[bytes]:
    statement = newest.statement
    try:
        data = store.objects.read(statement.root, limit=statement.size * DIGEST_BYTES)
        return parse_entries(data, statement, wanted=wanted)
    except (MalformedError, Unavailable) as error:
        raise _needed(error) from None


def _tokens(renewals: Sequence[Made]) -> Iterator[bytes]:
    """The entries of the renewals' own tokens, for the next one."""
    for made in renewals:
        yield from tokens_over(made.imprint, made.renewal.tokens)


def read_made(store: RenewalStore, number: int, *, run: bytes) -> Made:
    """Renewal ``number`` of the run ``run``. Raises Unavailable or MalformedError if it cannot be read as that."""
    renewal = store.read_renewal(number)
    statement = parse_statement(renewal.statement)
    if statement.run != run or statement.index != number:
        raise MalformedError(f"renewal {number} is of another run or number: restore it from a copy")
    return Made(renewal=renewal, statement=statement, imprint=imprint(renewal.statement))


def _missing(objects: Objects, where: str, tokens: Sequence[TokenRef]) -> Iterator[str]:
    """What is missing of each token: it is covered by its digest all the same, for a copy may have it."""
    for token in tokens:
        for name in (token.request, token.response, *(token.chain or ()), *(token.revocation or ())):
            if not objects.has(name):
                yield f"{where}, token of {token.authority!r}: object {name.hex()} is missing"


def aged(store: RenewalStore, made: Made, *, now: datetime) -> bool:
    """Whether one of the renewal's own tokens is near the end of its certificates, or lost what would tell."""
    return any(_aged(_span(store.objects, token), now) for token in made.renewal.tokens)


def ends(store: RenewalStore, made: Made) -> datetime | None:
    """When the first certificate beside the renewal's tokens ends; None where no token can be read."""
    spans = [_span(store.objects, token) for token in made.renewal.tokens]
    return min((span[1] for span in spans if span is not None), default=None)


def _aged(span: tuple[datetime, datetime] | None, now: datetime) -> bool:
    if span is None:
        return True
    start, end = span
    return now > start + (end - start) * AGED.numerator / AGED.denominator


def _span(objects: Objects, token: TokenRef) -> tuple[datetime, datetime] | None:
    """genTime, and the end of the first certificate kept beside the token to end; as they say. None if unreadable."""
    try:
        signed = cms.parse_token(token_of(objects.get(token.response, limit=TOKEN_BYTES)))
        kept = [objects.get(name, limit=CERTIFICATE_BYTES) for name in token.chain or ()]
        certificates = [read_certificate(raw) for raw in (*signed.certificates, *kept)]
        start = parse_tst_info(signed.content).gen_time
    except (MalformedError, Unavailable):
        return None
    return start, min((one.not_after for one in certificates), default=start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one authority gave: a token, or the reason why there is none."""

    authority: str
    token: Token | None = None
    reason: str = ""


class Renewer:
    """Asks authorities for tokens over one statement and keeps each at once. For whoever holds the run's lock.

    ``entries`` is the list to be kept with a new renewal; None: it is kept already, with tokens of other authorities.
    """

    def __init__(
        self,
        store: RenewalStore,
        statement: Statement,
        entries: Sequence[bytes] | None = None,
        *,
        nonces: Callable[[], int] = lambda: secrets.randbits(NONCE_BITS),
    ) -> None:
        self._store = store
        self._statement = statement
        self._encoded = encode(statement)
        self._entries = entries
        self._nonces = nonces

    def ask(self, authority: Authority, *, now: datetime) -> Answer:
        """Ask once and keep the token. Raises Unavailable if it cannot be written."""
        digest = imprint(self._encoded)
        try:
            request = make_request(digest, nonce=self._nonces(), policy=authority.policy)
            token = obtain_token(authority, request, now=now)
        except (MalformedError, Unavailable) as error:
            return Answer(authority=authority.name, reason=str(error))
        self._keep(token)
        return Answer(authority=authority.name, token=token)

    def _keep(self, token: Token) -> None:
        objects, index = self._store.objects, self._statement.index
        tokens: list[TokenRef] = []
        if self._entries is None:
            tokens = self._store.read_renewal(index).tokens
        else:
            objects.put_named(self._statement.root, [b"".join(self._entries)])
        reference = store_token(objects, token)
        objects.sync()
        self._store.write_renewal(
            Renewal(v=1, index=index, statement=self._encoded, tokens=[*tokens, reference])
        )
        self._entries = None
