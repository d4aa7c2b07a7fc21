"""The prover's keys: where they lie, how they are made, how they are read. PROTOCOL section 14.

Heads are signed with Ed25519; a claim may be signed with ML-DSA-44 besides, where the installed cryptography has it.

Keys are PKCS#8 PEM files of mode 0600, encrypted where a passphrase is given. A file that exists is never
overwritten; a default key appears complete or not at all, also when two processes make it at once.
"""

import getpass
import logging
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polledger.errors import Unavailable, UsageError
from polledger.files import PRIVATE_DIRECTORY, PRIVATE_FILE, reported, write_once

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from polledger.core.dsse import Algorithm, PublicKey

HOME_VARIABLE = "POLLEDGER_HOME"
PASSWORD_VARIABLE = "POLLEDGER_KEY_PASSWORD"  # noqa: S105 - the name of a variable, not a secret

KEY_FILE_BYTES = 1 << 16
"""Largest key file that is read; an encrypted Ed25519 key has about 400 bytes."""

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Order of the group of P-256 (FIPS 186-4, D.1.2.3)."""

_log = logging.getLogger(__name__)


def home() -> Path:
    """The user's directory: ``$POLLEDGER_HOME``, or ``~/.config/polledger``. Not created here."""
    given = os.environ.get(HOME_VARIABLE)
    if given:
        return Path(given)
    try:
        return Path.home() / ".config" / "polledger"
    except RuntimeError:
        raise UsageError(f"there is no home directory: set {HOME_VARIABLE} or give --key FILE") from None


def load_or_create_key(path: Path | None = None) -> "Ed25519PrivateKey":
    """The key in ``path``, which must exist; without a path the user's own key, made on first use.

    Raises UsageError for a file that is missing or no Ed25519 private key, or a wrong or missing passphrase;
    Unavailable for one that cannot be read or made.
    """
    if path is not None:
        return load_key(path)
    default = home() / "key.pem"
    if not default.exists():
        try:
            create_key(default)
        except UsageError:
            # Another process was faster: its key is the user's key.
            if not default.exists():
                raise
    return load_key(default)


def load_key(path: Path) -> "Ed25519PrivateKey":
    """The Ed25519 private key in the PEM file ``path``. Warns when others may read it. Raises as above."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = _load(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} holds a key of type {_kind(key)}; heads are signed with Ed25519 only")
    return key


def _load(path: Path) -> Any:
    data = _read(path)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        try:
            return load_pem_private_key(data, password=None)
        except TypeError:
            return load_pem_private_key(data, password=_passphrase(path))
    except (TypeError, ValueError, UnsupportedAlgorithm):
        # An empty passphrase is a TypeError.
        if b"ENCRYPTED" in data:
            raise UsageError(f"{path}: the passphrase is wrong, or the file is damaged") from None
        raise UsageError(
            f"{path} holds no private key in PEM form; make one with `polledger keygen`"
        ) from None


def _kind(key: Any) -> str:
    return type(key).__name__.removesuffix("PrivateKey").lstrip("_")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySigner:
    """A private key that signs envelopes (``polledger.core.dsse.Signer``)."""

    public: "PublicKey"
    sign: Callable[[bytes], bytes]


def signer_of(key: "Ed25519PrivateKey") -> KeySigner:
    """``key`` as the signer of a claim."""
    from polledger.core.dsse import PublicKey

    return KeySigner(public=PublicKey(algorithm="ed25519", key=public_key(key)), sign=key.sign)


def model_signer(key: "Ed25519PrivateKey") -> tuple[KeySigner, bytes]:
    """The P-256 key that belongs to ``key``, for tools that take no Ed25519, and its public half in PEM.

    Derived by HKDF-SHA-256 from the 32 bytes of ``key``: whoever keeps that one has both, and the public halves tell
    nothing of each other.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    from polledger.core.dsse import PublicKey

    # 48 bytes: what the reduction favours is below 2^-128.
    stretched = HKDF(algorithm=hashes.SHA256(), length=48, salt=None, info=b"polledger/model-signing/1")
    number = int.from_bytes(stretched.derive(key.private_bytes_raw()), "big")
    derived = ec.derive_private_key(number % (P256_ORDER - 1) + 1, ec.SECP256R1())
    point = derived.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    pem = derived.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signer = KeySigner(
        public=PublicKey(algorithm="ecdsa-p256", key=point),
        sign=lambda message: derived.sign(message, ec.ECDSA(hashes.SHA256())),
    )
    return signer, pem


def load_signer(path: Path) -> KeySigner:
    """The key in ``path``, Ed25519 or ML-DSA-44, as a further signer of a claim. Raises as :func:`load_key`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = _load(path)
    if isinstance(key, Ed25519PrivateKey):
        return signer_of(key)
    if _kind(key) != "MLDSA44":
        raise UsageError(
            f"{path} holds a key of type {_kind(key)}; a claim is signed with Ed25519 or ML-DSA-44"
        )
    return _ml_dsa(key)


def _ml_dsa(key: Any) -> KeySigner:
    from polledger.core.dsse import PublicKey

    public = PublicKey(algorithm="ml-dsa-44", key=key.public_key().public_bytes_raw())
    return KeySigner(public=public, sign=key.sign)


def create_key(path: Path, *, password: bytes | None = None) -> "Ed25519PrivateKey":
    """Make an Ed25519 key and write it to ``path``, which must not exist; encrypted if there is a passphrase.

    Without ``password`` the environment's is used. The file appears complete, with mode 0600.
    Raises UsageError if it exists, Unavailable if it cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    _write(path, key, password)
    return key


def create_signer(path: Path, algorithm: "Algorithm", *, password: bytes | None = None) -> KeySigner:
    """Like :func:`create_key` for any algorithm that signs claims. Unavailable where it is not offered here."""
    if algorithm == "ed25519":
        return signer_of(create_key(path, password=password))
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

        key = MLDSA44PrivateKey.generate()
    except (ImportError, UnsupportedAlgorithm):
        raise Unavailable("the installed cryptography does not offer ML-DSA-44: update it") from None
    _write(path, key, password)
    return _ml_dsa(key)


def _write(path: Path, key: Any, password: bytes | None) -> None:
    from cryptography.hazmat.primitives import serialization

    secret = password if password is not None else _environment_passphrase()
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if secret:
        protection = serialization.BestAvailableEncryption(secret)
    data = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    with reported(path, "write"):
        path.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    try:
        write_once(path, data, mode=PRIVATE_FILE)
    except FileExistsError:
        raise UsageError(f"{path} exists; a key is never overwritten") from None


def new_passphrase() -> bytes:
    """A passphrase for a new key: the environment's, or asked for twice. UsageError without a terminal."""
    given = _environment_passphrase()
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to ask for a passphrase: set {PASSWORD_VARIABLE}")
    first = getpass.getpass("Passphrase: ")
    if not first:
        raise UsageError("the passphrase is empty")
    if getpass.getpass("Again: ") != first:
        raise UsageError("the two passphrases differ")
    return first.encode()


def public_key(key: "Ed25519PrivateKey") -> bytes:
    """The 32 raw bytes of the public key, as genesis carries them."""
    return key.public_key().public_bytes_raw()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(KEY_FILE_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"no such key: {path}; make one with `polledger keygen -o {path}`") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, not a key file") from None
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > KEY_FILE_BYTES:
        raise UsageError(f"{path} is too large for a key file")
    if stat.S_IMODE(mode) & 0o077:
        _log.warning("%s can be read by other users: run `chmod 600 %s`", path, path)
    return data


def _environment_passphrase() -> bytes | None:
    value = os.environ.get(PASSWORD_VARIABLE)
    return os.fsencode(value) if value else None


def _passphrase(path: Path) -> bytes:
    given = _environment_passphrase()
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError(f"{path} is encrypted: set {PASSWORD_VARIABLE}")
    return getpass.getpass(f"Passphrase for {path}: ").encode()
