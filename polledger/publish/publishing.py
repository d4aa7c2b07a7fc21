"""Publishing a claim: all that lies beside it, at one place, append-only. docs/decisions/0035.

The place holds the first claim. One that supersedes it goes to ``next/`` below it, and so on: whoever has the address
of a claim finds what took its place, and nothing that was published changes.
"""

from dataclasses import dataclass

from polledger.core.digest import sha256
from polledger.core.dsse import ENVELOPE_LIMITS, parse_envelope
from polledger.core.publicproof import PUBLIC_PROOF_LIMITS, PublicProof, parse_public_proof
from polledger.core.records import TokenRef
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.publish.page import carried_parts, render_page
from polledger.publish.store import Destination
from polledger.store.claimfiles import CLAIM, PROOF, TOKENS, ClaimFiles
from polledger.store.tokens import files_of
from polledger.timestamp.trust import REVOCATION_BYTES
from polledger.verify.claim import ReadClaim, read_claim

PAGE = "index.html"
NEXT = "next/"

PAGE_BYTES = 1 << 29
"""Largest page read, 512 MiB: base64 of the largest claim and proof, and as much again for tokens."""

CHAIN = 1000
"""Claims that supersede each other at one place, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is to be published, every byte of it read."""

    read: ReadClaim
    envelope: bytes
    files: dict[str, bytes]
    """All but the claim, by name."""


def gather(files: ClaimFiles) -> Publication:
    """Read the claim and what lies beside it, and make its page.

    Raises UsageError if it is no claim or has no proof, Unavailable if something it names is missing.
    """
    envelope = files.read()
    proof = files.read_proof()
    if proof is None:
        raise UsageError(f"there is no {PROOF} beside {files.path}: `polledger claim` writes both")
    try:
        read, shown = read_claim(envelope), parse_public_proof(proof)
    except MalformedError as error:
        raise UsageError(f"{files.path}: {error}") from None
    tokens = _tokens(files, shown)
    named = {f"{TOKENS}/{name.hex()}": data for name, data in tokens.items()}
    responses = dict.fromkeys(token.response for token in _references(shown))
    page = render_page(envelope=envelope, proof=proof, tokens=[tokens[name] for name in responses])
    every = {PROOF: proof, **named, **files.read_extras(), PAGE: page}
    return Publication(read=read, envelope=envelope, files=every)


def _tokens(files: ClaimFiles, proof: PublicProof) -> dict[bytes, bytes]:
    names = files_of(_references(proof))
    return {name: files.tokens.get(name, limit=REVOCATION_BYTES) for name in names}


def _references(proof: PublicProof) -> list[TokenRef]:
    return [*(token for seal in proof.seals for token in seal.tokens), *proof.claim]


def publish(publication: Publication, destination: Destination) -> str:
    """Put the claim where it belongs; the folder below the destination, empty for the first claim.

    Doing it again changes nothing and completes what an interruption left out. Raises UsageError if another claim is
    there that this one does not supersede, Unavailable if something cannot be written.
    """
    folder, before = "", None
    for _ in range(CHAIN):
        there = destination.read(f"{folder}{CLAIM}", limit=ENVELOPE_LIMITS.size)
        if there is None or there == publication.envelope:
            _check_follows(publication, before)
            _put(publication, destination, folder)
            return folder
        folder, before = folder + NEXT, there
    raise UsageError(f"{CHAIN} claims lie there already")


def _check_follows(publication: Publication, before: bytes | None) -> None:
    """Whether the claim takes the place of the last one there, signed by the same key."""
    if before is None:
        return
    try:
        envelope = parse_envelope(before)
    except MalformedError as error:
        raise UsageError(f"what is published there is no claim: {error}") from None
    claim = publication.read.claim
    if claim.supersedes != sha256(envelope.payload).hex():
        raise UsageError(
            "another claim is published there, and this one does not supersede it: make it with --supersedes, or "
            "publish it elsewhere"
        )
    if envelope.signature_of(publication.read.key) is None:
        raise UsageError(
            "the claim that is published there was signed by another key: only that key supersedes it"
        )


def _put(publication: Publication, destination: Destination, folder: str) -> None:
    for name, data in publication.files.items():
        if destination.create(f"{folder}{name}", data):
            continue
        if name == PAGE:
            _check_page(destination, f"{folder}{name}", publication)
        else:
            _check_same(destination, f"{folder}{name}", data)
    if not destination.create(f"{folder}{CLAIM}", publication.envelope):
        _check_same(destination, f"{folder}{CLAIM}", publication.envelope)


def _check_page(destination: Destination, name: str, publication: Publication) -> None:
    """The page of another version of polledger may stay where it carries the same claim and the same proof."""
    there = destination.read(name, limit=PAGE_BYTES) or b""
    carried = carried_parts(envelope=publication.envelope, proof=publication.files[PROOF])
    if not all(part in there for part in carried):
        raise Unavailable(
            f"{name} is there already and shows another claim: nothing that was published is overwritten"
        )


def _check_same(destination: Destination, name: str, data: bytes) -> None:
    limit = max(PUBLIC_PROOF_LIMITS.size, ENVELOPE_LIMITS.size)
    if destination.read(name, limit=limit) != data:
        raise Unavailable(f"{name} is there already and differs: nothing that was published is overwritten")
