"""Object identifiers and the algorithms behind them: what may digest, what may sign. PROTOCOL section 8.

Accepted: SHA-256, SHA-384, SHA-512; RSA of at least 2048 bits (PKCS#1 v1.5 and PSS), ECDSA on P-256 and P-384,
Ed25519. SHA-1 occurs only as the certificate hash of ESSCertID version 1, which RFC 2634 fixes.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from polledger.errors import MalformedError, UsageError
from polledger.timestamp import der

RSA_BITS: Final = 2048
"""Shortest RSA modulus in bits (NIST SP 800-131A)."""

SHA256: Final = "2.16.840.1.101.3.4.2.1"
SHA384: Final = "2.16.840.1.101.3.4.2.2"
SHA512: Final = "2.16.840.1.101.3.4.2.3"
HASH_NAMES: Final = {SHA256: "sha256", SHA384: "sha384", SHA512: "sha512"}
HASH_OIDS: Final = {name: oid for oid, name in HASH_NAMES.items()}

RSA_ENCRYPTION: Final = "1.2.840.113549.1.1.1"
RSASSA_PSS: Final = "1.2.840.113549.1.1.10"
MGF1: Final = "1.2.840.113549.1.1.8"
ED25519: Final = "1.3.101.112"
ECDSA_WITH_SHA256: Final = "1.2.840.10045.4.3.2"
_RSA_WITH: Final = {
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
}
_ECDSA_WITH: Final = {
    ECDSA_WITH_SHA256: "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
}
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class HashRefused(MalformedError):
    """A well-formed AlgorithmIdentifier that names no accepted hash."""


def hash_size(name: str) -> int:
    """Bytes in a digest of the accepted hash ``name``. Raises UsageError for any other."""
    if name not in _HASHES:
        raise UsageError(f"hash {name!r} is not one of {', '.join(_HASHES)}")
    return _HASHES[name].digest_size


@dataclass(frozen=True, slots=True)
class Algorithm:
    """An AlgorithmIdentifier. ``parameters`` is the raw encoding, empty where they are absent."""

    oid: str
    parameters: bytes

    def plain(self) -> bool:
        """True when the parameters are absent or NULL."""
        return self.parameters in (b"", b"\x05\x00")


def read_algorithm(reader: der.Reader) -> Algorithm:
    """The AlgorithmIdentifier that comes next. Parameters are framed, not interpreted."""
    inner = reader.inner(der.SEQUENCE)
    oid = der.read_oid(inner.take(der.OBJECT_IDENTIFIER), inner.what)
    parameters = b"" if inner.at_end() else inner.next().raw
    inner.end()
    return Algorithm(oid, parameters)


def read_hash(reader: der.Reader) -> str:
    """Name of the hash in the AlgorithmIdentifier that comes next. Raises HashRefused for others than the accepted."""
    algorithm = read_algorithm(reader)
    if algorithm.oid not in HASH_NAMES:
        raise HashRefused(f"{reader.what}: hash algorithm {algorithm.oid} is not accepted")
    if not algorithm.plain():
        raise HashRefused(f"{reader.what}: a hash algorithm with parameters")
    return HASH_NAMES[algorithm.oid]


def hash_identifier(name: str) -> bytes:
    """The AlgorithmIdentifier of an accepted hash, with NULL parameters as widely deployed software writes it."""
    return der.sequence(der.oid(HASH_OIDS[name]), der.null())


def require_strong(key: object) -> None:
    """Raise MalformedError unless ``key`` is of an accepted kind and size."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < RSA_BITS:
            raise MalformedError(f"an RSA key of {key.key_size} bits, at least {RSA_BITS} are required")
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, _CURVES):
            raise MalformedError(f"elliptic curve {key.curve.name} is not accepted")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        raise MalformedError(f"keys of type {type(key).__name__} are not accepted")


def verify_signature(
    key: object, algorithm: Algorithm, *, hash_name: str, signature: bytes, message: bytes
) -> None:
    """Check ``signature`` over ``message`` as a SignerInfo with digest algorithm ``hash_name`` states it.

    Raises MalformedError when the key, the algorithm, their combination or the signature is not acceptable.
    """
    require_strong(key)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, _rsa_padding(algorithm, hash_name), _HASHES[hash_name])
        elif isinstance(key, ec.EllipticCurvePublicKey):
            _require(algorithm, _ECDSA_WITH.get(algorithm.oid) == hash_name and not algorithm.parameters)
            key.verify(signature, message, ec.ECDSA(_HASHES[hash_name]))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            _require(algorithm, algorithm == Algorithm(ED25519, b""))
            key.verify(signature, message)
    except InvalidSignature:
        raise MalformedError("the signature does not match") from None


def _require(algorithm: Algorithm, fits: bool) -> None:
    if not fits:
        raise MalformedError(f"signature algorithm {algorithm.oid} does not fit the key and digest algorithm")


def _rsa_padding(algorithm: Algorithm, hash_name: str) -> padding.PKCS1v15 | padding.PSS:
    if algorithm.oid == RSASSA_PSS:
        return _pss_padding(algorithm, hash_name)
    stated = hash_name if algorithm.oid == RSA_ENCRYPTION else _RSA_WITH.get(algorithm.oid)
    _require(algorithm, stated == hash_name and algorithm.plain())
    return padding.PKCS1v15()


def _pss_padding(algorithm: Algorithm, hash_name: str) -> padding.PSS:
    """RSASSA-PSS-params of RFC 4055: hash and MGF1 hash explicit and equal to the digest algorithm, trailer 1."""
    reader = der.read_one(algorithm.parameters, der.SEQUENCE, "RSASSA-PSS parameters")
    field = reader.inner(der.context(0))
    stated = read_hash(field)
    field.end()
    field = reader.inner(der.context(1))
    mask = read_algorithm(field)
    field.end()
    masked = read_hash(der.Reader(mask.parameters, "MGF1 parameters"))
    field = reader.inner(der.context(2))
    salt = der.read_integer(field.take(der.INTEGER), reader.what)
    field.end()
    reader.end()
    if mask.oid != MGF1 or (stated, masked) != (hash_name, hash_name) or not 0 <= salt <= 512:
        raise MalformedError("RSASSA-PSS parameters do not fit the digest algorithm")
    return padding.PSS(padding.MGF1(_HASHES[hash_name]), salt)
