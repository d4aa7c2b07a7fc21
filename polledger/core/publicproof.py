"""The public proof beside a claim: what anyone may see of a run, and nothing of its payloads. PROTOCOL section 13.

All heads with the names of their tokens, consistency proofs between them, and some records with their inclusion in the
newest head. Small whatever the length of the run: some 400 bytes and a logarithm for each head and record.
"""

from typing import Annotated, Literal

from msgspec import Meta

from polledger.core.encoding import RECORD_LIMITS, Limits, parse
from polledger.core.records import Digest, RunId, Seal, TokenRef, _Struct

PUBLIC_PROOF_LIMITS = Limits(size=1 << 26, depth=8, count=4_000_000)
"""64 MiB: 50,000 seals of one token each, or 20,000 of several."""

PATH_MAX = 64
"""Hashes of one proof, at most: a tree of 2^53 leaves needs 53, a consistency proof one more."""

Path = Annotated[list[Digest], Meta(max_length=PATH_MAX)]


class ProvenRecord(_Struct, frozen=True, kw_only=True):
    """The bytes of a record and its inclusion proof in the newest head; the record itself says at which index."""

    record: Annotated[bytes, Meta(min_length=1, max_length=RECORD_LIMITS.size)]
    path: Path


class PublicProof(_Struct, frozen=True, kw_only=True, tag_field="type", tag="public_proof"):
    """The file ``proof.msgpack``.

    ``consistency[i]`` leads from the head of ``seals[i]`` to that of ``seals[i + 1]``. ``claim`` names the tokens over
    the claim's signature by the genesis key: their imprint is SHA-256 of its bytes. Tokens are named by digest.
    """

    v: Literal[1]
    run: RunId
    seals: Annotated[list[Seal], Meta(min_length=1, max_length=100_000)]
    consistency: Annotated[list[Path], Meta(max_length=100_000)]
    records: Annotated[list[ProvenRecord], Meta(min_length=1, max_length=10_000)]
    claim: Annotated[list[TokenRef], Meta(max_length=1000)]

    def __post_init__(self) -> None:
        if len(self.consistency) != len(self.seals) - 1:
            raise ValueError("between two heads stands one consistency proof")


def parse_public_proof(data: bytes) -> PublicProof:
    """The proof that ``data`` encodes. Raises MalformedError; no signature, inclusion or consistency is checked."""
    return parse(data, PublicProof, limits=PUBLIC_PROOF_LIMITS)
