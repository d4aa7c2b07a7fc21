"""Renewals: one token over every earlier token, so that old evidence outlives its certificates. PROTOCOL section 8.

A renewal stamps a *statement*: the root of a tree (RFC 9162) whose entries are every head, every token over a head
and every token of an earlier renewal, each by the digests of all its bytes; and the revocation data known by then.
One token so covers a run of any length, and 32 bytes an entry show that a single token is among them. As RFC 4998
renews time-stamps; the hash of the whole protocol, SHA-256, is not renewed by this.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from polledger.core.digest import DIGEST_BYTES, sha256
from polledger.core.encoding import SEAL_LIMITS, Limits, encode_unchecked, parse
from polledger.core.merkle import Frontier, leaf_hash, root
from polledger.core.records import Count, Digest, RunId, Seal, TokenRef, _Struct
from polledger.errors import MalformedError

ENTRIES_MAX = 1_000_000
"""Most entries of one renewal: 32 MB of list, room for 10,000 seals of 50 tokens with renewals of their own."""

REVOCATION_MAX = 200
"""Most pieces of revocation data that one renewal adds: a few for each certificate of each authority."""

STATEMENT_BYTES = 1 << 13
"""Longest statement: some 150 bytes and 34 for each piece of revocation data."""

STATEMENT_LIMITS = Limits(size=STATEMENT_BYTES, depth=3, count=256)

_IMPRINT = b"polledger/renewal/1\0"


class Covered(_Struct, frozen=True, kw_only=True, tag_field="type", tag="covered"):
    """One entry: a token over the digest ``over``, with all that is kept of it; or, without ``token``, the digest.

    ``over`` is the digest of a head, or the imprint of an earlier renewal.
    """

    v: Literal[1]
    over: Digest
    token: TokenRef | UnsetType = UNSET

    def entry(self) -> bytes:
        """SHA-256 of the canonical encoding."""
        # Has been through the gate already.
        return sha256(encode_unchecked(self))


class Statement(_Struct, frozen=True, kw_only=True, tag_field="type", tag="statement"):
    """What a renewal stamps. ``previous``: imprint of the renewal before it, 32 zero bytes in the first one."""

    v: Literal[1]
    run: RunId
    index: Count
    previous: Digest
    size: Annotated[int, Meta(ge=1, le=ENTRIES_MAX)]
    """How many entries there are."""
    root: Digest
    """Root of their tree, and the name of the object that lists them."""
    revocation: Annotated[list[Digest], Meta(min_length=1, max_length=REVOCATION_MAX)] | UnsetType = UNSET
    """CRLs and OCSP responses, ascending."""

    def __post_init__(self) -> None:
        names = [] if self.revocation is UNSET else self.revocation
        if sorted(set(names)) != names:
            raise ValueError("revocation data are not ascending")


class Renewal(_Struct, frozen=True, kw_only=True, tag_field="type", tag="renewal"):
    """One file under renewals/: a statement and the tokens over it. Before the first token there is no file."""

    v: Literal[1]
    index: Count
    statement: Annotated[bytes, Meta(max_length=STATEMENT_BYTES)]
    tokens: Annotated[list[TokenRef], Meta(min_length=1, max_length=1000)]


def gapless(numbers: Sequence[int]) -> list[int]:
    """``numbers`` and those that are missing between them, bounded: a file name can state any number."""
    last = min(max(numbers, default=-1), 2 * len(numbers))
    return sorted({*numbers, *range(last)})


def parse_renewal(data: bytes) -> Renewal:
    """The renewal that ``data`` encodes. Raises MalformedError; does not look into statement or tokens."""
    return parse(data, Renewal, limits=SEAL_LIMITS)


def parse_statement(data: bytes) -> Statement:
    """The statement that ``data`` encodes. Raises MalformedError."""
    return parse(data, Statement, limits=STATEMENT_LIMITS)


def imprint(statement: bytes) -> bytes:
    """What an authority stamps: SHA-256("polledger/renewal/1" ‖ 0 ‖ encoded statement)."""
    return sha256(_IMPRINT + statement)


def tokens_over(digest: bytes, tokens: Iterable[TokenRef]) -> Iterator[bytes]:
    """The entries of ``tokens``, all of them over ``digest``."""
    return (Covered(v=1, over=digest, token=token).entry() for token in tokens)


def seal_entries(digest: bytes, seal: Seal) -> Iterator[bytes]:
    """The entries of a seal whose head has the digest ``digest``: the head, then its tokens in order."""
    yield Covered(v=1, over=digest).entry()
    yield from tokens_over(digest, seal.tokens)


def make_statement(
    *, run: bytes, index: int, previous: bytes, entries: Iterable[bytes], revocation: Iterable[bytes] = ()
) -> Statement:
    """The statement over ``entries``, in this order."""
    listed, names = list(entries), sorted(set(revocation))
    return Statement(
        v=1,
        run=run,
        index=index,
        previous=previous,
        size=len(listed),
        root=root([leaf_hash(entry) for entry in listed]),
        revocation=names or UNSET,
    )


def parse_entries(
    data: bytes | memoryview, statement: Statement, *, wanted: Container[bytes]
) -> frozenset[bytes]:
    """Those of the entries listed in ``data`` that are ``wanted``; however long the list, no others are kept.

    Raises MalformedError unless the list is the one that ``statement`` names.
    """
    if len(data) != statement.size * DIGEST_BYTES:
        raise MalformedError(f"the list of a renewal has {len(data)} bytes, not {statement.size} entries")
    tree, found = Frontier(), set[bytes]()
    for start in range(0, len(data), DIGEST_BYTES):
        entry = bytes(data[start : start + DIGEST_BYTES])
        tree.append(leaf_hash(entry))
        if entry in wanted:
            found.add(entry)
    if tree.root() != statement.root:
        raise MalformedError("the list of a renewal is not the one whose root was stamped")
    return frozenset(found)
