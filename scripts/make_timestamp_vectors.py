"""Write tests/vectors/timestamp/own: one timestamp response per defect, and a few that are valid.

Each response has exactly the defect that its name says; everything else, signatures included, is right. Keys and
signatures are deterministic (tests/timestamp/forge.py). ``cases.json`` says for each what is expected and, where
it is invalid, a part of the reason. ``--check`` writes nothing and exits 1 if a file differs, is missing or is
left over.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

from tests.timestamp import forge as f  # noqa: E402

TARGET = ROOT / "tests" / "vectors" / "timestamp" / "own"

GOOD = f.Token()
GOOD_RSA = f.Token(signer=f.tsa_rsa())


@dataclass(frozen=True, kw_only=True)
class Case:
    """``error`` is a part of the reason; a valid case has none."""

    name: str
    response: bytes
    error: str | None
    roots: Sequence[f.Party]
    intermediates: Sequence[f.Party] = ()


def valid(name: str, token: f.Token, roots: Sequence[f.Party] | None = None, **more: Any) -> Case:
    return Case(name=name, response=token.response_bytes(), error=None, roots=roots or [f.root()], **more)


def invalid(
    name: str, error: str, token: f.Token | bytes, roots: Sequence[f.Party] | None = None, **more: Any
) -> Case:
    response = token if isinstance(token, bytes) else token.response_bytes()
    return Case(name=name, response=response, error=error, roots=roots or [f.root()], **more)


def tst(**fields: bytes) -> f.Token:
    return replace(GOOD, tst_info=fields)


def signer_info(**fields: bytes) -> f.Token:
    return replace(GOOD, signer_info=fields)


def signed_data(**fields: bytes) -> f.Token:
    return replace(GOOD, signed_data=fields)


def attributes(**fields: bytes) -> f.Token:
    return replace(GOOD, attributes=fields)


def signed_by(party: f.Party, **more: Any) -> f.Token:
    return f.Token(signer=party, **more)


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


def response_cases() -> Iterator[Case]:
    yield invalid("status-granted-with-mods", "granted with modifications", status(f.integer(1)))
    yield invalid("status-waiting", "waiting", status(f.integer(3)))
    yield invalid("status-failure-bit", "did not grant", status(f.integer(0), f.tlv(0x03, b"\x07\x80")))
    yield invalid("status-text-unknown", "status text", status(f.integer(0), f.seq(f.utf8("Operation Okaz"))))
    yield invalid(
        "status-text-not-utf8-string", "UTF-8", status(f.integer(0), f.seq(f.tlv(0x16, b"Operation Okay")))
    )
    yield invalid("status-text-empty", "status text", status(f.integer(0), f.seq()))
    yield invalid("status-trailing", "after the last field", status(f.integer(0), f.NULL))
    yield invalid("response-without-token", "no token", replace(GOOD, response={"token": b""}))
    yield invalid("response-trailing-field", "after the last field", replace(GOOD, response={"more": f.NULL}))
    yield invalid("response-trailing-bytes", "after the last field", GOOD.response_bytes() + b"\0")
    yield invalid("response-truncated", "truncated", GOOD.response_bytes()[:-1])
    yield invalid("response-not-a-sequence", "expected tag", b"\x31" + GOOD.response_bytes()[1:])
    yield invalid("token-trailing-bytes", "after the last field", GOOD.token_bytes() + b"\0")
    yield invalid("too-large", "at most", replace(GOOD, certificates=big_certificates()))


def token_cases() -> Iterator[Case]:
    yield invalid(
        "content-info-not-signed-data", "not signed data", replace(GOOD, content_info={"type": f.oid(f.DATA)})
    )
    yield invalid(
        "content-info-trailing", "after the last field", replace(GOOD, content_info={"more": f.NULL})
    )
    wrapped = f.tlv(0xA0, GOOD.signed_data_bytes(), f.NULL)
    yield invalid(
        "content-info-two-contents", "after the last field", replace(GOOD, content_info={"content": wrapped})
    )
    yield invalid("signed-data-version-1", "only version 3", signed_data(version=f.integer(1)))
    yield invalid("signed-data-trailing", "after the last field", signed_data(more=f.NULL))
    yield invalid("digest-algorithms-empty", "missing", signed_data(digest_algorithms=f.set_()))
    other = f.set_(f.algorithm(f.SHA384))
    yield invalid("digest-algorithms-other", "not just the signer's", signed_data(digest_algorithms=other))
    two = f.set_(f.algorithm(f.SHA256), f.algorithm(f.SHA384))
    yield invalid("digest-algorithms-two", "not just the signer's", signed_data(digest_algorithms=two))
    content = f.tlv(0xA0, f.octets(GOOD.tst_info_bytes()))
    yield invalid("content-type-data", "is not TSTInfo", signed_data(content=f.seq(f.oid(f.DATA), content)))
    yield invalid(
        "content-trailing", "after the last", signed_data(content=f.seq(f.oid(f.TST_INFO), content, f.NULL))
    )
    two = f.tlv(0xA0, f.octets(GOOD.tst_info_bytes()), f.octets(b"more"))
    yield invalid(
        "content-two-octet-strings", "after the last", signed_data(content=f.seq(f.oid(f.TST_INFO), two))
    )
    yield invalid("content-missing", "missing", signed_data(content=f.seq(f.oid(f.TST_INFO))))
    yield invalid("certificates-empty-set", "1 to 16", signed_data(certificates=f.tlv(0xA0)))
    many = [f.root().certificate] * 15 + [f.intermediate().certificate, f.tsa_p256().certificate]
    yield invalid("certificates-17", "1 to 16", replace(GOOD, certificates=many))
    odd = [f.intermediate().certificate, f.tsa_p256().certificate, f.tlv(0xA1, f.NULL)]
    yield invalid("certificates-other-kind", "not an X.509", replace(GOOD, certificates=odd))
    yield invalid("crls-present", "revocation lists", signed_data(crls=f.tlv(0xA1, f.seq())))
    signer = GOOD.signer_info_bytes(GOOD.tst_info_bytes())
    yield invalid("two-signers", "more than one signer", signed_data(signers=f.set_(signer, signer)))
    yield invalid("no-signer", "missing", signed_data(signers=f.set_()))


def signer_cases() -> Iterator[Case]:
    party = f.tsa_p256()
    yield invalid("signer-version-3", "only version 1", signer_info(version=f.integer(3)))
    yield invalid(
        "signer-other-issuer", "neither in the token", signer_info(sid=sid(f.root().subject, party.serial))
    )
    yield invalid("signer-other-serial", "neither in the token", signer_info(sid=sid(party.issuer, 5)))
    long = f.seq(party.issuer, f.integer(party.serial), f.NULL)
    yield invalid("signer-name-trailing", "after the last field", signer_info(sid=long))
    direct = f.octets(f.sign(party.key, GOOD.tst_info_bytes()))
    yield invalid(
        "no-signed-attributes", "signed attributes are missing", signer_info(attributes=b"", signature=direct)
    )
    unsigned = f.tlv(0xA1, f.attribute("1.2.3", f.NULL))
    yield invalid("unsigned-attributes", "unsigned attributes", signer_info(unsigned=unsigned))
    yield invalid(
        "digest-algorithm-parameters",
        "parameters",
        signer_info(digest_algorithm=f.algorithm(f.SHA256, f.octets(b"x"))),
    )
    yield invalid(
        "algorithm-trailing",
        "after the last field",
        signer_info(algorithm=f.seq(f.oid(f.ECDSA_WITH_SHA256), f.NULL, f.NULL)),
    )
    broken = bytearray(f.sign(party.key, f.set_(*GOOD.attribute_list(GOOD.tst_info_bytes()))))
    broken[-1] ^= 1
    yield invalid(
        "signature-broken", "signature does not match", signer_info(signature=f.octets(bytes(broken)))
    )


def attribute_cases() -> Iterator[Case]:
    backwards = replace(GOOD, arrange=lambda values: sorted(values, reverse=True))
    yield invalid("attributes-not-sorted", "not in DER order", backwards)
    yield invalid("attribute-not-a-sequence", "not an attribute", attributes(more=f.octets(b"x")))
    yield invalid(
        "attribute-trailing",
        "after the last field",
        attributes(more=f.seq(f.oid("1.2.3"), f.set_(f.NULL), f.NULL)),
    )
    twice = f.attribute("1.2.3", f.NULL)
    yield invalid(
        "attribute-twice", "present twice", attributes(one=twice, two=f.attribute("1.2.3", f.integer(1)))
    )
    yield invalid(
        "attribute-two-values", "after the last field", attributes(more=f.attribute("1.2.3", f.NULL, f.NULL))
    )
    yield invalid("attribute-no-value", "missing", attributes(more=f.attribute("1.2.3")))
    yield invalid("content-type-attribute-missing", "contentType", attributes(content_type=b""))
    data = f.attribute(f.CONTENT_TYPE, f.oid(f.DATA))
    yield invalid("content-type-attribute-data", "contentType", attributes(content_type=data))
    yield invalid("message-digest-missing", "messageDigest is missing", attributes(message_digest=b""))
    digest = fingerprint_of(GOOD.tst_info_bytes())
    bits = f.attribute(f.MESSAGE_DIGEST, f.tlv(0x03, digest))
    yield invalid("message-digest-not-octets", "not an octet string", attributes(message_digest=bits))
    wrong = f.attribute(f.MESSAGE_DIGEST, f.octets(f.DIGEST))
    yield invalid("message-digest-wrong", "messageDigest does not match", attributes(message_digest=wrong))
    yield from signing_certificate_cases()


def signing_certificate_cases() -> Iterator[Case]:
    digest = f.octets(fingerprint(f.tsa_p256()))

    def case(name: str, error: str, *identifier: bytes) -> Case:
        return invalid(name, error, attributes(signing_certificate=attribute_v2(f.seq(*identifier))))

    yield invalid("esscertid-missing", "ESSCertID is missing", attributes(signing_certificate=b""))
    yield case("esscertid-other-hash", "does not match", f.octets(bytes(32)))
    yield case("esscertid-other-issuer", "does not match", digest, issuer_serial(issuer=f.root().subject))
    yield case("esscertid-other-serial", "does not match", digest, issuer_serial(serial=5))
    yield case("esscertid-trailing", "after the last field", digest, issuer_serial(), f.NULL)
    yield case("esscertid-hash-not-octets", "not an octet string", f.tlv(0x03, fingerprint(f.tsa_p256())))
    sha1 = f.octets(f.certificate_id(f.tsa_p256(), "sha1")[4:])
    yield case("esscertid-v2-with-sha1", "not accepted", f.algorithm("1.3.14.3.2.26"), sha1)
    long = f.seq(f.seq(f.tlv(0xA4, f.tsa_p256().issuer), f.NULL), f.integer(f.tsa_p256().serial))
    yield case("esscertid-two-names", "after the last field", digest, long)
    long = f.seq(f.seq(f.tlv(0xA4, f.tsa_p256().issuer)), f.integer(f.tsa_p256().serial), f.NULL)
    yield case("esscertid-issuer-serial-trailing", "after the last field", digest, long)
    long = f.seq(f.seq(f.tlv(0xA4, f.tsa_p256().issuer, f.NULL)), f.integer(f.tsa_p256().serial))
    yield case("esscertid-name-trailing", "after the last field", digest, long)
    value = f.seq(f.seq(f.seq(digest)), f.seq(), f.NULL)
    whole = f.attribute(f.SIGNING_CERTIFICATE_V2, value)
    yield invalid(
        "signing-certificate-trailing", "after the last field", attributes(signing_certificate=whole)
    )
    wrong = attribute_v1(f.seq(f.octets(bytes(20))))
    yield invalid("esscertid-v1-wrong-beside-v2", "does not match", attributes(signing_certificate_v1=wrong))
    second = f.attribute(
        f.SIGNING_CERTIFICATE_V2,
        f.seq(f.seq(f.certificate_id(f.intermediate()), f.certificate_id(f.tsa_p256()))),
    )
    yield invalid("esscertid-signer-is-second", "does not match", attributes(signing_certificate=second))


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


def purpose_cases() -> Iterator[Case]:
    def case(name: str, error: str, *extensions: bytes) -> Case:
        return invalid(
            name, error, signed_by(f.certify("TSA x", f.ec_key("x"), f.intermediate(), extensions))
        )

    ca = f.certify("Above", f.ec_key("above"), f.root(), f.CA)
    basic, usage, purpose = f.TSA
    yield case("purpose-missing", "no extended key usage", basic, usage)
    yield case(
        "purpose-not-critical", "not critical", basic, usage, f.purpose(f.TIME_STAMPING, critical=False)
    )
    yield case("purpose-other", "not exactly", basic, usage, f.purpose(f.SERVER_AUTH))
    yield case("purpose-two", "not exactly", basic, usage, f.purpose(f.TIME_STAMPING, f.SERVER_AUTH))
    authority = f.certify("CA x", f.ec_key("x"), ca, (f.basic(ca=True), usage, purpose))
    yield invalid(
        "signer-is-an-authority",
        "certificate authority",
        signed_by(authority, certificates=chain(authority, ca)),
    )
    yield case("signer-may-sign-certificates", "does not allow", basic, f.usage(b"\x02\x84"), purpose)
    yield case("signer-may-not-sign", "does not allow", basic, f.usage(b"\x05\x20"), purpose)
    yield case(
        "signer-unknown-critical-extension", "no chain", *f.TSA, f.extension("1.2.3.4", f.NULL, critical=True)
    )
    yield case("signer-extension-twice", "cannot be read", *f.TSA, usage)


def chain_cases() -> Iterator[Case]:
    none = "no chain"

    def below(name: str, error: str, ca: f.Party) -> Case:
        party = f.certify("TSA below", f.ec_key("below tsa"), ca, f.TSA)
        return invalid(name, error, signed_by(party, certificates=chain(party, ca)))

    def authority(*extensions: bytes, key: Any = None, **more: Any) -> f.Party:
        return f.certify("Odd CA", key or f.ec_key("odd"), f.root(), extensions or f.CA, **more)

    yield below("authority-not-a-ca", none, authority(f.basic(ca=False), f.CERT_SIGN))
    yield below("authority-without-basic-constraints", none, authority(f.CERT_SIGN))
    yield below("authority-may-not-sign-certificates", none, authority(f.basic(ca=True), f.DIGITAL_SIGNATURE))
    yield below("authority-other-purpose", none, authority(*f.CA, f.purpose(f.SERVER_AUTH, critical=False)))
    yield below(
        "authority-unknown-critical-extension",
        none,
        authority(*f.CA, f.extension("1.2.3.4", f.NULL, critical=True)),
    )
    yield below("authority-expired", none, authority(not_after=datetime(2026, 1, 1, tzinfo=UTC)))
    yield below("authority-not-yet-valid", none, authority(not_before=datetime(2027, 1, 1, tzinfo=UTC)))
    yield below("authority-rsa1024", none, authority(key=f.rsa_key("small", 1024)))
    yield below("authority-p521", "is not accepted", authority(key=f.ec_key("p521", ec.SECP521R1())))
    yield below("authority-ed25519", none, authority(key=f.ed_key("ca")))
    yield below("authority-path-length", none, f.certify("Deep", f.ec_key("deep"), f.intermediate(), f.CA))
    weak = f.certify("Weak root", f.rsa_key("weak root"), None, f.CA)
    sha1 = f.certify(
        "TSA sha1", f.ec_key("tsa"), weak, f.TSA, signature=(f.algorithm(f.SHA1_WITH_RSA), f.sign_sha1)
    )
    yield invalid("certificate-sha1", none, signed_by(sha1, certificates=[sha1.certificate]), roots=[weak])
    expired = f.certify("Old root", f.ec_key("old"), None, f.CA, not_after=datetime(2026, 1, 1, tzinfo=UTC))
    party = f.certify("TSA old", f.ec_key("tsa"), expired, f.TSA)
    yield invalid("root-expired", none, signed_by(party, certificates=[party.certificate]), roots=[expired])
    early = f.certify(
        "TSA e", f.ec_key("tsa"), f.intermediate(), f.TSA, not_after=datetime(2026, 1, 1, tzinfo=UTC)
    )
    yield invalid("signer-expired-before-gen-time", none, signed_by(early))
    late = f.certify(
        "TSA l", f.ec_key("tsa"), f.intermediate(), f.TSA, not_before=datetime(2027, 1, 1, tzinfo=UTC)
    )
    yield invalid("signer-not-yet-valid", none, signed_by(late))
    yield invalid("chain-incomplete", none, replace(GOOD, certificates=[f.tsa_p256().certificate]))
    evil_root = f.certify("Root", f.ec_key("evil root"), None, f.CA)
    evil = f.certify("Inter", f.ec_key("evil inter"), evil_root, f.CA)
    party = f.certify("TSA p256", f.ec_key("evil"), evil, f.TSA)
    yield invalid("attacker-chain", none, signed_by(party, certificates=chain(party, evil, evil_root)))
    lone = f.certify("Lone", f.ec_key("lone"), None, f.TSA)
    yield invalid("attacker-self-signed", none, signed_by(lone, certificates=[lone.certificate]))


def certificate_cases() -> Iterator[Case]:
    stranger = f.certify("Stranger", f.ec_key("stranger"), None, f.CA)
    yield invalid("extra-certificate-of-a-stranger", "leads to no given root", with_certificates(stranger))
    beside = f.certify("Beside", f.ec_key("beside"), f.root(), f.CA)
    mutated = bytearray(beside.certificate)
    mutated[-1] ^= 1
    yield invalid(
        "extra-certificate-mutated",
        "leads to no given root",
        with_certificates(replace(beside, certificate=bytes(mutated))),
    )
    yield invalid(
        "extra-certificate-garbage", "certificate", with_certificates(replace(beside, certificate=f.seq()))
    )
    unread = f.seq(f.seq(f.tlv(0xA0), f.integer(1), f.seq(), f.seq(), f.seq(), f.seq()), f.seq(), f.bits(b""))
    yield invalid(
        "extra-certificate-hollow", "cannot be read", with_certificates(replace(beside, certificate=unread))
    )
    zero = f.certify("Zero", f.ec_key("beside"), f.root(), f.CA, serial=0)
    yield invalid("extra-certificate-serial-0", "not positive", with_certificates(zero))
    # Found by trying: the last bit of this signature is 0, so that it may be declared unused.
    even = next(
        party
        for number in range(1, 99)
        if not (party := f.certify("Even", f.ec_key("beside"), f.root(), f.CA, serial=number)).certificate[-1]
        & 1
    )
    unused = f.certify("Even", f.ec_key("beside"), f.root(), f.CA, serial=even.serial, unused=1)
    yield invalid("extra-certificate-unused-bit", "whole octets", with_certificates(unused))
    outer = f.certify(
        "Outer", f.ec_key("beside"), f.root(), f.CA, outer=f.algorithm(f.ECDSA_WITH_SHA384, b"")
    )
    yield invalid("extra-certificate-two-algorithms", "two different", with_certificates(outer))
    # A certificate of this size begins with 4 bytes of tag and length.
    trailing = replace(beside, certificate=f.seq(beside.certificate[4:], f.NULL))
    yield invalid("extra-certificate-trailing", "after the last field", with_certificates(trailing))


def status(*fields: bytes) -> f.Token:
    return replace(GOOD, response={"status": f.seq(*fields)})


def extension(*, critical: bytes = b"\x01\x01\xff", more: bytes = b"") -> bytes:
    return f.seq(f.oid("1.2.3.4"), critical, f.octets(f.NULL), more)


def attribute_v1(identifier: bytes) -> bytes:
    return f.attribute(f.SIGNING_CERTIFICATE, f.seq(f.seq(identifier)))


def attribute_v2(identifier: bytes) -> bytes:
    return f.attribute(f.SIGNING_CERTIFICATE_V2, f.seq(f.seq(identifier)))


def fingerprint_of(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def fingerprint(party: f.Party) -> bytes:
    return fingerprint_of(party.certificate)


def sid(issuer: bytes, serial: int) -> bytes:
    return f.seq(issuer, f.integer(serial))


def issuer_serial(issuer: bytes | None = None, serial: int | None = None) -> bytes:
    party = f.tsa_p256()
    return f.seq(f.seq(f.tlv(0xA4, issuer or party.issuer)), f.integer(serial or party.serial))


def chain(*parties: f.Party) -> list[bytes]:
    return [party.certificate for party in parties]


def with_certificates(*extra: f.Party) -> f.Token:
    return replace(GOOD, certificates=chain(f.intermediate(), f.tsa_p256(), *extra))


def big_certificates() -> list[bytes]:
    """The usual certificates and valid ones of the root's with long names, beyond 64 KiB in all."""
    note = f.extension("1.2.3.5", f.octets(bytes(6000)), critical=False)
    extra = [f.certify(f"Big {i}", f.ec_key("beside"), f.root(), [*f.CA, note]) for i in range(12)]
    return chain(f.intermediate(), f.tsa_p256(), *extra)


def pss(
    *,
    hash_oid: str = f.SHA256,
    mask_oid: str = f.SHA256,
    function: str = f.MGF1,
    salt: int = 32,
    hash_more: bytes = b"",
    mask_more: bytes = b"",
    mask_inner: bytes = b"",
    salt_more: bytes = b"",
    more: bytes = b"",
) -> bytes:
    mask = f.seq(f.oid(function), f.algorithm(mask_oid) + mask_inner)
    parameters = f.seq(
        f.tlv(0xA0, f.algorithm(hash_oid), hash_more),
        f.tlv(0xA1, mask, mask_more),
        f.tlv(0xA2, f.integer(salt), salt_more),
        more,
    )
    return f.algorithm(f.RSASSA_PSS, parameters)


def all_cases() -> list[Case]:
    makers = (
        valid_cases,
        response_cases,
        token_cases,
        signer_cases,
        attribute_cases,
        algorithm_cases,
        statement_cases,
        purpose_cases,
        chain_cases,
        certificate_cases,
    )
    cases = [case for maker in makers for case in maker()]
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise SystemExit("two cases have the same name")
    return cases


def files() -> dict[str, bytes]:
    """Every file of the directory by name."""
    made: dict[str, bytes] = {}
    entries = []
    for case in all_cases():
        entry: dict[str, Any] = {
            "name": case.name,
            "expect": "valid" if case.error is None else "invalid",
            "digest": f.DIGEST.hex(),
            "hash": "sha256",
            "nonce": f.NONCE,
            "policy": f.POLICY,
            "verify_at": "2026-11-22T06:13:21Z",
            "response": f"{case.name}.tsr",
            "roots": certificate_file(made, case.roots),
        }
        if case.intermediates:
            entry["intermediates"] = certificate_file(made, case.intermediates)
        if case.error is not None:
            entry["error"] = case.error
        made[f"{case.name}.tsr"] = case.response
        entries.append(entry)
    made["cases.json"] = (json.dumps(entries, indent=1) + "\n").encode()
    return made


def certificate_file(made: dict[str, bytes], parties: Sequence[f.Party]) -> str:
    """Name of the PEM file with these certificates, made if it is new."""
    content = b"".join(party.pem() for party in parties)
    name = f"{fingerprint_of(content).hex()[:12]}.pem"
    made[name] = content
    return name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    made = files()
    there = {path.name: path.read_bytes() for path in TARGET.glob("*")} if TARGET.is_dir() else {}
    stale = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
    if check:
        for name in stale:
            print(f"{name} differs from what this script makes", file=sys.stderr)
        return 1 if stale else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in made:
            (TARGET / name).write_bytes(made[name])
        else:
            (TARGET / name).unlink()
    print(f"{len(made)} files, {len(stale)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
