"""Getting cosignatures of witnesses over tree heads: C2SP tlog-witness, add-checkpoint. PROTOCOL sections 1 and 7.

A witness is told a head and that it extends the one it signed last, and answers with a cosignature. It is sent
roots, sizes and a proof of hashes: nothing of what a record says. Its answer is checked under its key before it is
kept. A later head covers the earlier ones: after an outage only the newest is asked for.
"""

import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPResponse
from itertools import islice
from typing import Final, Protocol

import msgspec
from msgspec import UNSET

from polledger.core.cosignature import (
    RESPONSE_BYTES,
    Cosignature,
    WitnessKey,
    parse_cosignature,
    parse_witness_key,
    split_lines,
    verify_cosignature,
)
from polledger.core.digest import sha256
from polledger.core.head import SIZE_MAX, Head, parse_note, verifier_key
from polledger.core.merkle import Frontier, leaf_hash
from polledger.core.records import COSIGNATURES, Seal, parse_genesis
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.timestamp.address import USABLE, public_url, split_url
from polledger.timestamp.client import TIMEOUT, Unreachable, post, read_body, refuse_redirect
from polledger.timestamp.queue import Pending, RequestQueue
from polledger.timestamp.stamper import Requests

PROOF_HASHES: Final = 63
"""Longest proof that C2SP lets a client send; 2^53 records take 53 hashes."""

TURNS: Final = 3
"""How often one attempt sends the proof again because the witness states another size: twice is a race."""

SIZE_TYPE: Final = "text/x.tlog.size"
_SIZE: Final = re.compile(rb"(0|[1-9][0-9]{0,18})\n")

_GIVEN: Final = re.compile(r"(.+)\+([^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44})", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Somebody who can be asked for cosignatures. Raises UsageError unless ``url`` is a C2SP submission prefix."""

    key: WitnessKey
    url: str
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        try:
            parts = split_url(self.address)
        except UsageError:
            raise UsageError(f"the witness {self.key.name} is given by {USABLE}") from None
        if parts.query or parts.fragment:
            raise UsageError(
                f"the URL of the witness {self.key.name} has a query or a fragment: leave it out"
            )

    @property
    def address(self) -> str:
        """Where heads are sent."""
        return self.url.rstrip("/") + "/add-checkpoint"

    @property
    def text(self) -> str:
        """URL and vkey, as :func:`parse_witness` reads them. May carry credentials."""
        return f"{self.url}+{self.key.vkey()}"


def parse_witness(text: str) -> Witness:
    """The witness in ``URL+VKEY``. Raises UsageError, without repeating the URL."""
    match = _GIVEN.fullmatch(text)
    if match is None:
        raise UsageError("a witness is given as URL+name+8 hexadecimal digits+44 characters of base64")
    url, vkey = match.groups()
    return Witness(key=parse_witness_key(vkey), url=url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a witness answered: status, content type without parameters, and the bounded body."""

    status: int
    kind: str
    body: bytes


def encode_request(*, old: int, proof: Sequence[bytes], note: bytes) -> bytes:
    """The body of add-checkpoint. Raises UsageError for a proof that no witness takes."""
    if len(proof) > PROOF_HASHES:
        raise UsageError(f"a consistency proof has at most {PROOF_HASHES} hashes, found {len(proof)}")
    lines = [f"old {old}", *(b64encode(digest).decode("ascii") for digest in proof)]
    return "\n".join(lines).encode() + b"\n\n" + note


def post_checkpoint(witness: Witness, request: bytes) -> Reply:
    """The witness's answer to ``request``. Raises Unreachable where there is none within the limits."""
    return post(
        witness.address,
        request,
        headers={"Content-Type": "text/plain; charset=utf-8"},
        read=_read_reply,
        timeout=witness.timeout,
        limit=RESPONSE_BYTES,
    )


def _read_reply(response: HTTPResponse, limit: int) -> Reply:
    refuse_redirect(response)
    return Reply(
        status=response.status,
        kind=response.headers.get_content_type(),
        body=read_body(response, limit),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosigned:
    """A cosignature that was received and holds: the line to keep, and what it says."""

    witness: WitnessKey
    line: bytes
    cosignature: Cosignature


Records = Callable[[int], Iterator[bytes]]
"""The records of a ledger from an index on. Raises Unavailable where one cannot be read."""


class Growth:
    """Consistency proofs between sizes of one run's tree.

    Keeps the frontier at the size that was proved from last: the next proof from there on costs what the tree has
    grown since. Not for two threads at once.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._frontier = Frontier()

    def proof(self, old: int, new: int) -> list[bytes]:
        """PROOF(old, D[new]) for 0 ≤ old ≤ new; empty from size 0, as C2SP wants it.

        Raises Unavailable when there are not ``new`` records.
        """
        if not old:
            return []
        if self._frontier.size > old:
            self._frontier = Frontier()
        leaves = (leaf_hash(sha256(record)) for record in self._records(self._frontier.size))
        self._frontier.extend(islice(leaves, old - self._frontier.size))
        rest = list(islice(leaves, new - old))
        if self._frontier.size + len(rest) < new:
            raise Unavailable(f"the ledger has fewer than the {new} records that the head covers")
        return self._frontier.consistency_proof(rest)


class SealStore(Protocol):
    """The part of a run directory that cosignatures are kept in (``polledger.store.run.RunDirectory``)."""

    def read_seal(self, index: int) -> Seal: ...
    def write_seal(self, seal: Seal) -> None: ...


class WitnessRequests(Requests[Cosigned]):
    """Asks every witness to cosign heads.

    ``ledger`` opens the run's records, for each witness anew; ``keep`` is :func:`keep_cosignature`; the rest is as in
    :class:`Requests`. What waits for a witness is dropped as soon as a later head waits for it.
    """

    def __init__(
        self,
        *,
        witnesses: Sequence[Witness],
        seals: SealStore,
        ledger: Callable[[], Records],
        queue: RequestQueue,
        clock: Callable[[], datetime],
        keep: Callable[[int, Cosigned], None],
        storing: "threading.Lock | None" = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(queue=queue, clock=clock, keep=keep, storing=storing, timer=timer)
        self._witnesses = tuple(witnesses)
        self._seals = seals
        self._ledger = ledger
        self._memories: dict[str, _Memory] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the witnesses are asked, each once."""
        return tuple(dict.fromkeys(witness.url for witness in self._witnesses))

    def enqueue(self, seal_index: int, digest: bytes) -> list[Pending]:
        """Put the head of seal ``seal_index`` on disk for every witness; nobody is asked yet.

        Raises MalformedError when the seal holds another head than the one with this ``digest``.
        """
        note = self._seals.read_seal(seal_index).note
        if parse_note(note).head.digest() != digest:
            raise MalformedError(f"seal {seal_index} holds another head than the one to be witnessed")
        made = [
            Pending(
                seal=seal_index,
                authority=witness.key.name,
                url=witness.url,
                request=note,
                witness=witness.key.vkey(),
            )
            for witness in self._witnesses
        ]
        for pending in made:
            self._queue.put(pending)
        self._drop_covered(made)
        return made

    def _drop_covered(self, newest: Sequence[Pending]) -> None:
        asked = {(pending.url, pending.witness): pending.seal for pending in newest}
        with self._storing:
            for waiting in self._queue.pending():
                if waiting.seal < asked.get((waiting.url, waiting.witness), 0):
                    self._queue.remove(waiting)

    def _obtain(self, pending: Pending) -> Cosigned:
        witness = self._witness(pending)
        memory = self._memories.setdefault(witness.text, _Memory(growth=Growth(self._ledger())))
        head = parse_note(pending.request).head
        old = memory.size
        for _ in range(TURNS):
            if old > head.size:
                memory.size = old
                raise Unavailable(
                    f"has cosigned {old} records of this run before, more than the {head.size} of this head"
                )
            request = encode_request(old=old, proof=memory.growth.proof(old, head.size), note=pending.request)
            reply = post_checkpoint(witness, request)
            if reply.status == 200:
                cosigned = read_cosignature(reply.body, witness=witness.key, text=head.text())
                memory.size = head.size
                return cosigned
            told = told_size(reply)
            if told is None or told == old:
                raise self._refusal(witness, reply, head, old)
            old = told
        raise Unavailable(f"{public_url(witness.url)}: states another size each time (HTTP 409)")

    def _witness(self, pending: Pending) -> Witness:
        asked = witness_of(pending)
        return next((known for known in self._witnesses if known.text == asked.text), asked)

    def _refusal(self, witness: Witness, reply: Reply, head: Head, old: int) -> Unavailable:
        where, status = public_url(witness.url), f"HTTP {reply.status}"
        if reply.status in (403, 404):
            return Unavailable(
                f"{where}: does not take this run ({status}); its operator has to know the log key "
                f"{self._log_key(head)}"
            )
        words = {
            400: "calls the request malformed; it may not take heads with extension lines",
            409: f"may have signed another tree than this one of {head.size} records",
            422: f"finds this head inconsistent with the tree of {old} records that it signed",
        }
        if reply.status in words:
            return Unavailable(f"{where}: {words[reply.status]} ({status})")
        return Unreachable(f"{where}: answers {status}")

    def _log_key(self, head: Head) -> str:
        genesis = parse_genesis(next(self._ledger()(0), b""))
        return verifier_key(head.origin, genesis.key)


@dataclass(slots=True, kw_only=True)
class _Memory:
    """What is known of one witness: the size it signed last, 0 until it has told."""

    growth: Growth
    size: int = 0


def witness_of(pending: Pending) -> Witness:
    """Whom ``pending`` asks. Raises MalformedError if it asks no witness."""
    if pending.witness is UNSET:
        raise MalformedError("the request is not for a witness")
    try:
        return Witness(key=parse_witness_key(pending.witness), url=pending.url)
    except UsageError as error:
        raise MalformedError(str(error)) from None


def told_size(reply: Reply) -> int | None:
    """The size that a witness says it signed last; None unless ``reply`` is a conflict that states one."""
    match = _SIZE.fullmatch(reply.body)
    if reply.status != 409 or reply.kind != SIZE_TYPE or match is None:
        return None
    size = int(match[1])
    return size if size <= SIZE_MAX else None


def read_cosignature(body: bytes, *, witness: WitnessKey, text: bytes) -> Cosigned:
    """The cosignature of ``witness`` over the head with this ``text`` in its answer; lines of other keys are ignored.

    Raises MalformedError when there is none, or when one that names its key does not hold.
    """
    found: Cosigned | None = None
    for line in split_lines(body):
        try:
            cosignature = parse_cosignature(line)
        except MalformedError:
            # Of another kind, or of nobody we know: not ours to judge.
            continue
        if cosignature.is_by(witness):
            verify_cosignature(cosignature, witness=witness, text=text)
            found = found or Cosigned(witness=witness, line=line, cosignature=cosignature)
    if found is None:
        raise MalformedError(f"the answer holds no cosignature by the key of {witness.name}")
    return found


def keep_cosignature(run: SealStore, seal_index: int, cosigned: Cosigned) -> None:
    """Add the line to the seal in one step, unless the witness has cosigned it already.

    Raises MalformedError when the cosignature is not over the head of that seal, or the seal can hold no more.
    """
    seal = run.read_seal(seal_index)
    verify_cosignature(cosigned.cosignature, witness=cosigned.witness, text=parse_note(seal.note).text)
    if is_cosigned(seal, cosigned.witness):
        return
    lines = [] if seal.cosignatures is UNSET else seal.cosignatures
    if len(lines) >= COSIGNATURES:
        raise MalformedError(f"seal {seal_index} holds {COSIGNATURES} cosignatures and takes no more")
    run.write_seal(msgspec.structs.replace(seal, cosignatures=[*lines, cosigned.line]))


def is_cosigned(seal: Seal, witness: WitnessKey) -> bool:
    """Whether the seal keeps a cosignature of ``witness`` that holds. Raises MalformedError if its note is none."""
    text = parse_note(seal.note).text
    lines = [] if seal.cosignatures is UNSET else seal.cosignatures
    return any(_holds(line, witness, text) for line in lines)


def _holds(line: bytes, witness: WitnessKey, text: bytes) -> bool:
    try:
        verify_cosignature(parse_cosignature(line), witness=witness, text=text)
    except MalformedError:
        return False
    return True
