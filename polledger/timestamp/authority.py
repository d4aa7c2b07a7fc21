"""Authorities of our own: RFC 3161 tokens from a key in a file. PROTOCOL section 8.

:class:`LocalAuthority` answers requests. :class:`EmbeddedAuthority` is the one inside a sealing process, without any
external program or network: its tokens are well-formed and verify like any other, but their time is whatever the
prover's own clock said, ``self-asserted``. They are kept so that a run without network has the same shape as one
with it. :func:`self_asserted` recognises them.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from polledger.errors import Unavailable, UsageError
from polledger.timestamp import cms, der
from polledger.timestamp.algorithms import ECDSA_WITH_SHA256, RSA_ENCRYPTION, hash_identifier
from polledger.timestamp.identity import (
    FILE_NAME,
    Damaged,
    Identity,
    SigningKey,
    make_identity,
    open_identity,
)
from polledger.timestamp.messages import (
    TIME_NOT_AVAILABLE,
    UNACCEPTED_EXTENSION,
    UNACCEPTED_POLICY,
    RequestRefused,
    TimestampRequest,
    granting_response,
    parse_request,
    rejecting_response,
)
from polledger.timestamp.token import Timestamp
from polledger.timestamp.tstinfo import CONTENT_TYPE

POLICY: Final = "2.25.179244332136762151783138347321181497817"
"""Policy of the embedded authority, under the arc of a random UUID: time of this machine's clock, unchecked."""

ACCURACY_SECONDS: Final = 1
"""What the tokens claim: a clock that some time service disciplines. Nothing checks it."""

VALID_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
VALID_UNTIL: Final = datetime(2070, 1, 1, tzinfo=UTC)
"""Fixed, so that a wrong clock on first use does not make later tokens invalid. Renewal is not needed earlier:
the time is self-asserted anyway."""

SERIAL_BYTES: Final = 16
"""Random bytes in a serial number: processes, restarts and restored copies never need to agree to stay unique."""

_TITLE: Final = "embedded authority with self-asserted time"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAuthority:
    """A signing key with its certificate and the root that certifies it. The root's key was thrown away.

    ``policy`` is what its tokens state, and the only one it serves. Safe to use from several threads.
    """

    key: SigningKey
    leaf: x509.Certificate
    root: x509.Certificate
    policy: str
    _fixed: "_Fixed" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_fixed", _fixed(self.key, self.leaf, self.policy))

    def respond(self, request: bytes, *, now: datetime) -> bytes:
        """The TimeStampResp to ``request``: :meth:`issue`'s token, or the rejection that RFC 3161 has for the reason.

        Raises UsageError when ``now`` has no time zone.
        """
        try:
            return granting_response(self.issue(request, now=now))
        except RequestRefused as refused:
            return rejecting_response(refused.failure, str(refused))

    def issue(self, request: bytes, *, now: datetime) -> bytes:
        """A token that answers ``request`` with genTime ``now`` in whole milliseconds, rounded down.

        Raises RequestRefused for a request that cannot be served, UsageError when ``now`` has no time zone.
        """
        if now.tzinfo is None:
            raise UsageError("a time needs a time zone")
        wanted = parse_request(request)
        if wanted.extensions:
            raise RequestRefused(
                f"extension {wanted.extensions[0]} is not served, nor any other", UNACCEPTED_EXTENSION
            )
        if wanted.policy not in (None, self.policy):
            raise RequestRefused(
                f"policy {wanted.policy} is not served, only {self.policy}", UNACCEPTED_POLICY
            )
        since, until = self._fixed.valid
        if not since <= now < until:
            raise RequestRefused("the clock is outside the validity of the certificate", TIME_NOT_AVAILABLE)
        return self._token(wanted, now.replace(microsecond=now.microsecond // 1000 * 1000))

    def sign(self, message: bytes) -> bytes:
        """The key's signature over ``message``, with SHA-256."""
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(message, _ECDSA)
        return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def _token(self, wanted: TimestampRequest, moment: datetime) -> bytes:
        fixed = self._fixed
        content = _tst_info(wanted, moment, fixed.policy)
        digest = der.octets(hashlib.sha256(content).digest())
        attributes = b"".join(sorted((*fixed.attributes, _attribute(cms.ATTRIBUTE_MESSAGE_DIGEST, digest))))
        signer = der.sequence(
            fixed.signer,
            der.encode(der.context(0), attributes),
            fixed.algorithm,
            der.octets(self.sign(der.encode(der.SET, attributes))),
        )
        signed_data = der.sequence(
            fixed.head,
            der.sequence(der.oid(CONTENT_TYPE), der.encode(der.context(0), der.octets(content))),
            fixed.certificates if wanted.cert_req else b"",
            der.encode(der.SET, signer),
        )
        return der.sequence(der.oid(cms.SIGNED_DATA), der.encode(der.context(0), signed_data))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedAuthority(LocalAuthority):
    """The authority of the machine that seals. Its tokens never count as external, whoever is told to trust them."""

    policy: str = POLICY

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The authority kept in ``directory``, made on first use; processes that race get the same one.

        The directory has mode 0700, the key file 0600; the root is beside it as ``root.pem``. Raises Unavailable
        when they cannot be read or written, or hold something else.
        """
        try:
            found = open_identity(directory, _embedded)
        except OSError as error:
            raise Unavailable(
                f"embedded authority: {error.filename or directory}: {error.strerror}"
            ) from None
        except Damaged as error:
            raise Unavailable(
                f"embedded authority: {error} is damaged; move it away, and a new authority is made"
            ) from None
        if found.leaf.subject != _LEAF_NAME:
            raise Unavailable(f"embedded authority: {directory / FILE_NAME} is another kind of authority")
        return cls(key=found.key, leaf=found.leaf, root=found.root)


def self_asserted(timestamp: Timestamp) -> bool:
    """Whether a verified token is one of an embedded authority, by its policy or by its certificate.

    The name counts beside the policy because whoever has the key can state any policy; another certificate that key
    cannot get, since the key of its root is gone.
    """
    return timestamp.policy == POLICY or timestamp.tsa == _LEAF_NAME.rfc4514_string()


def _embedded() -> Identity:
    return make_identity(
        ec.generate_private_key(ec.SECP256R1()),
        leaf=_LEAF_NAME,
        root=_name("root"),
        valid=(VALID_FROM, VALID_UNTIL),
    )


def _name(role: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "polledger"),
        x509.NameAttribute(NameOID.COMMON_NAME, f"{_TITLE}: {role}"),
    ])  # fmt: skip


_LEAF_NAME: Final = _name("time-stamping")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fixed:
    """The parts that all tokens of one authority share, encoded once."""

    valid: tuple[datetime, datetime]
    policy: bytes
    """Version and policy of the TSTInfo."""
    attributes: tuple[bytes, ...]
    """The signed attributes that do not depend on the content."""
    head: bytes
    """Version and digest algorithms of the SignedData."""
    certificates: bytes
    signer: bytes
    """Version, name and digest algorithm of the SignerInfo."""
    algorithm: bytes


def _fixed(key: SigningKey, leaf: x509.Certificate, policy: str) -> _Fixed:
    certificate = leaf.public_bytes(Encoding.DER)
    identifier = der.sequence(der.octets(hashlib.sha256(certificate).digest()))
    elliptic = isinstance(key, ec.EllipticCurvePrivateKey)
    return _Fixed(
        valid=(leaf.not_valid_before_utc, leaf.not_valid_after_utc),
        policy=der.integer(1) + der.oid(policy),
        attributes=(
            _attribute(cms.ATTRIBUTE_CONTENT_TYPE, der.oid(CONTENT_TYPE)),
            _attribute(cms.ATTRIBUTE_SIGNING_CERTIFICATE_V2, der.sequence(der.sequence(identifier))),
        ),
        head=der.integer(3) + der.set_of(hash_identifier("sha256")),
        certificates=der.encode(der.context(0), certificate),
        signer=der.integer(1)
        + der.sequence(leaf.issuer.public_bytes(), der.integer(leaf.serial_number))
        + hash_identifier("sha256"),
        algorithm=der.sequence(der.oid(ECDSA_WITH_SHA256))
        if elliptic
        else der.sequence(der.oid(RSA_ENCRYPTION), der.null()),
    )


_ECDSA: Final = ec.ECDSA(hashes.SHA256())


def _tst_info(wanted: TimestampRequest, moment: datetime, policy: bytes) -> bytes:
    return der.sequence(
        policy,
        der.sequence(hash_identifier(wanted.hash_name), der.octets(wanted.imprint)),
        der.integer(int.from_bytes(secrets.token_bytes(SERIAL_BYTES), "big")),
        der.time(moment),
        _ACCURACY,
        b"" if wanted.nonce is None else der.integer(wanted.nonce),
    )


_ACCURACY: Final = der.sequence(der.integer(ACCURACY_SECONDS))


def _attribute(kind: str, value: bytes) -> bytes:
    return der.sequence(der.oid(kind), der.set_of(value))
