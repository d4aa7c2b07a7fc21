"""What a verifier asks of a prover whose run it does not have, and how a prover refuses. PROTOCOL section 11.

The verifier keeps the file of its challenge: a sample is worth something only to whoever chose the nonce. A sketch
challenge asks for sketches alone; the sample is drawn in a second challenge, which names their digest.
"""

from typing import Annotated, Literal, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from polledger.core.digest import sha256
from polledger.core.encoding import Limits, encode, from_real, parse
from polledger.core.head import Head, parse_note
from polledger.core.records import NOTE_BYTES, Count, Digest, Positive, Real, RunId, Text, _Struct
from polledger.errors import MalformedError

CHALLENGE_LIMITS = Limits(size=1 << 20, depth=4, count=200_000)
"""A note and two lists of intervals: those that screening flagged, a tenth of them at most by the default policy."""

_CHALLENGE_LABEL = b"polledger/challenge/1\x00"
_REFUSAL_LABEL = b"polledger/refusal/1\x00"

Nonce: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=64)]
_Signature: TypeAlias = Annotated[bytes, Meta(min_length=64, max_length=64)]
Moment: TypeAlias = Annotated[int, Meta(ge=0, le=253_402_300_799)]
"""Seconds since 1970, by the clock of whoever wrote it."""


class Challenge(_Struct, frozen=True, kw_only=True, tag_field="type", tag="challenge"):
    """A question: for ``count`` intervals, for ``odds`` against ``bogus``, or for sketches under ``seed`` alone."""

    v: Literal[1]
    run: RunId
    note: Annotated[bytes, Meta(max_length=NOTE_BYTES)]
    """The signed note of the head that the sample is drawn under, as the verifier got it."""
    nonce: Nonce
    policy: Digest
    """Digest of the verifier's policy: it goes into the seed of the sample."""
    made: Moment
    deadline: Moment | UnsetType = UNSET
    count: Positive | UnsetType = UNSET
    odds: Real | UnsetType = UNSET
    bogus: Real | UnsetType = UNSET
    """Share of bogus intervals that a sample of ``odds`` finds."""
    intervals: Positive | UnsetType = UNSET
    """How many intervals there are under the head, where the verifier knows."""
    seed: Nonce | UnsetType = UNSET
    """Seed of the sketches."""
    answer: Digest | UnsetType = UNSET
    """SHA-256 of the sketches that were answered before this challenge was made."""
    top: Annotated[list[Count], Meta(max_length=50_000)] | UnsetType = UNSET
    flagged: Annotated[list[Count], Meta(max_length=50_000)] | UnsetType = UNSET
    key: Digest | UnsetType = UNSET
    """Raw Ed25519 public key of the verifier."""
    signature: _Signature | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.odds is UNSET) != (self.bogus is UNSET):
            raise ValueError("odds are against a share of bogus intervals: both or neither")
        if self.odds is not UNSET and self.bogus is not UNSET:
            if not 0 < from_real(self.odds) < 1 or not 0 < from_real(self.bogus) <= 1:
                raise ValueError("odds and bogus are shares")
            if self.count is not UNSET:
                raise ValueError("a sample is asked for by number or by odds, not by both")
        if (self.seed is UNSET) != (self.answer is UNSET) and self.asks_sample:
            raise ValueError("a sample is drawn after the sketches were answered")
        if not self.asks_sample and (self.seed is UNSET or self.answer is not UNSET):
            raise ValueError("a challenge asks for sketches or for a sample")
        if self.answer is UNSET and (self.top is not UNSET or self.flagged is not UNSET):
            raise ValueError("top and flagged intervals come from sketches")
        if (self.key is UNSET) != (self.signature is UNSET):
            raise ValueError("a signature and its key go together")

    @property
    def asks_sample(self) -> bool:
        """False for a challenge that asks for sketches alone."""
        return self.count is not UNSET or self.odds is not UNSET

    @property
    def head(self) -> Head:
        """The head of ``note``; its signature is not checked. Raises MalformedError."""
        return parse_note(self.note).head

    @property
    def added(self) -> set[int]:
        """Intervals that are opened besides those that are drawn."""
        top = [] if self.top is UNSET else self.top
        flagged = [] if self.flagged is UNSET else self.flagged
        return {*top, *flagged}


class Refusal(_Struct, frozen=True, kw_only=True, tag_field="type", tag="refusal"):
    """A prover's answer that there will be none, and why."""

    v: Literal[1]
    run: RunId
    challenge: Digest
    """SHA-256 of the challenge's file."""
    reason: Text
    made: Moment
    key: Digest | UnsetType = UNSET
    signature: _Signature | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.key is UNSET) != (self.signature is UNSET):
            raise ValueError("a signature and its key go together")


def parse_challenge(data: bytes) -> Challenge:
    """The challenge that ``data`` encodes.

    Raises MalformedError, also if it is signed and the signature does not hold, or its note is of another run.
    """
    challenge: Challenge = parse(data, Challenge, limits=CHALLENGE_LIMITS)
    if challenge.head.run != challenge.run:
        raise MalformedError("the challenge names one run and the head of another")
    _check_signature(challenge, _CHALLENGE_LABEL, "the challenge")
    return challenge


def parse_refusal(data: bytes) -> Refusal:
    """The refusal that ``data`` encodes. Raises MalformedError, also if a signature in it does not hold."""
    refusal: Refusal = parse(data, Refusal, limits=CHALLENGE_LIMITS)
    _check_signature(refusal, _REFUSAL_LABEL, "the refusal")
    return refusal


def sign_challenge(challenge: Challenge, key: Ed25519PrivateKey) -> Challenge:
    """``challenge`` with the key and signature of ``key``."""
    bare = replace(challenge, key=UNSET, signature=UNSET)
    return replace(bare, key=_raw(key), signature=key.sign(_signed(bare, _CHALLENGE_LABEL)))


def sign_refusal(refusal: Refusal, key: Ed25519PrivateKey) -> Refusal:
    """``refusal`` with the key and signature of ``key``."""
    bare = replace(refusal, key=UNSET, signature=UNSET)
    return replace(bare, key=_raw(key), signature=key.sign(_signed(bare, _REFUSAL_LABEL)))


def _raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _signed(bare: Challenge | Refusal, label: bytes) -> bytes:
    return label + sha256(encode(bare))


def _check_signature(value: Challenge | Refusal, label: bytes, what: str) -> None:
    if value.key is UNSET or value.signature is UNSET:
        return
    bare = replace(value, key=UNSET, signature=UNSET)
    try:
        Ed25519PublicKey.from_public_bytes(value.key).verify(value.signature, _signed(bare, label))
    except InvalidSignature:
        raise MalformedError(
            f"{what} is signed by {value.key.hex()}, and the signature does not hold"
        ) from None
