"""The strict verifier of RFC 3161 timestamps: bytes in, a :class:`Timestamp` or a reason out. PROTOCOL section 8.

No bit of an accepted token can be changed without it being refused. Most bits are under the signature, but CMS
leaves room around it, and each such place is closed:

- framing: one encoding per value (:mod:`polledger.timestamp.der`), no trailing bytes;
- the response around the token: status ``granted`` only, because ``grantedWithMods`` is one bit away and means
  that the answer is to another request than ours; no failure bits; no status text except those in
  :data:`polledger.timestamp.messages.KNOWN_STATUS_TEXTS`;
- versions, and the digest algorithm, which is said twice, have one accepted value;
- unsigned attributes and revocation lists are refused;
- embedded certificates must lead to a given root or be given by the caller, also those the chain does not need.

Reads no clock, file or network.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from polledger.errors import MalformedError, UsageError
from polledger.timestamp import cms
from polledger.timestamp.algorithms import hash_size, verify_signature
from polledger.timestamp.certificates import (
    Certificate,
    find_signer,
    given_certificate,
    read_certificate,
    require_authentic,
    require_named,
    require_timestamping,
    verify_chain,
)
from polledger.timestamp.messages import token_of
from polledger.timestamp.tstinfo import TSTInfo, parse_tst_info

TOKEN_BYTES: Final = 1 << 16
"""Largest response read: real ones have 1.5 to 7 KB."""


class TokenRejected(MalformedError):
    """The bytes are no timestamp over the digest that the caller can trust; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timestamp:
    """What a verified token says. ``gen_time`` is UTC; a missing accuracy is None, not zero."""

    gen_time: datetime
    accuracy: timedelta | None
    policy: str
    serial: int
    nonce: int | None
    hash_name: str
    imprint: bytes
    ordering: bool
    tsa: str
    """Subject of the signer's certificate, RFC 4514."""
    chain: tuple[x509.Certificate, ...]
    """The signer's certificate and what leads from it to the given root, in order; all valid at genTime."""
    signature_hash: str

    @property
    def until(self) -> datetime:
        """The end of the first certificate on the chain to end."""
        return min(certificate.not_valid_after_utc for certificate in self.chain)


def verify_response(
    data: bytes,
    *,
    digest: bytes,
    hash_name: str = "sha256",
    roots: Sequence[x509.Certificate],
    intermediates: Sequence[x509.Certificate] = (),
    nonce: int | None = None,
    policies: Collection[str] = (),
    at: datetime | None = None,
) -> Timestamp:
    """The timestamp that ``data``, a TimeStampResp or a bare token, is over ``digest``.

    Guaranteed: a key certified for time-stamping, by a chain to one of ``roots`` that was valid at genTime, signed
    that ``digest`` existed then. ``nonce`` and ``policies`` are compared when given; genTime may not lie after
    ``at`` when given. Not checked: revocation, and whether the authority's clock was right.

    Raises TokenRejected, and UsageError for arguments that make no sense.
    """
    _check_arguments(digest, hash_name, roots, at)
    try:
        if len(data) > TOKEN_BYTES:
            raise MalformedError(f"{len(data)} bytes, at most {TOKEN_BYTES} are read")
        signed = cms.parse_token(token_of(data))
        info = parse_tst_info(signed.content)
        _check_statement(info, digest=digest, hash_name=hash_name, nonce=nonce, policies=policies, at=at)
        chain = _verify_signer(
            signed,
            info,
            [given_certificate(one) for one in roots],
            [given_certificate(one) for one in intermediates],
        )
    except MalformedError as error:
        raise TokenRejected(str(error)) from None
    return Timestamp(
        gen_time=info.gen_time,
        accuracy=info.accuracy,
        policy=info.policy,
        serial=info.serial,
        nonce=info.nonce,
        hash_name=info.hash_name,
        imprint=info.imprint,
        ordering=info.ordering,
        tsa=chain[0].name(),
        chain=tuple(certificate.parsed for certificate in chain),
        signature_hash=signed.hash_name,
    )


def embedded_certificates(data: bytes) -> list[x509.Certificate]:
    """The certificates in a response or token, unverified: candidates for a chain, never trust.

    Raises TokenRejected when ``data`` is no well-formed token.
    """
    try:
        return [read_certificate(raw).parsed for raw in cms.parse_token(token_of(data)).certificates]
    except MalformedError as error:
        raise TokenRejected(str(error)) from None


def _check_arguments(
    digest: bytes, hash_name: str, roots: Sequence[x509.Certificate], at: datetime | None
) -> None:
    if len(digest) != hash_size(hash_name):
        raise UsageError(f"a {hash_name} digest has {hash_size(hash_name)} bytes, found {len(digest)}")
    if not roots:
        raise UsageError("no root certificate is given: there is nothing to trust")
    if at is not None and at.tzinfo is None:
        raise UsageError("a time needs a time zone")


def _check_statement(
    info: TSTInfo,
    *,
    digest: bytes,
    hash_name: str,
    nonce: int | None,
    policies: Collection[str],
    at: datetime | None,
) -> None:
    if info.hash_name != hash_name:
        raise MalformedError(f"the imprint is a {info.hash_name} digest, expected {hash_name}")
    if info.imprint != digest:
        raise MalformedError(f"the imprint is {info.imprint.hex()}, expected {digest.hex()}")
    if nonce is not None and info.nonce != nonce:
        found = "missing" if info.nonce is None else str(info.nonce)
        raise MalformedError(f"the nonce is {found}, expected {nonce}")
    if policies and info.policy not in policies:
        raise MalformedError(f"the policy is {info.policy}, expected {' or '.join(sorted(policies))}")
    if at is not None and info.gen_time > at:
        raise MalformedError(f"genTime {info.gen_time.isoformat()} lies after {at.isoformat()}")


def _verify_signer(
    signed: cms.SignedData, info: TSTInfo, roots: list[Certificate], intermediates: list[Certificate]
) -> list[Certificate]:
    """The chain of whoever signed, the signer first."""
    embedded = [read_certificate(raw) for raw in signed.certificates]
    candidates = [*embedded, *intermediates, *roots]
    signer = find_signer(
        candidates, issuer=signed.issuer, serial=signed.serial, identifiers=signed.certificate_ids
    )
    require_named(signed.further_ids, candidates=candidates)
    require_timestamping(signer)
    if hashlib.new(signed.hash_name, signed.content).digest() != signed.message_digest:
        raise MalformedError("messageDigest does not match the content")
    # Before the signature: that there is no chain to the roots of one entry of a trust file is known at once.
    chain = verify_chain(signer, candidates=[*embedded, *intermediates], roots=roots, at=info.gen_time)
    verify_signature(
        signer.key,
        signed.algorithm,
        hash_name=signed.hash_name,
        signature=signed.signature,
        message=signed.signed_attributes,
    )
    require_authentic(embedded, known=[*chain, *intermediates, *roots])
    _check_tsa_name(info, signer)
    return chain


def _check_tsa_name(info: TSTInfo, signer: Certificate) -> None:
    """RFC 3161 section 2.4.2: the tsa field, if present, is one of the names in the signer's certificate."""
    if info.tsa is not None and not signer.has_name(info.tsa):
        raise MalformedError("TSTInfo: the tsa field does not name the signer")
