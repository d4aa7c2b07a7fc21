"""CRLs and OCSP responses that are at hand: read, authenticated, and asked about the certificates of a token.

Nothing is fetched. Only what the certificate's issuer signed counts, itself or by a responder it certified for that.
What a revocation means for a token is RFC 3161 section 4: one that names a harmless reason leaves earlier tokens as
they were; any other one, and one without a reason, says that the key may have been another's, so that a token counts
only if something else shows that it existed before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from polledger.core.moment import utc_text
from polledger.errors import MalformedError, UsageError
from polledger.timestamp.algorithms import Algorithm, verify_signature
from polledger.timestamp.certificates import UNREADABLE
from polledger.timestamp.trust import REVOCATION_BYTES, Trust

HARMLESS: Final = frozenset({
    x509.ReasonFlags.unspecified,
    x509.ReasonFlags.affiliation_changed,
    x509.ReasonFlags.superseded,
    x509.ReasonFlags.cessation_of_operation,
})  # fmt: skip
"""Reasons that say the key was not compromised (RFC 3161 section 4, number 1). They have to be stated."""

_HASHES: Final = ("sha256", "sha384", "sha512")
_INSTANT = timedelta(microseconds=1)

E = TypeVar("E", bound=x509.ExtensionType)

Parsed: TypeAlias = x509.CertificateRevocationList | ocsp.OCSPResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """A certificate is revoked from ``at`` on. ``reason`` is None where none is stated."""

    at: datetime
    reason: x509.ReasonFlags | None

    @property
    def harmless(self) -> bool:
        """Tokens from before the revocation stay what they were."""
        return self.reason in HARMLESS

    def __str__(self) -> str:
        return f"{self.reason.value if self.reason else 'no reason stated'}, {utc_text(self.at)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What one CRL or response says about one certificate: ``revoked``, or None for good."""

    this_update: datetime
    next_update: datetime | None
    revoked: Revoked | None

    def speaks_for(self, moment: datetime, certificate: x509.Certificate) -> bool:
        """Whether a revocation by ``moment`` would be in it. Past its end a certificate may be left out of lists."""
        if self.this_update > certificate.not_valid_after_utc:
            return False
        return self.this_update >= moment or (self.next_update is not None and moment <= self.next_update)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the data at hand say about a token. ``rejected``: why it counts for nothing, empty if it does not say so.

    ``before``: the token has to be shown to have existed by then, and ``why``. ``unchecked``: the certificates that
    nothing authentic speaks for at genTime, by name.
    """

    rejected: str = ""
    before: datetime | None = None
    why: str = ""
    unchecked: tuple[str, ...] = ()


def read_revocation(data: bytes) -> list[Parsed]:
    """The CRLs (DER, or PEM with one or more) or the OCSP response (DER) in ``data``. Raises MalformedError.

    Nothing is authenticated.
    """
    if len(data) > REVOCATION_BYTES:
        raise MalformedError(f"{len(data)} bytes, at most {REVOCATION_BYTES} are read")
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return [_usable_list(x509.load_pem_x509_crl(block)) for block in _blocks(data)]
        return [_usable_response(ocsp.load_der_ocsp_response(data)) if _is_response(data) else
                _usable_list(x509.load_der_x509_crl(data))]  # fmt: skip
    except UNREADABLE as error:
        raise MalformedError(f"neither a CRL nor an OCSP response: {error}") from None


def _blocks(data: bytes) -> list[bytes]:
    end = b"-----END X509 CRL-----"
    return [block + end for block in data.split(end) if block.strip()]


def _is_response(data: bytes) -> bool:
    """An OCSPResponse begins with an ENUMERATED, a CertificateList with a SEQUENCE, after the outer header."""
    if len(data) < 2 or data[0] != 0x30:
        raise ValueError("not DER")
    start = 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)
    return data[start : start + 1] == b"\x0a"


def _usable_list(crl: x509.CertificateRevocationList) -> x509.CertificateRevocationList:
    # Decoded lazily otherwise: what exists can be used.
    _ = crl.extensions, crl.last_update_utc, crl.next_update_utc, crl.issuer
    return crl


def _usable_response(response: ocsp.OCSPResponse) -> ocsp.OCSPResponse:
    if response.response_status != ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise ValueError(f"the responder answered {response.response_status.name}")
    if len(list(response.responses)) != 1:
        raise ValueError("it does not speak of exactly one certificate")
    _ = response.extensions, response.single_extensions, response.produced_at_utc, response.certificates
    return response


def status_of(data: Parsed, certificate: x509.Certificate, issuer: x509.Certificate) -> Status | None:
    """What ``data`` says about ``certificate``, which ``issuer`` issued; None if it speaks of others.

    Raises MalformedError if it claims to speak of it, and its signature, signer or scope is not acceptable.
    """
    try:
        if isinstance(data, x509.CertificateRevocationList):
            return _status_in_list(data, certificate, issuer)
        return _status_in_response(data, certificate, issuer)
    except UNREADABLE as error:
        raise MalformedError(f"cannot be used: {error}") from None


def _status_in_list(
    crl: x509.CertificateRevocationList, certificate: x509.Certificate, issuer: x509.Certificate
) -> Status | None:
    if crl.issuer != issuer.subject or not _in_scope(crl, certificate):
        return None
    usage = _extension(issuer.extensions, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        raise MalformedError("its issuer's certificate does not allow signing revocation lists")
    _require_hash(crl.signature_hash_algorithm)
    if not crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]
        raise MalformedError("its signature is not its issuer's")
    entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
    revoked = None
    if entry is not None:
        reason = _extension(entry.extensions, x509.CRLReason)
        revoked = _revoked(entry.revocation_date_utc, reason.reason if reason else None, entry.extensions)
    return Status(this_update=crl.last_update_utc, next_update=crl.next_update_utc, revoked=revoked)


def _in_scope(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    """Whether a complete list for ``certificate``. Raises MalformedError for kinds of list that are not read."""
    scope = _extension(crl.extensions, x509.IssuingDistributionPoint)
    known = (x509.IssuingDistributionPoint,)
    # What a delta list leaves out is not good, whether or not it is marked critical as it must be.
    if _extension(crl.extensions, x509.DeltaCRLIndicator) is not None or any(
        one.critical and not isinstance(one.value, known) for one in crl.extensions
    ):
        raise MalformedError("a delta list, or a critical extension that is not known")
    if scope is None:
        return True
    partial = scope.only_some_reasons or scope.only_contains_attribute_certs or scope.relative_name
    if scope.indirect_crl or partial:
        raise MalformedError("an indirect or partial list")
    basic = _extension(certificate.extensions, x509.BasicConstraints)
    authority = basic is not None and basic.ca
    if (scope.only_contains_user_certs and authority) or (scope.only_contains_ca_certs and not authority):
        return False
    return scope.full_name is None or bool(set(scope.full_name) & _distribution_points(certificate))


def _distribution_points(certificate: x509.Certificate) -> set[x509.GeneralName]:
    points = _extension(certificate.extensions, x509.CRLDistributionPoints)
    return {name for point in points or () for name in point.full_name or ()}


def _status_in_response(
    response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> Status | None:
    if not _names(response, certificate, issuer):
        return None
    if any(extension.critical for extension in (*response.extensions, *response.single_extensions)):
        raise MalformedError("a critical extension that is not known")
    _require_responder(response, issuer)
    revoked = None
    if response.certificate_status == ocsp.OCSPCertStatus.UNKNOWN:
        return None
    if response.certificate_status == ocsp.OCSPCertStatus.REVOKED:
        when = response.revocation_time_utc
        if when is None:
            raise MalformedError("a revocation without a time")
        revoked = _revoked(when, response.revocation_reason, response.single_extensions)
    return Status(this_update=response.this_update_utc, next_update=response.next_update_utc, revoked=revoked)


def _names(response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the response's CertID is that of ``certificate``; its hash only identifies, so SHA-1 will do."""
    if response.serial_number != certificate.serial_number:
        return False
    # The builder of requests is what computes a CertID.
    request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, response.hash_algorithm).build()
    return (request.issuer_name_hash, request.issuer_key_hash) == (
        response.issuer_name_hash,
        response.issuer_key_hash,
    )


def _require_responder(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> None:
    """Raise MalformedError unless the issuer signed the response, or a responder that the issuer certified."""
    name = _require_hash(response.signature_hash_algorithm)
    algorithm = Algorithm(response.signature_algorithm_oid.dotted_string, b"")
    signers = [issuer, *(one for one in response.certificates if _may_respond(one, issuer, response))]
    for signer in signers:
        try:
            verify_signature(
                signer.public_key(),
                algorithm,
                hash_name=name,
                signature=response.signature,
                message=response.tbs_response_bytes,
            )
        except MalformedError:
            continue
        return
    raise MalformedError("it is signed neither by the issuer nor by a responder certified by it")


def _may_respond(candidate: x509.Certificate, issuer: x509.Certificate, response: ocsp.OCSPResponse) -> bool:
    try:
        candidate.verify_directly_issued_by(issuer)
        _require_hash(candidate.signature_hash_algorithm)
        usage = _extension(candidate.extensions, x509.ExtendedKeyUsage)
    except (*UNREADABLE, InvalidSignature, MalformedError):
        return False
    valid = candidate.not_valid_before_utc <= response.produced_at_utc <= candidate.not_valid_after_utc
    return valid and usage is not None and ExtendedKeyUsageOID.OCSP_SIGNING in usage


def _revoked(at: datetime, reason: x509.ReasonFlags | None, extensions: x509.Extensions) -> Revoked:
    since = _extension(extensions, x509.InvalidityDate)
    return Revoked(at=min(at, since.invalidity_date_utc) if since else at, reason=reason)


def _require_hash(algorithm: hashes.HashAlgorithm | None) -> str:
    if algorithm is None or algorithm.name not in _HASHES:
        raise MalformedError("its signature uses an algorithm that is not accepted")
    return algorithm.name


def _extension(extensions: x509.Extensions, kind: type[E]) -> E | None:
    found = (extension.value for extension in extensions)
    return next((value for value in found if isinstance(value, kind)), None)


@dataclass(slots=True)
class RevocationPool:
    """All revocation data of one verification, each asked once about each certificate.

    ``problems`` maps the label of what cannot be used to the reason; ``used`` holds the labels of what spoke.
    """

    data: list[tuple[str, Parsed]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    """Labels of the verifier's own files, which may be about other certificates."""
    stored: int = 0
    """Bytes of the data that lay in the run."""
    _known: dict[tuple[x509.Certificate, x509.Certificate], list[Status]] = field(default_factory=dict)

    def add(self, label: str, data: bytes) -> None:
        """Read ``data``; what it cannot be read for is a problem."""
        try:
            self.data += [(label, parsed) for parsed in read_revocation(data)]
        except MalformedError as error:
            self.problems[label] = str(error)

    def unused(self) -> list[str]:
        """Labels of stored data that spoke of no certificate that was asked about."""
        labels = dict.fromkeys(label for label, _ in self.data)
        return [label for label in labels if label not in self.used | self.own | self.problems.keys()]

    def check(self, chain: Sequence[x509.Certificate], *, gen_time: datetime, now: datetime) -> Outcome:
        """What the data say about a token of ``gen_time`` whose certificates are ``chain``, the signer first.

        Data from after ``now`` count for nothing. The last certificate is the root: its owner answers for it.
        """
        before: datetime | None = None
        why, unchecked = "", []
        for certificate, issuer in pairwise(chain):
            name = certificate.subject.rfc4514_string()
            statuses = [one for one in self._statuses(certificate, issuer) if one.this_update <= now]
            for revoked in (one.revoked for one in statuses if one.revoked is not None):
                if revoked.at <= gen_time:
                    return Outcome(
                        rejected=f"the certificate {name!r} was revoked before genTime ({revoked})"
                    )
                if not revoked.harmless and (before is None or revoked.at <= before):
                    before, why = revoked.at - _INSTANT, f"the certificate {name!r} was revoked ({revoked})"
            if not any(one.speaks_for(gen_time, certificate) for one in statuses):
                unchecked.append(name)
        if len(chain) == 1:
            unchecked.append(chain[0].subject.rfc4514_string())
        return Outcome(before=before, why=why, unchecked=tuple(unchecked))

    def _statuses(self, certificate: x509.Certificate, issuer: x509.Certificate) -> list[Status]:
        key = (certificate, issuer)
        if key not in self._known:
            self._known[key] = list(self._ask(certificate, issuer))
        return self._known[key]

    def _ask(self, certificate: x509.Certificate, issuer: x509.Certificate) -> Iterable[Status]:
        for label, parsed in self.data:
            try:
                status = status_of(parsed, certificate, issuer)
            except MalformedError as error:
                self.problems[label] = str(error)
                continue
            if status is not None:
                self.used.add(label)
                yield status


def held_by(trust: Trust | None) -> RevocationPool:
    """What the verifier's own trust file names. Raises UsageError for a file that holds none."""
    pool = RevocationPool()
    for entry in trust.entries if trust else ():
        for file in entry.revocation:
            label = f"{file.path.name} of {entry.name!r} in the trust file"
            pool.add(label, file.data)
            if label in pool.problems:
                raise UsageError(f"{file.path}: {pool.problems[label]}")
            pool.own.add(label)
    return pool


def encoded(data: bytes) -> list[bytes]:
    """What is in a file of revocation data, each piece in DER, to be kept. Raises MalformedError."""
    return [parsed.public_bytes(Encoding.DER) for parsed in read_revocation(data)]
