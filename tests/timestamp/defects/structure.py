"""Defects of the response, of SignedData, SignerInfo and the signed attributes."""

from collections.abc import Iterator
from dataclasses import replace

from tests.timestamp import forge as f
from tests.timestamp.defects.base import (
    GOOD,
    Case,
    attribute_v1,
    attribute_v2,
    attributes,
    big_certificates,
    fingerprint,
    fingerprint_of,
    invalid,
    issuer_serial,
    sid,
    signed_data,
    signer_info,
    status,
)


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
