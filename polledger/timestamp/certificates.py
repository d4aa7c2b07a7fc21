"""Certificates of a token: reading them strictly, judging the signer, building the chain. PROTOCOL section 8.

Path validation (signatures, validity, CA flag, path length, name constraints, unknown critical extensions) is
``cryptography.x509.verification``; extension policies add what time-stamping needs. It refuses Ed25519 keys in
CA certificates, and so do we. Revocation is not checked.
"""

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from polledger.errors import MalformedError
from polledger.timestamp import der
from polledger.timestamp.algorithms import require_strong
from polledger.timestamp.cms import CertificateId

# What is odd about a certificate is refused here or is none of our business: nothing in a hostile one may write to
# standard error, or raise where Python is told to make errors of warnings.
warnings.filterwarnings("ignore", category=UserWarning, module=r"polledger\.timestamp\.")

KEPT = 512
"""How many certificates, and results about exactly these bytes, are remembered: a trust file with every public
authority has about a hundred certificates. The oldest are forgotten first, which changes time and nothing else."""

PATH_BYTES = 1 << 18
"""Most bytes of certificates in a question about a chain that is remembered: every public root at once. A run may
store 2 MiB beside each of its tokens, and what is remembered holds on to it."""

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What ``cryptography`` raises for certificates and revocation data that it cannot take apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """An X.509 certificate whose outer frame is strict DER. ``issuer`` and ``subject`` are raw Names.

    Equal bytes are equal certificates: what is kept about one (see :data:`KEPT`) goes by them.
    """

    raw: bytes
    parsed: x509.Certificate = field(compare=False)
    issuer: bytes = field(compare=False)
    subject: bytes = field(compare=False)
    serial: int = field(compare=False)
    not_before: datetime = field(compare=False)
    not_after: datetime = field(compare=False)
    key: object = field(compare=False)
    label: str = field(compare=False)

    def fingerprint(self, hash_name: str) -> bytes:
        # SHA-1 occurs in ESSCertID version 1 only, beside the signature that covers it.
        return hashlib.new(hash_name, self.raw, usedforsecurity=False).digest()

    def has_name(self, general_name: bytes) -> bool:
        """True if the raw GeneralName is the subject or one of the subject's alternative names."""
        reader = der.Reader(general_name, "general name")
        field = reader.next()
        reader.end()
        if field.tag == der.context(4):
            return _comparable(field.content) == _comparable(self.subject)
        for extension in self.extensions():
            if isinstance(extension.value, x509.SubjectAlternativeName):
                names = der.read_one(extension.value.public_bytes(), der.SEQUENCE, "alternative names").all()
                return general_name in [name.raw for name in names]
        return False

    def extensions(self) -> x509.Extensions:
        """The extensions, decoded anew: ``parsed`` would keep them, at up to sixty times their bytes."""
        return x509.load_der_x509_certificate(self.raw).extensions

    def name(self) -> str:
        """The subject as RFC 4514 text, for people."""
        return self.label or "(no name)"

    def valid(self, second: datetime) -> bool:
        """True from notBefore to notAfter, both included; ``second`` is a whole one (RFC 5280 section 4.1.2.5)."""
        return self.not_before <= second <= self.not_after


def _comparable(name: bytes) -> list[list[tuple[bytes, bytes]]]:
    """A raw Name without its string types: software that copies a name into a token may choose other ones."""
    parts = []
    for relative in der.read_one(name, der.SEQUENCE, "name").all():
        reader = der.Reader(relative.content, "name")
        attributes = [der.Reader(attribute.content, "name") for attribute in reader.all()]
        parts.append(sorted((attribute.next().raw, attribute.next().content) for attribute in attributes))
    return parts


@lru_cache(maxsize=KEPT)
def read_certificate(raw: bytes) -> Certificate:
    """The certificate that ``raw`` is. Raises MalformedError.

    Everything outside the signed part has one encoding only: the outer algorithm repeats the inner one byte for
    byte and the signature holds whole octets, so that no bit can change unnoticed by whoever checks the signature.
    """
    outer = der.read_one(raw, der.SEQUENCE, "certificate")
    signed = outer.take(der.SEQUENCE)
    algorithm = outer.take(der.SEQUENCE)
    der.read_octets_of_bits(outer.take(der.BIT_STRING), "certificate signature")
    outer.end()
    reader = der.Reader(signed.content, "certificate")
    reader.take(der.context(0))
    serial = der.read_integer(reader.take(der.INTEGER), "certificate serial number")
    if serial <= 0:
        raise MalformedError("certificate: the serial number is not positive")
    if reader.take(der.SEQUENCE).raw != algorithm.raw:
        raise MalformedError("certificate: two different signature algorithms")
    issuer = reader.take(der.SEQUENCE).raw
    reader.take(der.SEQUENCE)
    subject = reader.take(der.SEQUENCE).raw
    try:
        parsed = x509.load_der_x509_certificate(raw)
        found = Certificate(
            raw=raw,
            parsed=parsed,
            issuer=issuer,
            subject=subject,
            serial=serial,
            not_before=parsed.not_valid_before_utc,
            not_after=parsed.not_valid_after_utc,
            key=parsed.public_key(),
            label=parsed.subject.rfc4514_string(),
        )
        # Decoded lazily otherwise: a certificate that exists is one that can be used.
        found.extensions()
        return found
    except UNREADABLE as error:
        raise MalformedError(f"certificate: cannot be read: {error}") from None


@lru_cache(maxsize=KEPT)
def given_certificate(certificate: x509.Certificate) -> Certificate:
    """:func:`read_certificate` of a certificate that the caller holds."""
    return read_certificate(certificate.public_bytes(Encoding.DER))


def read_pem(data: bytes) -> list[x509.Certificate]:
    """The certificates in a PEM file, each one fit for a chain. Raises MalformedError; there is at least one."""
    try:
        found = x509.load_pem_x509_certificates(data)
    except UNREADABLE:
        raise MalformedError("holds no certificates in PEM form") from None
    return [read_certificate(one.public_bytes(Encoding.DER)).parsed for one in found]


def find_signer(
    candidates: Iterable[Certificate], *, issuer: bytes, serial: int, identifiers: Sequence[CertificateId]
) -> Certificate:
    """The candidate that the signer info names and that every ESSCertID matches. Raises MalformedError."""
    named = [
        certificate
        for certificate in candidates
        if (certificate.issuer, certificate.serial) == (issuer, serial)
    ]
    if not named:
        raise MalformedError("the signer's certificate is neither in the token nor given")
    for certificate in named:
        if all(_matches(certificate, identifier) for identifier in identifiers):
            return certificate
    raise MalformedError("ESSCertID does not match the signer's certificate")


def require_named(identifiers: Iterable[CertificateId], *, candidates: Sequence[Certificate]) -> None:
    """Raise MalformedError unless each of the further ESSCertIDs is that of a candidate (RFC 5035 section 5.4)."""
    for identifier in identifiers:
        if not any(_matches(candidate, identifier) for candidate in candidates):
            raise MalformedError(
                "ESSCertID names a certificate that is neither in the token nor given; "
                "if it belongs to the authority, give it as an intermediate"
            )


def _matches(certificate: Certificate, identifier: CertificateId) -> bool:
    return (
        certificate.fingerprint(identifier.hash_name) == identifier.digest
        and identifier.issuer in (None, certificate.issuer)
        and identifier.serial in (None, certificate.serial)
    )


@lru_cache(maxsize=KEPT)
def require_timestamping(signer: Certificate) -> None:
    """Raise MalformedError unless the certificate is for time-stamping and nothing else (RFC 3161 section 2.3)."""
    extensions = signer.extensions()
    try:
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        raise MalformedError("the signer's certificate has no extended key usage") from None
    if not usage.critical:
        raise MalformedError("the extended key usage of the signer's certificate is not critical")
    if list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise MalformedError("the extended key usage of the signer's certificate is not exactly timeStamping")
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise MalformedError("the signer's certificate is that of a certificate authority")
        if isinstance(value, x509.KeyUsage) and (
            value.key_cert_sign or not (value.digital_signature or value.content_commitment)
        ):
            raise MalformedError(
                "the key usage of the signer's certificate does not allow signing timestamps"
            )


def verify_chain(
    signer: Certificate,
    *,
    candidates: Sequence[Certificate],
    roots: Sequence[Certificate],
    at: datetime,
) -> list[Certificate]:
    """The certificates of a chain from the signer to one of ``roots`` that was valid at the time ``at``, in order.

    Raises MalformedError if there is none. ``candidates`` may be on it and carry no trust. Every key on it,
    the root's included, is of an accepted kind and size; signatures with SHA-1 do not count.
    """
    second = at.replace(microsecond=0)
    valid = tuple([one.valid(second) for one in (signer, *candidates, *roots)])
    path = _Path(signer=signer, candidates=tuple(candidates), roots=tuple(roots), valid=valid, at=second)
    size = sum(len(one.raw) for one in (signer, *candidates, *roots))
    found = _find_chain(path) if size <= PATH_BYTES else _find_chain.__wrapped__(path)
    if isinstance(found, str):
        raise MalformedError(found)
    return list(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """A question about a chain. The time enters only by which of the certificates are valid then: two questions
    that differ in nothing else have one answer."""

    signer: Certificate
    candidates: tuple[Certificate, ...]
    roots: tuple[Certificate, ...]
    valid: tuple[bool, ...]
    at: datetime = field(compare=False)


@lru_cache(maxsize=KEPT)
def _find_chain(path: _Path) -> tuple[Certificate, ...] | str:
    """The chain, or why there is none."""
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store([root.parsed for root in path.roots]))
        .time(path.at.astimezone(UTC).replace(tzinfo=None))
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=_SIGNER_POLICY)
        .build_client_verifier()
    )
    given = {one.parsed: one for one in (path.signer, *path.candidates, *path.roots)}
    try:
        chain = verifier.verify(path.signer.parsed, [one.parsed for one in path.candidates]).chain
        for certificate in chain:
            require_strong(certificate.public_key())
    except verification.VerificationError as error:
        return f"no chain from the signer's certificate to a given root at genTime: {error}"
    except MalformedError as error:
        return str(error)
    return tuple(given[certificate] for certificate in chain)


def require_authentic(certificates: Iterable[Certificate], *, known: Iterable[Certificate]) -> None:
    """Raise MalformedError unless every certificate is a known one or was issued, directly or not, by a known one.

    Certificates in a token lie outside its signature. Those that the chain does not need would otherwise be bytes
    that anybody can alter: here each is either given by the caller, or on the chain, or signed by one that is.
    """
    accepted = list(known)
    raws = {certificate.raw for certificate in accepted}
    waiting = [certificate for certificate in certificates if certificate.raw not in raws]
    while waiting:
        issued = [one for one in waiting if any(is_issued(one, by=other) for other in accepted)]
        if not issued:
            raise MalformedError(
                f"the token carries a certificate that leads to no given root: {waiting[0].name()}; "
                "if it belongs to the authority, give it as an intermediate"
            )
        accepted += issued
        waiting = [one for one in waiting if one not in issued]


@lru_cache(maxsize=KEPT)
def is_issued(certificate: Certificate, *, by: Certificate) -> bool:
    """Whether ``by`` names and signed it; nothing else about the two is checked."""
    try:
        certificate.parsed.verify_directly_issued_by(by.parsed)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _require_ca_key_usage(_: object, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("the key usage of a CA certificate does not allow signing certificates")


def _require_ca_purpose(_: object, __: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
    allowed = {ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if usage is not None and allowed.isdisjoint(usage):
        raise ValueError("the extended key usage of a CA certificate does not include timeStamping")


def _policies() -> tuple[Any, Any]:
    agnostic = verification.Criticality.AGNOSTIC
    everything = verification.ExtensionPolicy.permit_all()
    authority = (
        everything.require_present(x509.BasicConstraints, agnostic, None)
        .may_be_present(x509.KeyUsage, agnostic, _require_ca_key_usage)
        .may_be_present(x509.ExtendedKeyUsage, agnostic, _require_ca_purpose)
    )
    return authority, everything


_CA_POLICY, _SIGNER_POLICY = _policies()
