"""What an authority signs with: a key, its certificate, the root that certifies it, and the files they lie in.

The root's key is thrown away as soon as it has signed the one certificate: whoever steals the files can sign as this
authority, and can make no other. Key and certificates are one file, which is there whole or not at all.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from polledger.errors import UsageError
from polledger.files import PRIVATE_DIRECTORY, PRIVATE_FILE, write_atomic

FILE_NAME: Final = "authority.pem"
ROOT_NAME: Final = "root.pem"

IDENTITY_BYTES: Final = 1 << 16
"""Most that is read of the file: a key and two certificates have about 2 to 5 KB."""

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Damaged(ValueError):
    """The file does not hold a key with its certificate and root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A signing key, the certificate of its public half, and the root that issued it."""

    key: SigningKey
    leaf: x509.Certificate
    root: x509.Certificate


def make_identity(
    key: SigningKey, *, leaf: x509.Name, root: x509.Name, valid: tuple[datetime, datetime]
) -> Identity:
    """An identity for ``key``: certificate and root under these names, both valid from … until (UTC-aware)."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    top = _certificate(root, root_key, root, root_key, valid, authority=True)
    return Identity(key=key, leaf=_certificate(leaf, key, root, root_key, valid, authority=False), root=top)


def open_identity(directory: Path, make: Callable[[], Identity], *, private: bool = False) -> Identity:
    """The identity kept in ``directory``, made on first use; processes that race get the same one.

    The directory then has mode 0700, the file with the key 0600; the root is beside it as ``root.pem``. With
    ``private`` a key file that others may read is refused. Raises OSError, Unavailable, Damaged and UsageError.
    """
    path = directory / FILE_NAME
    directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    if not path.exists():
        with _locked(directory):
            if not path.exists():
                identity = make()
                directory.chmod(PRIVATE_DIRECTORY)
                _write(directory, identity)
    return _read(path, private=private)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(directory: Path, identity: Identity) -> None:
    private = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    leaf, root = (one.public_bytes(Encoding.PEM) for one in (identity.leaf, identity.root))
    write_atomic(directory / ROOT_NAME, [root])
    write_atomic(directory / FILE_NAME, [private + leaf + root], mode=PRIVATE_FILE)


def _read(path: Path, *, private: bool) -> Identity:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        data = file.read(IDENTITY_BYTES)
    if private and mode & 0o077:
        raise UsageError(
            f"{path} has mode {mode:04o}: others may use the key; run `chmod 600 {path}`, or move it away "
            "and let a new authority be made if they might have"
        )
    try:
        key = load_pem_private_key(data, password=None)
        leaf, root = x509.load_pem_x509_certificates(data)
        leaf.verify_directly_issued_by(root)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise Damaged(path) from None
    if not isinstance(key, SigningKey) or leaf.public_key() != key.public_key():
        raise Damaged(path)
    return Identity(key=key, leaf=leaf, root=root)


def _certificate(
    name: x509.Name,
    key: SigningKey,
    issuer: x509.Name,
    issuer_key: SigningKey,
    valid: tuple[datetime, datetime],
    *,
    authority: bool,
) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
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
