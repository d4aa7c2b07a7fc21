"""Defects of the TSTInfo and of algorithms."""

from collections.abc import Iterator
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from tests.timestamp import forge as f
from tests.timestamp.defects.base import (
    GOOD,
    GOOD_RSA,
    Case,
    extension,
    invalid,
    pss,
    signed_by,
    signer_info,
    tst,
)


def algorithm_cases() -> Iterator[Case]:
    curve = "is not accepted"
    p521 = f.certify("TSA p521", f.ec_key("p521", ec.SECP521R1()), f.intermediate(), f.TSA)
    yield invalid("signer-p521", curve, signed_by(p521))
    ed448 = f.certify("TSA ed448", f.ed448_key("ed448"), f.intermediate(), f.TSA)
    yield invalid("signer-ed448", "are not accepted", signed_by(ed448))
    small = f.certify("TSA rsa1024", f.rsa_key("small", 1024), f.intermediate(), f.TSA)
    yield invalid("signer-rsa1024", "at least 2048", signed_by(small))
    fit = "does not fit"
    yield invalid(
        "ecdsa-other-hash-oid", fit, replace(GOOD, signature_algorithm=f.algorithm(f.ECDSA_WITH_SHA384, b""))
    )
    yield invalid(
        "ecdsa-null-parameters", fit, replace(GOOD, signature_algorithm=f.algorithm(f.ECDSA_WITH_SHA256))
    )
    yield invalid("ecdsa-key-rsa-oid", fit, replace(GOOD, signature_algorithm=f.algorithm(f.SHA256_WITH_RSA)))
    yield invalid(
        "rsa-other-hash-oid", fit, replace(GOOD_RSA, signature_algorithm=f.algorithm(f.SHA384_WITH_RSA))
    )
    odd = f.algorithm(f.SHA256_WITH_RSA, f.octets(b"x"))
    yield invalid("rsa-odd-parameters", fit, replace(GOOD_RSA, signature_algorithm=odd))
    ed = signed_by(f.certify("TSA ed", f.ed_key("ed"), f.intermediate(), f.TSA))
    yield invalid("ed25519-null-parameters", fit, replace(ed, signature_algorithm=f.algorithm(f.ED25519)))
    sha1 = signer_info(digest_algorithm=f.algorithm("1.3.14.3.2.26"))
    yield invalid("signer-sha1", "is not accepted", sha1)
    for name, identifier in (
        ("pss-other-hash", pss(hash_oid=f.SHA384)),
        ("pss-other-mask-hash", pss(mask_oid=f.SHA384)),
        ("pss-other-mask-function", pss(function=f.SHA256)),
        ("pss-negative-salt", pss(salt=-1)),
        ("pss-salt-513", pss(salt=513)),
    ):
        token = replace(GOOD_RSA, signature_algorithm=identifier, sign=f.sign_pss(b"s" * 32))
        yield invalid(name, "do not fit", token)
    for name, identifier in (
        ("pss-trailer-field", pss(more=f.tlv(0xA3, f.integer(1)))),
        ("pss-hash-trailing", pss(hash_more=f.NULL)),
        ("pss-mask-trailing", pss(mask_more=f.NULL)),
        ("pss-mask-parameters-trailing", pss(mask_inner=f.NULL)),
        ("pss-salt-trailing", pss(salt_more=f.NULL)),
    ):
        token = replace(GOOD_RSA, signature_algorithm=identifier, sign=f.sign_pss(b"s" * 32))
        yield invalid(name, "after the last field", token)
    for salt in (20, 300, 512):
        other = replace(GOOD_RSA, signature_algorithm=pss(salt=salt), sign=f.sign_pss(b"s" * 32))
        yield invalid(f"pss-salt-{salt}-instead-of-32", "signature does not match", other)


def statement_cases() -> Iterator[Case]:
    yield invalid("tst-version-2", "only version 1", tst(version=f.integer(2)))
    yield invalid("tst-trailing", "after the last field", tst(more=f.NULL))
    yield invalid(
        "tst-trailing-bytes", "after the last field", replace(GOOD, content=GOOD.tst_info_bytes() + b"\0")
    )
    yield invalid("policy-other", "the policy is", tst(policy=f.oid("1.2.3.4")))
    sha384 = f.seq(f.algorithm(f.SHA384), f.octets(f.DIGEST))
    yield invalid("imprint-other-hash", "expected sha256", tst(imprint=sha384))
    sha3 = f.seq(f.algorithm("2.16.840.1.101.3.4.2.8"), f.octets(f.DIGEST))
    yield invalid("imprint-sha3-256", "is not accepted", tst(imprint=sha3))
    other = f.seq(f.algorithm(f.SHA256), f.octets(bytes(32)))
    yield invalid("imprint-other-digest", "the imprint is", tst(imprint=other))
    long = f.seq(f.algorithm(f.SHA256), f.octets(f.DIGEST), f.NULL)
    yield invalid("imprint-trailing", "after the last field", tst(imprint=long))
    yield invalid("nonce-other", "the nonce is", tst(nonce=f.integer(5)))
    yield invalid("nonce-missing", "the nonce is missing", tst(nonce=b""))
    for name, text in (
        ("no-seconds", b"202611220613Z"),
        ("no-zone", b"20261122061320"),
        ("offset", b"20261122061320+0000"),
        ("comma", b"20261122061319,5Z"),
        ("final-zero", b"20261122061319.50Z"),
        ("bare-dot", b"20261122061319.Z"),
        ("line-feed", b"20261122061320Z\n"),
    ):
        yield invalid(f"gen-time-{name}", "not in DER form", tst(gen_time=f.tlv(0x18, text)))
    yield invalid("gen-time-month-13", "does not exist", tst(gen_time=f.tlv(0x18, b"20261322061320Z")))
    yield invalid("gen-time-leap-second", "does not exist", tst(gen_time=f.tlv(0x18, b"20261122061360Z")))
    later = f.tlv(0x18, b"20261122061321.001Z")
    yield invalid("gen-time-after-at", "lies after", tst(gen_time=later))
    for name, parts in (
        ("millis-0", [f.tlv(0x80, b"\x00")]),
        ("millis-1000", [f.tlv(0x80, b"\x03\xe8")]),
        ("micros-1000", [f.tlv(0x81, b"\x03\xe8")]),
        ("seconds-negative", [f.integer(-1)]),
    ):
        yield invalid(f"accuracy-{name}", "is not within", tst(accuracy=f.seq(*parts)))
    yield invalid("accuracy-trailing", "after the last field", tst(accuracy=f.seq(f.integer(1), f.NULL)))
    yield invalid("ordering-false", "default value", tst(ordering=b"\x01\x01\x00"))
    yield invalid("ordering-one", "neither 00 nor FF", tst(ordering=b"\x01\x01\x01"))
    yield invalid("extension-critical", "critical extension", tst(extensions=f.tlv(0xA1, extension())))
    yield invalid("extension-not-a-sequence", "not a sequence", tst(extensions=f.tlv(0xA1, f.octets(b""))))
    long = f.tlv(0xA1, extension(critical=b"", more=f.NULL))
    yield invalid("extension-trailing", "after the last field", tst(extensions=long))
    stranger = f.tlv(0xA0, f.tlv(0xA4, f.name("Somebody else")))
    yield invalid("tsa-other-name", "does not name the signer", tst(tsa=stranger))
    yield invalid(
        "tsa-other-kind", "does not name the signer", tst(tsa=f.tlv(0xA0, f.tlv(0x82, b"tsa.example")))
    )
    two = f.tlv(0xA0, f.tlv(0xA4, f.tsa_p256().subject), f.NULL)
    yield invalid("tsa-two-names", "after the last field", tst(tsa=two))
