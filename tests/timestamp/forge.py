"""A builder of RFC 3161 responses in which every field can be bent, independent of the library under test.

Structures are ordered dictionaries from field name to encoding; an override replaces a field, ``b""`` removes it,
a new name appends. Keys and signatures are deterministic, so that vector files can be made again byte for byte.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

Fields = Mapping[str, bytes]

DIGEST = hashlib.sha256(b"hello").digest()
NONCE = 0x1234567890ABCDEF
POLICY = "1.3.6.1.4.1.99999.1.1"
GEN_TIME = datetime(2026, 11, 22, 6, 13, 20, tzinfo=UTC)

SHA256 = "2.16.840.1.101.3.4.2.1"
SHA384 = "2.16.840.1.101.3.4.2.2"
TST_INFO = "1.2.840.113549.1.9.16.1.4"
DATA = "1.2.840.113549.1.7.1"
SIGNED_DATA = "1.2.840.113549.1.7.2"
CONTENT_TYPE = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
SIGNING_CERTIFICATE = "1.2.840.113549.1.9.16.2.12"
SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"
TIME_STAMPING = "1.3.6.1.5.5.7.3.8"
SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
RSASSA_PSS = "1.2.840.113549.1.1.10"
MGF1 = "1.2.840.113549.1.1.8"
SHA1_WITH_RSA = "1.2.840.113549.1.1.5"
SHA256_WITH_RSA = "1.2.840.113549.1.1.11"
SHA384_WITH_RSA = "1.2.840.113549.1.1.12"
ECDSA_WITH_SHA256 = "1.2.840.10045.4.3.2"
ECDSA_WITH_SHA384 = "1.2.840.10045.4.3.3"
ED25519 = "1.3.101.112"
ED448 = "1.3.101.113"
NULL = b"\x05\x00"


def tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 + len(length)]) + length + content


def seq(*parts: bytes) -> bytes:
    return tlv(0x30, *parts)


def set_(*parts: bytes) -> bytes:
    return tlv(0x31, *parts)


def integer(number: int) -> bytes:
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def octets(data: bytes) -> bytes:
    return tlv(0x04, data)


def bits(data: bytes) -> bytes:
    return tlv(0x03, b"\0", data)


def utf8(text: str) -> bytes:
    return tlv(0x0C, text.encode())


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    out = bytearray()
    for arc in (40 * first + second, *rest):
        digits = [arc & 127]
        while arc := arc >> 7:
            digits.append(arc & 127 | 128)
        out += bytes(reversed(digits))
    return tlv(0x06, bytes(out))


def time(moment: datetime) -> bytes:
    return tlv(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())


def algorithm(dotted: str, parameters: bytes = NULL) -> bytes:
    return seq(oid(dotted), parameters)


# --- keys -------------------------------------------------------------------------------------------------------


def _stream(label: str) -> int:
    return int.from_bytes(hashlib.shake_256(label.encode()).digest(512), "big")


def _prime(label: str, size: int) -> int:
    """A probable prime of ``size`` bits whose two top bits are set, the first after a hash of ``label``."""
    candidate = _stream(label) % (1 << size) | 3 << (size - 2) | 1
    small = [p for p in range(3, 2000, 2) if all(p % q for q in range(3, int(p**0.5) + 1, 2))]
    while True:
        if (
            all(candidate % p for p in small)
            and all(pow(a, candidate - 1, candidate) == 1 for a in (2, 3, 5, 7))
            and candidate % 65537 != 1
        ):
            return candidate
        candidate += 2


@cache
def rsa_key(label: str, size: int = 2048) -> rsa.RSAPrivateKey:
    p, q = _prime(f"{label} p", size // 2), _prime(f"{label} q", size // 2)
    d = pow(65537, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=d % (p - 1),
        dmq1=d % (q - 1),
        iqmp=pow(q, -1, p),
        public_numbers=rsa.RSAPublicNumbers(65537, p * q),
    )
    return numbers.private_key()


@cache
def ec_key(label: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(_stream(label) % (1 << 250) + 1, curve or ec.SECP256R1())


@cache
def ed_key(label: str) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(label.encode()).digest())


@cache
def ed448_key(label: str) -> ed448.Ed448PrivateKey:
    return ed448.Ed448PrivateKey.from_private_bytes(hashlib.shake_256(label.encode()).digest(57))


def private_pem(key: Any) -> bytes:
    """The private key for programs that read files."""
    form = serialization.PrivateFormat.PKCS8
    data: bytes = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return data


Sign = Callable[[Any, bytes], bytes]
"""(private key, message) -> signature"""


def sign(key: Any, message: bytes, hash_: hashes.HashAlgorithm | None = None) -> bytes:
    """A deterministic signature in the key's usual scheme: ECDSA, PKCS#1 v1.5 or EdDSA."""
    hash_ = hash_ or hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(hash_, deterministic_signing=True))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hash_)
    signature: bytes = key.sign(message)
    return signature


def sign_sha1(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    """PKCS#1 v1.5 with SHA-1, by hand: libraries no longer make such signatures."""
    size = key.key_size // 8
    info = seq(algorithm("1.3.14.3.2.26"), octets(hashlib.sha1(message).digest()))
    block = b"\0\1" + b"\xff" * (size - 3 - len(info)) + b"\0" + info
    return _raw(key, block)


def sign_pss(salt: bytes, hash_name: str = "sha256") -> Sign:
    """EMSA-PSS of RFC 8017 section 9.1.1 with a fixed salt, so that it is deterministic."""

    def hash_(data: bytes) -> bytes:
        return hashlib.new(hash_name, data).digest()

    def make(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
        size = key.key_size // 8
        digest = hash_(bytes(8) + hash_(message) + salt)
        data = bytes(size - len(salt) - len(digest) - 2) + b"\1" + salt
        mask = b"".join(hash_(digest + i.to_bytes(4, "big")) for i in range(size // len(digest) + 1))
        masked = bytearray(a ^ b for a, b in zip(data, mask, strict=False))
        masked[0] &= 0x7F
        return _raw(key, bytes(masked) + digest + b"\xbc")

    return make


def _raw(key: rsa.RSAPrivateKey, block: bytes) -> bytes:
    numbers = key.private_numbers()
    number = pow(int.from_bytes(block, "big"), numbers.d, numbers.public_numbers.n)
    return number.to_bytes(key.key_size // 8, "big")


def usual_algorithm(key: Any) -> bytes:
    """AlgorithmIdentifier of what :func:`sign` makes with SHA-256."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return algorithm(ECDSA_WITH_SHA256, b"")
    if isinstance(key, rsa.RSAPrivateKey):
        return algorithm(SHA256_WITH_RSA)
    return algorithm(ED25519 if isinstance(key, ed25519.Ed25519PrivateKey) else ED448, b"")


# --- certificates -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Party:
    """A key with its certificate."""

    key: Any
    certificate: bytes
    subject: bytes
    issuer: bytes
    serial: int

    def pem(self) -> bytes:
        from base64 import b64encode

        text = b64encode(self.certificate)
        lines = [text[i : i + 64] for i in range(0, len(text), 64)]
        return b"-----BEGIN CERTIFICATE-----\n" + b"\n".join(lines) + b"\n-----END CERTIFICATE-----\n"


def name(common: str, kind: int = 0x0C) -> bytes:
    return seq(
        set_(seq(oid("2.5.4.10"), tlv(kind, b"polledger-test"))),
        set_(seq(oid("2.5.4.3"), tlv(kind, common.encode()))),
    )


def extension(dotted: str, value: bytes, *, critical: bool) -> bytes:
    return seq(oid(dotted), b"\x01\x01\xff" if critical else b"", octets(value))


def basic(*, ca: bool, path: int | None = None) -> bytes:
    value = seq(b"\x01\x01\xff" if ca else b"", b"" if path is None else integer(path))
    return extension("2.5.29.19", value, critical=True)


def usage(value: bytes) -> bytes:
    """Key usage from the content of its bit string: 0780 digitalSignature, 0204 keyCertSign."""
    return extension("2.5.29.15", tlv(0x03, value), critical=True)


def purpose(*dotted: str, critical: bool = True) -> bytes:
    return extension("2.5.29.37", seq(*map(oid, dotted)), critical=critical)


DIGITAL_SIGNATURE = usage(b"\x07\x80")
CERT_SIGN = usage(b"\x02\x04")
CA = (basic(ca=True), CERT_SIGN)
TSA = (basic(ca=False), DIGITAL_SIGNATURE, purpose(TIME_STAMPING))


def certify(
    common: str,
    key: Any,
    by: "Party | None",
    extensions: Sequence[bytes],
    *,
    serial: int | None = None,
    not_before: datetime = datetime(2025, 1, 1, tzinfo=UTC),
    not_after: datetime = datetime(2045, 1, 1, tzinfo=UTC),
    signature: tuple[bytes, Sign] | None = None,
    outer: bytes | None = None,
    unused: int = 0,
) -> Party:
    """A certificate for ``key``, self-signed without ``by``. ``signature`` is (algorithm identifier, signer)."""
    issuer_key = by.key if by else key
    identifier, signer = signature or (usual_algorithm(issuer_key), sign)
    subject = name(common)
    issuer = by.subject if by else subject
    number = serial if serial is not None else _stream(f"serial {common}") % (1 << 120) + 1
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    validity = seq(*(_validity(moment) for moment in (not_before, not_after)))
    signed = seq(
        tlv(0xA0, integer(2)),
        integer(number),
        identifier,
        issuer,
        validity,
        subject,
        spki,
        tlv(0xA3, seq(*extensions)) if extensions else b"",
    )
    value = tlv(0x03, bytes([unused]), signer(issuer_key, signed))
    raw = seq(signed, outer or identifier, value)
    return Party(key=key, certificate=raw, subject=subject, issuer=issuer, serial=number)


def _validity(moment: datetime) -> bytes:
    return tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode()) if moment.year < 2050 else time(moment)


@cache
def root() -> Party:
    return certify("Root", ec_key("root"), None, CA)


@cache
def intermediate() -> Party:
    return certify("Inter", ec_key("inter"), root(), (basic(ca=True, path=0), CERT_SIGN))


@cache
def tsa_p256() -> Party:
    return certify("TSA p256", ec_key("tsa"), intermediate(), TSA)


@cache
def tsa_rsa() -> Party:
    return certify("TSA rsa2048", rsa_key("tsa"), intermediate(), TSA)


# --- tokens -----------------------------------------------------------------------------------------------------


def attribute(kind: str, *values: bytes) -> bytes:
    return seq(oid(kind), set_(*values))


def certificate_id(party: Party, hash_name: str = "sha256") -> bytes:
    return seq(octets(hashlib.new(hash_name, party.certificate).digest()))


@dataclass(frozen=True, kw_only=True)
class Token:
    """What to build. Each mapping overrides fields of the structure it is named after."""

    signer: Party = field(default_factory=tsa_p256)
    certificates: Sequence[bytes] | None = None
    """Raw certificates, or the intermediate and the signer."""
    hash_name: str = "sha256"
    tst_info: Fields = field(default_factory=dict)
    content: bytes | None = None
    attributes: Fields = field(default_factory=dict)
    arrange: Callable[[list[bytes]], list[bytes]] = sorted
    signature_algorithm: bytes | None = None
    sign: Sign = sign
    signer_info: Fields = field(default_factory=dict)
    signed_data: Fields = field(default_factory=dict)
    content_info: Fields = field(default_factory=dict)
    response: Fields = field(default_factory=dict)

    def tst_info_bytes(self) -> bytes:
        fields = {
            "version": integer(1),
            "policy": oid(POLICY),
            "imprint": seq(algorithm(SHA256), octets(DIGEST)),
            "serial": integer(4711),
            "gen_time": time(GEN_TIME),
            "accuracy": b"",
            "ordering": b"",
            "nonce": integer(NONCE),
            "tsa": b"",
            "extensions": b"",
        }
        return seq(*{**fields, **self.tst_info}.values())

    def attribute_list(self, content: bytes) -> list[bytes]:
        fields = {
            "content_type": attribute(CONTENT_TYPE, oid(TST_INFO)),
            "message_digest": attribute(
                MESSAGE_DIGEST, octets(hashlib.new(self.hash_name, content).digest())
            ),
            "signing_certificate": attribute(SIGNING_CERTIFICATE_V2, seq(seq(certificate_id(self.signer)))),
        }
        return self.arrange([value for value in {**fields, **self.attributes}.values() if value])

    def signer_info_bytes(self, content: bytes) -> bytes:
        attributes = self.attribute_list(content)
        hash_oid = {"sha256": SHA256, "sha384": SHA384, "sha512": "2.16.840.1.101.3.4.2.3"}[self.hash_name]
        fields = {
            "version": integer(1),
            "sid": seq(self.signer.issuer, integer(self.signer.serial)),
            "digest_algorithm": algorithm(hash_oid),
            "attributes": tlv(0xA0, *attributes),
            "algorithm": self.signature_algorithm or usual_algorithm(self.signer.key),
            "signature": octets(self.sign(self.signer.key, set_(*attributes))),
        }
        return seq(*{**fields, **self.signer_info}.values())

    def signed_data_bytes(self) -> bytes:
        content = self.content if self.content is not None else self.tst_info_bytes()
        certificates = self.certificates
        if certificates is None:
            certificates = [intermediate().certificate, self.signer.certificate]
        hash_oid = {"sha256": SHA256, "sha384": SHA384, "sha512": "2.16.840.1.101.3.4.2.3"}[self.hash_name]
        fields = {
            "version": integer(3),
            "digest_algorithms": set_(algorithm(hash_oid)),
            "content": seq(oid(TST_INFO), tlv(0xA0, octets(content))),
            "certificates": tlv(0xA0, *certificates) if certificates else b"",
            "crls": b"",
            "signers": set_(self.signer_info_bytes(content)),
        }
        return seq(*{**fields, **self.signed_data}.values())

    def token_bytes(self) -> bytes:
        fields = {"type": oid(SIGNED_DATA), "content": tlv(0xA0, self.signed_data_bytes())}
        return seq(*{**fields, **self.content_info}.values())

    def response_bytes(self) -> bytes:
        fields = {"status": seq(integer(0)), "token": self.token_bytes()}
        return seq(*{**fields, **self.response}.values())
