"""Tokens that are right, in the forms that authorities send."""

from collections.abc import Iterator
from dataclasses import replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.timestamp import forge as f
from tests.timestamp.defects.base import (
    GOOD,
    GOOD_RSA,
    Case,
    attribute_v1,
    attribute_v2,
    attributes,
    extension,
    fingerprint,
    issuer_serial,
    pss,
    signed_by,
    status,
    tst,
    valid,
    with_certificates,
)


def valid_cases() -> Iterator[Case]:
    yield valid("good-p256", GOOD)
    yield valid("good-rsa2048", GOOD_RSA)
    yield valid("good-pss", replace(GOOD_RSA, signature_algorithm=pss(), sign=f.sign_pss(b"s" * 32)))
    yield valid(
        "good-p384-sha384",
        signed_by(
            f.certify("TSA p384", f.ec_key("p384", ec.SECP384R1()), f.intermediate(), f.TSA),
            hash_name="sha384",
            signature_algorithm=f.algorithm(f.ECDSA_WITH_SHA384, b""),
            sign=lambda key, message: f.sign(key, message, hashes.SHA384()),
        ),
    )
    yield valid("good-ed25519", signed_by(f.certify("TSA ed", f.ed_key("ed"), f.intermediate(), f.TSA)))
    yield valid(
        "good-rsa-encryption-oid", replace(GOOD_RSA, signature_algorithm=f.algorithm(f.RSA_ENCRYPTION))
    )
    yield valid(
        "good-accuracy", tst(accuracy=f.seq(f.integer(1), f.tlv(0x80, b"\x02"), f.tlv(0x81, b"\x03")))
    )
    yield valid("good-ordering", tst(ordering=b"\x01\x01\xff"))
    yield valid("good-fraction", tst(gen_time=f.tlv(0x18, b"20261122061319.125Z")))
    yield valid("good-tsa-name", tst(tsa=f.tlv(0xA0, f.tlv(0xA4, f.tsa_p256().subject))))
    yield valid(
        "good-tsa-name-other-string-type", tst(tsa=f.tlv(0xA0, f.tlv(0xA4, f.name("TSA p256", 0x13))))
    )
    dns = f.tlv(0x82, b"tsa.example")
    party = f.certify(
        "TSA san",
        f.ec_key("san"),
        f.intermediate(),
        [*f.TSA, f.extension("2.5.29.17", f.seq(dns), critical=False)],
    )
    yield valid("good-tsa-alternative-name", signed_by(party, tst_info={"tsa": f.tlv(0xA0, dns)}))
    yield valid("good-extension-not-critical", tst(extensions=f.tlv(0xA1, extension(critical=b""))))
    yield valid("good-status-text-known", status(f.integer(0), f.seq(f.utf8("Operation Okay"))))
    both = attributes(signing_certificate_v1=attribute_v1(f.certificate_id(f.tsa_p256(), "sha1")))
    yield valid("good-both-signing-certificates", both)
    explicit = f.seq(f.algorithm(f.SHA256), f.octets(fingerprint(f.tsa_p256())), issuer_serial())
    yield valid(
        "good-esscertid-explicit-hash-issuer-serial", attributes(signing_certificate=attribute_v2(explicit))
    )
    beside = f.certify("Beside", f.ec_key("beside"), f.root(), f.CA)
    yield valid("good-extra-certificate-issued-by-root", with_certificates(beside))
    below = f.certify("Below", f.ec_key("below"), beside, f.TSA)
    yield valid("good-extra-chain-leads-to-root", with_certificates(below, beside))
    stranger = f.certify("Stranger", f.ec_key("stranger"), None, f.CA)
    yield valid("good-extra-certificate-given", with_certificates(stranger), intermediates=[stranger])
    yield valid(
        "good-no-certificates-all-given",
        replace(GOOD, certificates=[]),
        intermediates=[f.intermediate(), f.tsa_p256()],
    )
    yield valid("good-signer-is-the-given-root", GOOD, roots=[f.tsa_p256(), f.intermediate()])
    yield Case(name="good-bare-token", response=GOOD.token_bytes(), error=None, roots=[f.root()])
