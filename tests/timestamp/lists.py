"""Revocation lists and OCSP responses about the forge's certificates, made with ``cryptography``'s builders."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.timestamp import forge

DAY = timedelta(days=1)


def loaded(party: forge.Party) -> x509.Certificate:
    return x509.load_der_x509_certificate(party.certificate)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A revoked certificate."""

    party: forge.Party
    at: datetime
    reason: x509.ReasonFlags | None = None
    since: datetime | None = None
    """Invalidity date."""

    def build(self) -> x509.RevokedCertificate:
        builder = x509.RevokedCertificateBuilder().serial_number(self.party.serial).revocation_date(self.at)
        if self.reason is not None:
            builder = builder.add_extension(x509.CRLReason(self.reason), critical=False)
        if self.since is not None:
            builder = builder.add_extension(x509.InvalidityDate(self.since), critical=False)
        return builder.build()


def crl(
    issuer: forge.Party,
    *entries: Entry,
    this: datetime,
    following: datetime | None = None,
    key: Any = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    hash_: hashes.HashAlgorithm | None = None,
    pem: bool = False,
) -> bytes:
    """A list of ``issuer`` from ``this`` to ``following`` (a day later); signed by its key unless another is given."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(loaded(issuer).subject)
        .last_update(this)
        .next_update(following or this + DAY)
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(entry.build())
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    made = builder.sign(key or issuer.key, hash_ or hashes.SHA256())
    return made.public_bytes(Encoding.PEM if pem else Encoding.DER)


def response(
    party: forge.Party,
    issuer: forge.Party,
    *,
    this: datetime,
    following: datetime | None = None,
    revoked: Entry | None = None,
    responder: forge.Party | None = None,
    certificates: Sequence[forge.Party] = (),
    unknown: bool = False,
    about: hashes.HashAlgorithm | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """An OCSP response about ``party``, signed by ``issuer`` unless there is a ``responder``; its CertID has SHA-1."""
    status = ocsp.OCSPCertStatus.GOOD
    if revoked is not None:
        status = ocsp.OCSPCertStatus.REVOKED
    if unknown:
        status = ocsp.OCSPCertStatus.UNKNOWN
    signer = responder or issuer
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=loaded(party),
            issuer=loaded(issuer),
            algorithm=about or hashes.SHA1(),
            cert_status=status,
            this_update=this,
            next_update=following,
            revocation_time=revoked.at if revoked else None,
            revocation_reason=revoked.reason if revoked else None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, loaded(signer))
    )
    if certificates:
        builder = builder.certificates([loaded(one) for one in certificates])
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.DER)
