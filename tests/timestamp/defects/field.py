"""What attackers did to other verifiers, and what authorities do when they change keys.

The attacks are the published ones: forged PKCS#1 padding (Bleichenbacher 2006, BERserk 2014), explicit curves
(CVE-2020-0601), zero signatures (CVE-2022-21449), trust in embedded certificates (CVE-2025-52556 of rfc3161-client),
a certificate beside the signer's that is judged in its place (sigstore timestamp-authority), signed attributes that
are passed off as content (Strenzke 2023).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.timestamp import forge as f
from tests.timestamp.defects.base import (
    GOOD,
    GOOD_RSA,
    Case,
    attribute_v2,
    attributes,
    chain,
    fingerprint,
    invalid,
    signed_by,
    signer_info,
    valid,
)

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
NO_MATCH = "signature does not match"


@dataclass(frozen=True)
class PublicOnly:
    """A key of which only the public half is known: whoever signs for it, forges."""

    public: Any

    def public_key(self) -> Any:
        return self.public


@dataclass(frozen=True)
class RawKey:
    """A SubjectPublicKeyInfo as it is, in the place of a key."""

    spki: bytes

    def public_key(self) -> "RawKey":
        return self

    def public_bytes(self, *_: object) -> bytes:
        return self.spki


def _digest_info(message: bytes, parameters: bytes = f.NULL) -> bytes:
    return f.seq(f.algorithm(f.SHA256, parameters), f.octets(hashlib.sha256(message).digest()))


def _padded(size: int, info: bytes) -> bytes:
    return b"\0\1" + b"\xff" * (size - 3 - len(info)) + b"\0" + info


def _cube_root(number: int) -> int:
    """The least integer whose cube is at least ``number``."""
    low, high = 0, 1 << (number.bit_length() // 3 + 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**3 < number else (low, middle)
    return low


def forge_cube(key: PublicOnly, message: bytes) -> bytes:
    """A PKCS#1 block with short padding and garbage behind the digest, made without a private key for exponent 3."""
    size = key.public.key_size // 8
    start = b"\0\1" + b"\xff" * 8 + b"\0" + _digest_info(message)
    least = int.from_bytes(start + bytes(size - len(start)), "big")
    return _cube_root(least).to_bytes(size, "big")


def padding_cases() -> Iterator[Case]:
    """PKCS#1 v1.5 blocks that a lenient reader takes for the right one."""
    modulus = f.rsa_key("tsa").public_key().public_numbers().n
    small = PublicOnly(rsa.RSAPublicNumbers(3, modulus).public_key())
    party = f.certify("TSA exponent 3", small, f.intermediate(), f.TSA)
    algorithm = f.algorithm(f.SHA256_WITH_RSA)
    forged = signed_by(party, signature_algorithm=algorithm, sign=forge_cube)
    yield invalid("rsa-exponent-3-forged", NO_MATCH, forged)
    key = f.rsa_key("tsa")
    size = key.key_size // 8

    def bent(info: Any) -> f.Token:
        return replace(GOOD_RSA, sign=lambda signer, message: f._raw(signer, _padded(size, info(message))))

    yield invalid("rsa-digest-info-without-null", NO_MATCH, bent(lambda message: _digest_info(message, b"")))

    def long(message: bytes) -> bytes:
        digest = b"\x04\x81\x20" + hashlib.sha256(message).digest()
        return f.seq(f.algorithm(f.SHA256), digest)

    yield invalid("rsa-digest-info-not-der", NO_MATCH, bent(long))
    longer = replace(GOOD_RSA, sign=lambda signer, message: b"\0" + f.sign(signer, message))
    yield invalid("rsa-signature-with-leading-zero", NO_MATCH, longer)
    yield invalid("rsa-signature-empty", NO_MATCH, replace(GOOD_RSA, sign=lambda *_: b""))
    pss = f.sign_pss(b"s" * 32)
    yield invalid("rsa-pss-signature-under-pkcs1", NO_MATCH, replace(GOOD_RSA, sign=pss))


def _ecdsa(key: Any, message: bytes) -> tuple[int, int]:
    return decode_dss_signature(f.sign(key, message))


def _numbers(r: int, s: int, *more: bytes) -> bytes:
    return f.seq(f.integer(r), f.integer(s), *more)


def curve_cases() -> Iterator[Case]:
    """Signatures on curves that are another encoding, or none at all."""

    def ecdsa(make: Any) -> f.Token:
        return replace(GOOD, sign=lambda key, message: make(*_ecdsa(key, message)))

    yield valid("good-ecdsa-other-half", ecdsa(lambda r, s: _numbers(r, P256_ORDER - s)))
    yield invalid("ecdsa-zero", NO_MATCH, replace(GOOD, sign=lambda *_: _numbers(0, 0)))
    yield invalid(
        "ecdsa-r-is-order", NO_MATCH, replace(GOOD, sign=lambda *_: _numbers(P256_ORDER, P256_ORDER))
    )
    yield invalid("ecdsa-s-plus-order", NO_MATCH, ecdsa(lambda r, s: _numbers(r, s + P256_ORDER)))
    yield invalid("ecdsa-trailing", NO_MATCH, ecdsa(lambda r, s: _numbers(r, s) + b"\0"))
    yield invalid("ecdsa-third-number", NO_MATCH, ecdsa(lambda r, s: _numbers(r, s, f.integer(1))))
    yield invalid(
        "ecdsa-not-minimal",
        NO_MATCH,
        ecdsa(lambda r, s: f.seq(f.tlv(2, bytes(2), f.integer(r)[2:]), f.integer(s))),
    )
    yield invalid(
        "ecdsa-plain-halves", NO_MATCH, ecdsa(lambda r, s: r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    )
    ed = f.certify("TSA ed", f.ed_key("ed"), f.intermediate(), f.TSA)

    def plus(key: Any, message: bytes) -> bytes:
        signature = f.sign(key, message)
        return signature[:32] + (int.from_bytes(signature[32:], "little") + ED25519_ORDER).to_bytes(
            32, "little"
        )

    yield invalid("ed25519-s-plus-order", NO_MATCH, signed_by(ed, sign=plus))
    koblitz = f.certify("TSA k1", f.ec_key("k1", ec.SECP256K1()), f.intermediate(), f.TSA)
    yield invalid("signer-secp256k1", "is not accepted", signed_by(koblitz))
    yield invalid("signer-explicit-curve", "cannot be read", _explicit_curve())


def _explicit_curve() -> f.Token:
    """P-256 written out as parameters, whose base point a signer could choose."""
    key = f.ec_key("explicit")
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    parameters = f.seq(
        f.integer(1),
        f.seq(f.oid("1.2.840.10045.1.1"), f.integer(prime)),
        f.seq(f.octets((prime - 3).to_bytes(32, "big")), f.octets(b.to_bytes(32, "big"))),
        f.octets(point),
        f.integer(P256_ORDER),
        f.integer(1),
    )
    spki = f.seq(f.seq(f.oid("1.2.840.10045.2.1"), parameters), f.bits(point))
    party = f.certify("TSA explicit", RawKey(spki), f.intermediate(), f.TSA)
    return signed_by(
        party,
        signature_algorithm=f.algorithm(f.ECDSA_WITH_SHA256, b""),
        sign=lambda _, message: f.sign(key, message),
    )


def attack_cases() -> Iterator[Case]:
    """Certificates and content put where a verifier may look for the genuine ones."""
    genuine, inter = f.tsa_p256(), f.intermediate()
    none = "no chain"
    alone = f.certify("TSA p256", f.ec_key("thief"), None, f.TSA)
    beside = chain(alone, inter, genuine)
    yield invalid("attacker-leaf-beside-genuine-chain", none, signed_by(alone, certificates=beside))
    thief = f.Party(
        key=f.ec_key("thief"),
        certificate=b"",
        subject=inter.subject,
        issuer=inter.issuer,
        serial=inter.serial,
    )
    twin = f.certify("TSA p256", f.ec_key("thief leaf"), thief, f.TSA, serial=genuine.serial)
    yield invalid(
        "attacker-leaf-with-genuine-name-and-serial",
        none,
        signed_by(twin, certificates=chain(genuine, twin, inter)),
    )
    borrowed = signed_by(
        twin,
        certificates=chain(twin, inter, genuine),
        attributes={
            "signing_certificate": f.attribute(
                f.SIGNING_CERTIFICATE_V2, f.seq(f.seq(f.certificate_id(genuine)))
            )
        },
    )
    yield invalid("attacker-signature-under-genuine-esscertid", NO_MATCH, borrowed)
    forged = f.certify("TSA p256", f.ec_key("thief"), None, f.TSA, serial=genuine.serial)
    server = f.certify("Server", f.ec_key("server"), inter, (f.TSA[0], f.TSA[1], f.purpose(f.SERVER_AUTH)))
    judged = signed_by(server, certificates=chain(forged, server, inter))
    yield invalid("forged-leaf-first-beside-a-server-certificate", "not exactly", judged)
    below = f.certify("TSA below a TSA", f.ec_key("below leaf"), genuine, f.TSA)
    yield invalid(
        "issued-by-a-time-stamping-leaf", none, signed_by(below, certificates=chain(below, genuine, inter))
    )
    values = f.set_(*GOOD.attribute_list(GOOD.tst_info_bytes()))
    swapped = replace(
        GOOD,
        content=values,
        signer_info={"attributes": b"", "signature": f.octets(f.sign(genuine.key, values))},
    )
    yield invalid("attributes-as-content", "signed attributes are missing", swapped)
    yield from path_cases()


def path_cases() -> Iterator[Case]:
    """Certificates that send a builder of chains round and round."""
    other = f.Party(key=f.ec_key("b"), certificate=b"", subject=f.name("B"), issuer=f.name("A"), serial=1)
    a = f.certify("A", f.ec_key("a"), other, f.CA)
    b = f.certify("B", f.ec_key("b"), a, f.CA)
    party = f.certify("TSA loop", f.ec_key("loop"), a, f.TSA)
    yield invalid("chain-in-a-circle", "no chain", signed_by(party, certificates=chain(party, a, b)))
    key = f.ec_key("multi")
    first = f.certify("Multi", key, None, f.CA)
    many = [f.certify("Multi", key, first, f.CA, serial=number) for number in range(1, 15)]
    party = f.certify("TSA multi", f.ec_key("tsa multi"), first, f.TSA)
    yield invalid(
        "chain-of-14-that-sign-each-other", "no chain", signed_by(party, certificates=chain(party, *many))
    )


def rollover_cases() -> Iterator[Case]:
    """An authority between two keys, certificates or roots."""
    inter, old = f.intermediate(), f.tsa_p256()
    new = f.certify("TSA p256", f.ec_key("tsa second"), inter, f.TSA, serial=77)
    both = chain(inter, old, new)
    of_old = attribute_v2(f.certificate_id(old))
    yield valid("good-rollover-new-leaf-beside-old", signed_by(new, certificates=both))
    yield valid("good-rollover-old-leaf-beside-new", signed_by(old, certificates=both))
    yield invalid(
        "rollover-esscertid-of-the-old-leaf",
        "does not match",
        signed_by(new, certificates=both, attributes={"signing_certificate": of_old}),
    )
    crossed = signed_by(new, certificates=both, sign=lambda _, message: f.sign(old.key, message))
    yield invalid("rollover-signed-with-the-old-key", NO_MATCH, crossed)
    renewed = f.certify(
        "TSA p256", old.key, inter, f.TSA, serial=78, not_after=datetime(2046, 1, 1, tzinfo=UTC)
    )
    yield valid(
        "good-rollover-same-key-new-certificate", signed_by(renewed, certificates=chain(inter, renewed))
    )
    yield invalid(
        "rollover-renewed-certificate-in-place-of-the-old",
        "does not match",
        signed_by(renewed, certificates=chain(inter, renewed), attributes={"signing_certificate": of_old}),
    )
    twin = f.certify("TSA p256", f.ec_key("tsa second"), inter, f.TSA, serial=old.serial)
    yield valid("good-two-leaves-of-one-serial", signed_by(old, certificates=chain(inter, twin, old)))
    yield from cross_signed_cases()


def cross_signed_cases() -> Iterator[Case]:
    """A new root that the old one certifies as well."""
    key = f.ec_key("second root")
    second = f.certify("Root 2", key, None, f.CA)
    cross = f.certify("Root 2", key, f.root(), f.CA)
    inter = f.certify("Inter 2", f.ec_key("inter 2"), second, (f.basic(ca=True, path=0), f.CERT_SIGN))
    party = f.certify("TSA 2", f.ec_key("tsa 2"), inter, f.TSA)
    token = signed_by(party, certificates=chain(party, inter, cross))
    yield valid("good-cross-signed-by-the-given-root", token)
    yield valid("good-cross-signed-both-roots-given", token, roots=[second, f.root()])
    yield valid("good-cross-certificate-given", token, roots=[second], intermediates=[cross])
    unknown = "leads to no given root"
    yield invalid("cross-certificate-of-a-root-not-given", unknown, token, roots=[second])
    bare = signed_by(party, certificates=chain(party, inter))
    yield invalid("cross-certificate-withheld", "no chain", bare)
    yield valid("good-cross-certificate-not-embedded", bare, intermediates=[cross])


def key_identifier_cases() -> Iterator[Case]:
    """The signer named by subjectKeyIdentifier: a form of CMS that no known authority uses."""
    mark = hashlib.sha256(b"key").digest()[:20]
    identified = [*f.TSA, f.extension("2.5.29.14", f.octets(mark), critical=False)]
    party = f.certify("TSA ski", f.ec_key("ski"), f.intermediate(), identified)
    sid = f.tlv(0x80, mark)
    three = signed_by(party, signer_info={"version": f.integer(3), "sid": sid})
    yield invalid("signer-key-identifier", "only version 1", three)
    one = signed_by(party, signer_info={"sid": sid})
    yield invalid("signer-key-identifier-in-version-1", "expected tag 0x30", one)


def signers_cases() -> Iterator[Case]:
    """More than one SignerInfo, in either order, and ESSCertIDs beside the signer's."""
    thief = f.certify("Thief", f.ec_key("thief"), None, f.TSA)
    content = GOOD.tst_info_bytes()
    genuine, other = GOOD.signer_info_bytes(content), signed_by(thief).signer_info_bytes(content)
    for name, signers in (("genuine-first", (genuine, other)), ("genuine-last", (other, genuine))):
        token = replace(GOOD, signed_data={"signers": f.set_(*signers)})
        yield invalid(f"two-signers-{name}", "more than one signer", token)
    signature = signer_info(signature=f.octets(b""))
    yield invalid("signature-empty", NO_MATCH, signature)

    def identified(*identifiers: bytes) -> f.Token:
        return attributes(
            signing_certificate=f.attribute(f.SIGNING_CERTIFICATE_V2, f.seq(f.seq(*identifiers)))
        )

    own, inter, root = (f.certificate_id(party) for party in (f.tsa_p256(), f.intermediate(), f.root()))
    unknown = "ESSCertID names a certificate"
    yield valid("good-esscertid-of-the-whole-chain", identified(own, inter, root))
    yield invalid("esscertid-second-of-nothing", unknown, identified(own, f.seq(f.octets(bytes(32)))))
    broken = f.seq(f.octets(fingerprint(f.intermediate())), f.NULL)
    yield invalid("esscertid-second-malformed", "expected tag", identified(own, broken))
    yield invalid("esscertid-17-named", "more than 16", identified(own, *[inter] * 16))
    yield invalid("esscertid-list-empty", "missing", identified())
    first = f.attribute(
        f.SIGNING_CERTIFICATE,
        f.seq(f.seq(f.certificate_id(f.tsa_p256(), "sha1"), f.seq(f.octets(bytes(20))))),
    )
    yield invalid("esscertid-v1-second-of-nothing", unknown, attributes(signing_certificate=first))
    sha512 = f.seq(f.algorithm("2.16.840.1.101.3.4.2.3"), f.certificate_id(f.tsa_p256(), "sha512")[2:])
    yield valid("good-esscertid-sha512", identified(sha512))
