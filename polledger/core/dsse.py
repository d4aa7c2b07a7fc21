"""DSSE envelopes: a payload, its type and signatures over both. DSSE 1.0.2; PROTOCOL section 13.

Signed is the pre-authentication encoding of type and payload, not JSON. An envelope that is read has the fields of
the standard and no others: what nobody signed must not look as if somebody had.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Protocol, TypeAlias

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from polledger.core.digest import sha256
from polledger.core.jsontext import JsonLimits, encode_json, parse_json
from polledger.errors import MalformedError, Unavailable, UsageError

IN_TOTO: Final = "application/vnd.in-toto+json"
"""Payload type of an in-toto Statement."""

ENVELOPE_LIMITS = JsonLimits(size=3 << 24, count=1000)
"""48 MiB: base64 of the largest statement, and signatures."""

SIGNATURES = 64
"""Signatures of one envelope, at most."""

SIGNATURE_CHARACTERS = 1 << 13
"""Longest signature in base64: ML-DSA-44 has 2,420 bytes, ML-DSA-87 4,627."""

Algorithm: TypeAlias = Literal["ed25519", "ml-dsa-44", "ecdsa-p256"]

_KEY_BYTES: Final[dict[Algorithm, int]] = {"ed25519": 32, "ml-dsa-44": 1312, "ecdsa-p256": 65}

_SPKI: Final[dict[Algorithm, bytes]] = {
    "ed25519": bytes.fromhex("302a300506032b6570032100"),
    "ml-dsa-44": bytes.fromhex("30820532300b06096086480165030403110382052100"),
    "ecdsa-p256": bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
}
"""What stands before the raw key in its SubjectPublicKeyInfo: RFC 8410, RFC 9881, RFC 5480 (uncompressed point)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A raw public key. Raises UsageError unless its length is that of the algorithm."""

    algorithm: Algorithm
    key: bytes

    def __post_init__(self) -> None:
        wanted = _KEY_BYTES[self.algorithm]
        if len(self.key) != wanted:
            raise UsageError(f"a public key of {self.algorithm} has {wanted} bytes, found {len(self.key)}")

    @property
    def keyid(self) -> str:
        """SHA-256 of the key's SubjectPublicKeyInfo in hex: a hint at the signer, not a proof."""
        return sha256(_SPKI[self.algorithm] + self.key).hex()

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` over ``message`` is this key's. Unavailable where the algorithm is not at hand."""
        try:
            if self.algorithm == "ed25519":
                Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
            elif self.algorithm == "ecdsa-p256":
                point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.key)
                point.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            else:
                _verify_ml_dsa(self.key, message, signature)
        except (InvalidSignature, ValueError):
            return False
        return True


def _verify_ml_dsa(key: bytes, message: bytes, signature: bytes) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

        MLDSA44PublicKey.from_public_bytes(key).verify(signature, message)
    except (ImportError, UnsupportedAlgorithm):
        raise Unavailable("the installed cryptography does not offer ML-DSA-44: update it") from None


class Signer(Protocol):
    """Who signs: a private key, wherever it lies."""

    @property
    def public(self) -> PublicKey: ...
    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature. ``keyid`` is a hint and may be empty."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A parsed envelope. No signature in it has been checked."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def message(self) -> bytes:
        """What the signatures are over."""
        return pae(self.payload_type, self.payload)

    def signature_of(self, key: PublicKey) -> bytes | None:
        """The signature of ``key`` that holds; None if there is none. Raises Unavailable as :class:`PublicKey` does.

        A keyid is only a hint: one that names another key is not tried, one that is empty is.
        """
        message = self.message()
        for signature in self.signatures:
            if signature.keyid in ("", key.keyid) and key.signed(message, signature.sig):
                return signature.sig
        return None


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    sig: Annotated[str, Meta(min_length=1, max_length=SIGNATURE_CHARACTERS)]
    keyid: Annotated[str, Meta(max_length=256)] = ""


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    payload: str
    payload_type: Annotated[str, Meta(min_length=1, max_length=256)]
    signatures: Annotated[list[_Signature], Meta(min_length=1, max_length=SIGNATURES)]


def pae(payload_type: str, payload: bytes) -> bytes:
    """``"DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload``: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload_type: str, payload: bytes, signers: "tuple[Signer, ...]") -> Envelope:
    """The envelope of ``payload`` with a signature of each of ``signers``, in this order."""
    message = pae(payload_type, payload)
    signatures = tuple(Signature(keyid=one.public.keyid, sig=one.sign(message)) for one in signers)
    return Envelope(payload_type=payload_type, payload=payload, signatures=signatures)


def encode_envelope(envelope: Envelope) -> bytes:
    """The envelope as JSON and a newline."""
    signatures = [_Signature(keyid=one.keyid, sig=_base64(one.sig)) for one in envelope.signatures]
    written = _Envelope(
        payload=_base64(envelope.payload), payload_type=envelope.payload_type, signatures=signatures
    )
    return encode_json(written) + b"\n"


def parse_envelope(data: bytes) -> Envelope:
    """Read an envelope from outside. Raises MalformedError; checks no signature and does not look into the payload."""
    read = parse_json(data, _Envelope, limits=ENVELOPE_LIMITS, what="the envelope")
    signatures = tuple(
        Signature(keyid=one.keyid, sig=_from_base64(one.sig, "a signature")) for one in read.signatures
    )
    payload = _from_base64(read.payload, "the payload")
    return Envelope(payload_type=read.payload_type, payload=payload, signatures=signatures)


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _from_base64(text: str, what: str) -> bytes:
    """The bytes of ``text`` in the standard or the URL-safe alphabet, both of which DSSE allows."""
    standard = text.replace("-", "+").replace("_", "/")
    try:
        data = b64decode(standard, validate=True)
    except (Base64Error, ValueError):
        raise MalformedError(f"{what} of the envelope is not base64") from None
    if _base64(data) != standard:
        raise MalformedError(f"{what} of the envelope is not in canonical base64")
    return data
