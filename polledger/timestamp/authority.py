"""The embedded authority: RFC 3161 tokens without any external program or network. PROTOCOL section 8.

Its tokens are well-formed and verify like any other, but their time is whatever this machine's clock said:
``self-asserted``. They are kept so that a run without network has the same shape as one with it.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.files import PRIVATE_DIRECTORY, PRIVATE_FILE, write_atomic
from polledger.timestamp import cms, der
from polledger.timestamp.algorithms import ECDSA_WITH_SHA256, hash_identifier
from polledger.timestamp.messages import (
    TimestampRequest,
    granting_response,
    parse_request,
    rejecting_response,
)
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
"""Random bytes in a serial number: two processes never need to agree to stay unique."""

FILE_NAME: Final = "authority.pem"
ROOT_NAME: Final = "root.pem"

_BAD_DATA_FORMAT: Final = 5
_TIME_NOT_AVAILABLE: Final = 14
_UNACCEPTED_POLICY: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedAuthority:
    """A signing key with its certificate and the root that certifies it. The root's key was thrown away.

    ``policy`` is what its tokens state, and the only one it serves.
    """

    key: ec.EllipticCurvePrivateKey
    leaf: x509.Certificate
    root: x509.Certificate
    policy: str = POLICY

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The authority kept in ``directory``, made on first use; processes that race get the same one.

        The directory has mode 0700, the key file 0600; the root is beside it as ``root.pem``. Raises Unavailable
        when they cannot be read or written, or hold something else.
        """
        path = directory / FILE_NAME
        try:
            directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            if not path.exists():
                with _locked(directory):
                    if not path.exists():
                        _create(directory)
            key, leaf, root = _read(path)
        except OSError as error:
            raise Unavailable(
                f"embedded authority: {error.filename or directory}: {error.strerror}"
            ) from None
        return cls(key=key, leaf=leaf, root=root)

    def respond(self, request: bytes, *, now: datetime) -> bytes:
        """The TimeStampResp to ``request`` with genTime ``now`` in whole milliseconds, rounded down.

        A request that cannot be served gets a rejection, as from any authority. Raises UsageError when ``now`` has
        no time zone.
        """
        if now.tzinfo is None:
            raise UsageError("a time needs a time zone")
        try:
            wanted = parse_request(request)
        except MalformedError:
            return rejecting_response(_BAD_DATA_FORMAT)
        if wanted.policy not in (None, self.policy):
            return rejecting_response(_UNACCEPTED_POLICY)
        if not VALID_FROM <= now < VALID_UNTIL:
            return rejecting_response(_TIME_NOT_AVAILABLE)
        return granting_response(self._token(wanted, now.replace(microsecond=now.microsecond // 1000 * 1000)))

    def _token(self, wanted: TimestampRequest, moment: datetime) -> bytes:
        content = _tst_info(wanted, moment, self.policy)
        attributes = sorted((
            _attribute(cms.ATTRIBUTE_CONTENT_TYPE, der.oid(CONTENT_TYPE)),
            _attribute(cms.ATTRIBUTE_MESSAGE_DIGEST, der.octets(hashlib.sha256(content).digest())),
            _attribute(cms.ATTRIBUTE_SIGNING_CERTIFICATE_V2, self._certificate_id()),
        ))  # fmt: skip
        signature = self.key.sign(der.encode(der.SET, *attributes), ec.ECDSA(hashes.SHA256()))
        signer = der.sequence(
            der.integer(1),
            der.sequence(self.leaf.issuer.public_bytes(), der.integer(self.leaf.serial_number)),
            hash_identifier("sha256"),
            der.encode(der.context(0), *attributes),
            der.sequence(der.oid(ECDSA_WITH_SHA256)),
            der.octets(signature),
        )
        certificate = self.leaf.public_bytes(Encoding.DER)
        signed_data = der.sequence(
            der.integer(3),
            der.set_of(hash_identifier("sha256")),
            der.sequence(der.oid(CONTENT_TYPE), der.encode(der.context(0), der.octets(content))),
            der.encode(der.context(0), certificate) if wanted.cert_req else b"",
            der.set_of(signer),
        )
        return der.sequence(der.oid(cms.SIGNED_DATA), der.encode(der.context(0), signed_data))

    def _certificate_id(self) -> bytes:
        fingerprint = hashlib.sha256(self.leaf.public_bytes(Encoding.DER)).digest()
        return der.sequence(der.sequence(der.sequence(der.octets(fingerprint))))


def _tst_info(wanted: TimestampRequest, moment: datetime, policy: str) -> bytes:
    return der.sequence(
        der.integer(1),
        der.oid(policy),
        der.sequence(hash_identifier(wanted.hash_name), der.octets(wanted.imprint)),
        der.integer(int.from_bytes(secrets.token_bytes(SERIAL_BYTES), "big")),
        der.time(moment),
        der.sequence(der.integer(ACCURACY_SECONDS)),
        b"" if wanted.nonce is None else der.integer(wanted.nonce),
    )


def _attribute(kind: str, value: bytes) -> bytes:
    return der.sequence(der.oid(kind), der.set_of(value))


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(directory: Path) -> None:
    """Make root, leaf and key and write them as one file: it is there whole or not at all."""
    directory.chmod(PRIVATE_DIRECTORY)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("root", root_key, "root", root_key, authority=True)
    leaf = _certificate("time-stamping", key, "root", root_key, authority=False)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomic(directory / ROOT_NAME, [root.public_bytes(Encoding.PEM)])
    everything = private + leaf.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)
    write_atomic(directory / FILE_NAME, [everything], mode=PRIVATE_FILE)


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(VALID_FROM)
        .not_valid_after(VALID_UNTIL)
        .add_extension(
            x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True
        )
        .add_extension(_key_usage(authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    )
    if not authority:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
        )
    return builder.sign(issuer_key, hashes.SHA256())


def _name(role: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "polledger"),
        x509.NameAttribute(NameOID.COMMON_NAME, f"embedded authority with self-asserted time: {role}"),
    ])  # fmt: skip


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read(path: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate, x509.Certificate]:
    data = path.read_bytes()
    try:
        key = load_pem_private_key(data, password=None)
        leaf, root = x509.load_pem_x509_certificates(data)
        leaf.verify_directly_issued_by(root)
        if isinstance(key, ec.EllipticCurvePrivateKey) and leaf.public_key() == key.public_key():
            return key, leaf, root
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        pass
    raise Unavailable(f"embedded authority: {path} is damaged; move it away, and a new authority is made")
