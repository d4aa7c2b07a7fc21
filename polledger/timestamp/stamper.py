"""Getting tokens over tree heads: ask, check, keep; what fails waits in the queue. PROTOCOL section 8.

A seal is durable before any authority is asked, and so is the request. An authority that does not answer costs
its time limit once and nothing else: the request stays queued, and any later attempt sends the same bytes.
"""

import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, Protocol, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import UNSET

from polledger.core.head import parse_note
from polledger.core.records import Seal, TokenRef
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.timestamp.address import public_url
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.client import (
    RESPONSE_BYTES,
    TIMEOUT,
    Unreachable,
    granted,
    make_request,
    post_request,
)
from polledger.timestamp.messages import parse_request
from polledger.timestamp.pace import SPACING, Pace
from polledger.timestamp.queue import Pending, RequestQueue
from polledger.timestamp.token import Timestamp, embedded_certificates, verify_response

NONCE_BITS: Final = 63
"""Fits the signed 64-bit integers that some authorities keep nonces in."""

EMBEDDED_URL: Final = "embedded:"


class Authority(Protocol):
    """Somebody who can be asked for tokens. ``name`` goes into the seal and carries no trust."""

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def policy(self) -> str | None: ...
    def ask(self, request: bytes, *, now: datetime) -> bytes:
        """The response that grants ``request``, not verified. Raises Unavailable if there is none."""

    def roots(self) -> Sequence[x509.Certificate]:
        """Certificates to keep beside the token, because the token does not carry them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """An authority asked over HTTP. Without ``name`` it is called by its URL, credentials left out."""

    url: str
    name: str = ""
    policy: str | None = None
    timeout: float = TIMEOUT
    limit: int = RESPONSE_BYTES

    def __post_init__(self) -> None:
        # Also refuses what is no URL before anything is queued for it.
        shown = public_url(self.url)
        if not self.name:
            object.__setattr__(self, "name", shown[:256])

    def ask(self, request: bytes, *, now: datetime) -> bytes:
        return granted(post_request(self.url, request, timeout=self.timeout, limit=self.limit))

    def roots(self) -> Sequence[x509.Certificate]:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The authority of this machine."""

    authority: EmbeddedAuthority
    name: str = "embedded"
    url: str = EMBEDDED_URL
    policy: str | None = None

    def ask(self, request: bytes, *, now: datetime) -> bytes:
        return granted(self.authority.respond(request, now=now))

    def roots(self) -> Sequence[x509.Certificate]:
        return (self.authority.root,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token that was received and is self-consistent. ``chain`` is raw certificates, those inside it first."""

    authority: str
    request: bytes
    response: bytes
    chain: tuple[bytes, ...]
    timestamp: Timestamp


T = TypeVar("T")
"""What is asked for: a token, a cosignature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[T]):
    """How one attempt ended: with a token (a witness: a cosignature), or with the reason why there is none."""

    pending: Pending
    token: T | None = None
    reason: str = ""
    unreachable: bool = False
    gone: bool = False
    """The request waits no more, because it was answered or dropped meanwhile."""


class Requests(ABC, Generic[T]):
    """Requests over heads that are durable before anybody is asked, and wait in ``queue`` until they are answered.

    ``keep`` stores what was obtained with its seal and is called from whichever thread attempts, one at a time:
    ``storing`` is held meanwhile, and shared by all that change the seals of one run. ``clock`` gives UTC-aware times,
    ``intervals`` the least time between two requests by URL, where one is known; ``timer`` counts seconds.
    """

    def __init__(
        self,
        *,
        queue: RequestQueue,
        clock: Callable[[], datetime],
        keep: Callable[[int, T], None],
        storing: "threading.Lock | None" = None,
        intervals: Mapping[str, timedelta] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._keep = keep
        self._intervals = {**(intervals or {}), EMBEDDED_URL: timedelta(0)}
        self._timer = timer
        self._paces: dict[str, Pace] = {}
        # Authorities are asked side by side, but two tokens of one seal are added to one file.
        self._storing = storing or threading.Lock()
        self._stopped = False

    @property
    @abstractmethod
    def urls(self) -> tuple[str, ...]:
        """Where it is asked, each once."""

    @abstractmethod
    def enqueue(self, seal_index: int, digest: bytes) -> list[Pending]:
        """Put the requests over ``digest``, the head of seal ``seal_index``, on disk; nobody is asked yet."""

    @abstractmethod
    def _obtain(self, pending: Pending) -> T:
        """Ask once and check the answer. Raises Unavailable or MalformedError if there is none that fits."""

    def stop(self) -> None:
        """Once this returns, no attempt writes anything: an answer that comes later is dropped, its request waits."""
        with self._storing:
            self._stopped = True

    def pace(self, url: str) -> Pace:
        """When whoever is asked at ``url`` may be asked again."""
        return self._paces.setdefault(url, Pace(self._intervals.get(url, SPACING), self._timer))

    def waiting(self) -> list[Pending]:
        """The queued requests. Those that failed lately count for the pace of whom they ask."""
        found = self._queue.pending()
        for pending in found:
            if pending.last_failure is not UNSET:
                ago = self._clock().timestamp() - pending.last_failure / 1000
                self.pace(pending.url).asked(ago=max(0.0, ago))
        return found

    def is_due(self, pending: Pending) -> bool:
        """Whether the request's own pause is over."""
        return pending.due() <= self._clock()

    def attempt(self, pending: Pending) -> Outcome[T]:
        """Ask once, unless the request has left the queue since; at once, whatever the pace.

        What is obtained is kept before its request leaves the queue; a failure is noted in the queue. Raises
        Unavailable only when this machine cannot store what was obtained, or the failure.
        """
        if self._stopped or not self._queue.holds(pending):
            return Outcome(pending=pending, reason="no longer waits", gone=True)
        pace = self.pace(pending.url)
        pace.asked()
        try:
            outcome = self._attempt(pending)
        except BaseException:
            pace.failed()
            raise
        pace.asked()
        if outcome.unreachable:
            pace.failed()
        else:
            pace.answered()
        return outcome

    def _attempt(self, pending: Pending) -> Outcome[T]:
        try:
            found = self._obtain(pending)
        except (Unavailable, MalformedError, UsageError) as error:
            with self._storing:
                return self._failed(pending, error)
        with self._storing:
            return self._store(pending, found)

    def _store(self, pending: Pending, found: T) -> Outcome[T]:
        if self._stopped:
            return Outcome(pending=pending, reason="no longer waits", gone=True)
        try:
            self._keep(pending.seal, found)
        except MalformedError as error:
            return self._failed(pending, error)
        self._queue.remove(pending)
        return Outcome(pending=pending, token=found)

    def _failed(self, pending: Pending, error: Exception) -> Outcome[T]:
        # A request that was dropped meanwhile must not come back.
        if self._stopped or not self._queue.holds(pending):
            return Outcome(pending=pending, reason="no longer waits", gone=True)
        noted = pending.failed(str(error), now=self._clock())
        self._queue.put(noted)
        # A proxy that cannot be used, say, is a mistake of the user's; asking at once again makes no sense either.
        unreachable = isinstance(error, (Unreachable, UsageError))
        return Outcome(pending=noted, reason=str(error), unreachable=unreachable)

    def retry(
        self, waiting: Iterable[Pending], *, sleep: Callable[[float], None] = time.sleep
    ) -> Iterator[Outcome[T]]:
        """Attempt each request, as the outcomes are taken: the newest seals first, because a token over a later head
        covers the earlier ones; nobody more often than its interval.

        Whoever does not answer is left in peace for the rest of the round.
        """
        lanes: dict[str, deque[Pending]] = {}
        for pending in sorted(waiting, key=lambda pending: -pending.seal):
            lanes.setdefault(pending.url, deque()).append(pending)
        while lanes:
            url = min(lanes, key=lambda url: self.pace(url).spacing())
            if (pause := self.pace(url).spacing()) > 0:
                sleep(pause)
            outcome = self.attempt(lanes[url].popleft())
            yield outcome
            if outcome.unreachable:
                for pending in lanes[url]:
                    yield Outcome(pending=pending, reason=f"not asked again: {outcome.reason}")
            if outcome.unreachable or not lanes[url]:
                del lanes[url]


class Stamper(Requests[Token]):
    """Asks every authority for a token over each head.

    ``keep`` stores a token with its seal (:func:`keep_token`). ``nonces`` gives fresh random numbers; the rest is as
    in :class:`Requests`.
    """

    def __init__(
        self,
        *,
        authorities: Sequence[Authority],
        queue: RequestQueue,
        clock: Callable[[], datetime],
        keep: Callable[[int, Token], None],
        storing: "threading.Lock | None" = None,
        intervals: Mapping[str, timedelta] | None = None,
        timer: Callable[[], float] = time.monotonic,
        nonces: Callable[[], int] = lambda: secrets.randbits(NONCE_BITS),
    ) -> None:
        super().__init__(
            queue=queue, clock=clock, keep=keep, storing=storing, intervals=intervals, timer=timer
        )
        self._authorities = tuple(authorities)
        self._nonces = nonces

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the authorities are asked, each once."""
        return tuple(dict.fromkeys(authority.url for authority in self._authorities))

    def stamp(self, seal_index: int, digest: bytes) -> list[Token]:
        """Ask every authority once for a token over ``digest``, the head of seal ``seal_index``.

        Returns the tokens obtained and kept. An authority that fails raises nothing: its request is queued.
        Raises Unavailable only when this machine cannot store queue or token.
        """
        outcomes = [self.attempt(pending) for pending in self.enqueue(seal_index, digest)]
        return [outcome.token for outcome in outcomes if outcome.token is not None]

    def enqueue(self, seal_index: int, digest: bytes) -> list[Pending]:
        """Make one request per authority and put them on disk; nobody is asked yet."""
        made = []
        for authority in self._authorities:
            request = make_request(digest, nonce=self._nonces(), policy=authority.policy)
            made.append(
                Pending(seal=seal_index, authority=authority.name, url=authority.url, request=request)
            )
        for pending in made:
            self._queue.put(pending)
        return made

    def _obtain(self, pending: Pending) -> Token:
        return obtain_token(self._authority(pending), pending.request, now=self._clock())

    def _authority(self, pending: Pending) -> Authority:
        for authority in self._authorities:
            if (authority.name, authority.url) == (pending.authority, pending.url):
                return authority
        if pending.url == EMBEDDED_URL:
            raise Unavailable("the embedded authority is not at hand")
        return Http(url=pending.url, name=pending.authority)


def obtain_token(authority: Authority, request: bytes, *, now: datetime) -> Token:
    """The token that ``authority`` gives for ``request``, found to be its answer and self-consistent.

    Nothing is trusted here: the token's own certificates stand in for roots, so that a token which no verifier could
    ever accept is found out while another one can still be had. The clock of this machine has no say: it may be the
    one that is wrong. Raises Unavailable if none is given, MalformedError if it does not fit.
    """
    response = authority.ask(request, now=now)
    wanted = parse_request(request)
    carried = embedded_certificates(response)
    chain = [*carried, *(root for root in authority.roots() if root not in carried)]
    timestamp = verify_response(
        response,
        digest=wanted.imprint,
        hash_name=wanted.hash_name,
        roots=chain,
        nonce=wanted.nonce,
        policies=() if wanted.policy is None else (wanted.policy,),
    )
    return Token(
        authority=authority.name,
        request=request,
        response=response,
        chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in chain),
        timestamp=timestamp,
    )


def store_token(objects: "Objects", token: Token) -> TokenRef:
    """Put the token's parts among ``objects``; they have reached the disk after :meth:`Objects.sync`."""
    return TokenRef(
        authority=token.authority,
        request=objects.put(token.request),
        response=objects.put(token.response),
        chain=[objects.put(certificate) for certificate in token.chain],
    )


class Objects(Protocol):
    """Where payloads go: content-addressed, durable after :meth:`sync`."""

    def put(self, data: bytes) -> bytes: ...
    def sync(self) -> None: ...


class SealStore(Protocol):
    """The part of a run directory that tokens are kept in (``polledger.store.run.RunDirectory``)."""

    @property
    def objects(self) -> Objects: ...
    def read_seal(self, index: int) -> Seal: ...
    def write_seal(self, seal: Seal) -> None: ...


def keep_token(run: SealStore, seal_index: int, token: Token) -> None:
    """Store the token's parts as objects, then add it to the seal in one step. Adding it twice changes nothing.

    Raises MalformedError when the token is not over the head of that seal.
    """
    seal = run.read_seal(seal_index)
    digest = parse_note(seal.note).head.digest()
    if (token.timestamp.hash_name, token.timestamp.imprint) != ("sha256", digest):
        raise MalformedError(f"the token is not over the head of seal {seal_index}")
    reference = store_token(run.objects, token)
    if reference in seal.tokens:
        return
    run.objects.sync()
    run.write_seal(msgspec.structs.replace(seal, tokens=[*seal.tokens, reference]))
