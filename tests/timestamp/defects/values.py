"""Values at their limits and combinations that occur: those that are right, and those one step beyond."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.timestamp import forge as f
from tests.timestamp.defects.base import (
    GOOD,
    GOOD_RSA,
    Case,
    attributes,
    chain,
    fingerprint_of,
    invalid,
    pss,
    signed_by,
    status,
    tst,
    valid,
    with_certificates,
)

SHA512 = "2.16.840.1.101.3.4.2.3"
QUALIFIED = f.seq(f.oid("1.3.6.1.5.5.7.1.3"), f.octets(f.seq(f.seq(f.oid("0.4.0.19422.1.1")))))
"""The statement of ETSI EN 319 422 that a token is a qualified one."""


def number_cases() -> Iterator[Case]:
    """Serial numbers, nonces and accuracies."""
    yield valid("good-serial-0", tst(serial=f.integer(0)))
    yield valid("good-serial-20-bytes", tst(serial=f.integer(2**159 - 1)))
    yield valid("good-serial-21-bytes", tst(serial=f.integer(2**160 - 1)))
    yield valid("good-serial-negative", tst(serial=f.integer(-4711)))
    yield invalid("serial-65-bytes", "an integer of 65 bytes", tst(serial=f.integer(2**512)))
    yield valid("good-nonce-0", tst(nonce=f.integer(0)), asked={"nonce": 0})
    yield valid("good-nonce-negative", tst(nonce=f.integer(-5)), asked={"nonce": -5})
    yield valid("good-nonce-32-bytes", tst(nonce=f.integer(2**255 - 1)), asked={"nonce": 2**255 - 1})
    yield invalid(
        "nonce-65-bytes", "an integer of 65 bytes", tst(nonce=f.integer(2**512)), asked={"nonce": 2**512}
    )
    unsigned = int.from_bytes((-5).to_bytes(8, "big", signed=True), "big")
    yield invalid(
        "nonce-negative-for-unsigned", "the nonce is -5", tst(nonce=f.integer(-5)), asked={"nonce": unsigned}
    )
    yield valid("good-accuracy-empty", tst(accuracy=f.seq()))
    yield valid("good-accuracy-seconds-0", tst(accuracy=f.seq(f.integer(0))))
    yield valid("good-accuracy-micros-only", tst(accuracy=f.seq(f.tlv(0x81, b"\x01"))))
    yield valid("good-accuracy-a-day", tst(accuracy=f.seq(f.integer(86400))))
    yield invalid("accuracy-seconds-huge", "is not within", tst(accuracy=f.seq(f.integer(2**31 + 1))))
    yield invalid("accuracy-micros-0", "is not within", tst(accuracy=f.seq(f.tlv(0x81, b"\x00"))))
    swapped = f.seq(f.tlv(0x81, b"\x03"), f.tlv(0x80, b"\x02"))
    yield invalid("accuracy-fields-swapped", "after the last field", tst(accuracy=swapped))


def time_cases() -> Iterator[Case]:
    """genTime in forms near the right one, and at the edges of the signer's validity."""
    for name, text, error in (
        ("fraction-of-zeros", b"20261122061319.000Z", "not in DER form"),
        ("ten-digits", b"20261122061319.1234567891Z", "not in DER form"),
        ("two-fractions", b"20261122061319.1.1Z", "not in DER form"),
        ("lower-case-z", b"20261122061320z", "not in DER form"),
        ("offset-west", b"20261122061320-0500", "not in DER form"),
        ("space", b" 20261122061320Z", "not in DER form"),
        ("hour-24", b"20261122240000Z", "does not exist"),
        ("year-0", b"00001122061320Z", "does not exist"),
        ("february-30", b"20260230061320Z", "does not exist"),
        ("arabic-digits", "٢٠261122061320Z".encode(), "not in DER form"),
        ("empty", b"", "not in DER form"),
    ):
        yield invalid(f"gen-time-{name}", error, tst(gen_time=f.tlv(0x18, text)))
    yield invalid("gen-time-year-9999", "lies after", tst(gen_time=f.tlv(0x18, b"99991231235959Z")))
    yield valid("good-fraction-of-nanoseconds", tst(gen_time=f.tlv(0x18, b"20261122061319.123456789Z")))
    yield valid("good-fraction-of-one-digit", tst(gen_time=f.tlv(0x18, b"20261122061319.5Z")))

    def until(name: str, **limits: datetime) -> f.Token:
        return signed_by(f.certify(f"TSA {name}", f.ec_key("tsa"), f.intermediate(), f.TSA, **limits))

    half = {"gen_time": f.tlv(0x18, b"20261122061320.5Z")}
    yield valid(
        "good-fraction-of-the-last-second", replace(until("last", not_after=f.GEN_TIME), tst_info=half)
    )
    second = timedelta(seconds=1)
    yield valid("good-last-second-of-signer", until("last", not_after=f.GEN_TIME))
    yield valid("good-first-second-of-signer", until("first", not_before=f.GEN_TIME))
    none = "no chain"
    yield invalid("signer-expired-a-second-before", none, until("over", not_after=f.GEN_TIME - second))
    yield invalid("signer-valid-a-second-later", none, until("soon", not_before=f.GEN_TIME + second))
    upside = until("inverted", not_before=f.GEN_TIME + second, not_after=f.GEN_TIME - second)
    yield invalid("signer-validity-inverted", none, upside)
    yield valid("good-signer-expired-now", until("gone", not_after=datetime(2026, 11, 23, tzinfo=UTC)))


def statement_cases() -> Iterator[Case]:
    """Other fields of the TSTInfo."""
    yield invalid("tst-version-0", "only version 1", tst(version=f.integer(0)))
    yield invalid("tst-nonce-twice", "after the last field", tst(tsa=f.integer(f.NONCE)))
    early = tst(accuracy=f.integer(f.NONCE), nonce=f.seq(f.integer(1)))
    yield invalid("tst-fields-swapped", "after the last field", early)
    sha1 = f.seq(f.algorithm("1.3.14.3.2.26"), f.octets(f.DIGEST[:20]))
    yield invalid("imprint-sha1", "is not accepted", tst(imprint=sha1))
    md5 = f.seq(f.algorithm("1.2.840.113549.2.5"), f.octets(f.DIGEST[:16]))
    yield invalid("imprint-md5", "is not accepted", tst(imprint=md5))
    bare = f.seq(f.algorithm(f.SHA256, b""), f.octets(f.DIGEST))
    yield valid("good-imprint-without-parameters", tst(imprint=bare))
    odd = f.seq(f.algorithm(f.SHA256, f.integer(1)), f.octets(f.DIGEST))
    yield invalid("imprint-algorithm-with-parameters", "with parameters", tst(imprint=odd))
    for size, digest in ((0, b""), (31, f.DIGEST[:31]), (33, f.DIGEST + b"\0")):
        short = f.seq(f.algorithm(f.SHA256), f.octets(digest))
        yield invalid(f"imprint-{size}-bytes", "the imprint is", tst(imprint=short))
    labelled = f.seq(f.algorithm(SHA512), f.octets(f.DIGEST))
    yield invalid("imprint-sha512-of-32-bytes", "expected sha256", tst(imprint=labelled))
    yield valid("good-extension-qualified", tst(extensions=f.tlv(0xA1, QUALIFIED)))
    inter = f.tlv(0xA0, f.tlv(0xA4, f.intermediate().subject))
    yield invalid("tsa-name-of-its-issuer", "does not name the signer", tst(tsa=inter))
    yield invalid("tsa-empty", "missing", tst(tsa=b"\xa0\x00"))
    yield invalid("status-of-no-meaning", "status 6", status(f.integer(6)))
    yield invalid("status-negative", "status -1", status(f.integer(-1)))


def attribute_cases() -> Iterator[Case]:
    """The attributes that decide, each twice or with two values: the right one first."""
    digest = f.octets(fingerprint_of(GOOD.tst_info_bytes()))
    own = f.seq(f.seq(f.certificate_id(f.tsa_p256())))
    other = f.seq(f.seq(f.certificate_id(f.intermediate())))
    for name, kind, right, wrong in (
        ("content-type", f.CONTENT_TYPE, f.oid(f.TST_INFO), f.oid(f.DATA)),
        ("message-digest", f.MESSAGE_DIGEST, digest, f.octets(bytes(32))),
        ("signing-certificate", f.SIGNING_CERTIFICATE_V2, own, other),
    ):
        twice = attributes(again=f.attribute(kind, wrong))
        yield invalid(f"{name}-attribute-twice", "present twice", twice)
        field = name.replace("-", "_")
        values = attributes(**{field: f.attribute(kind, right, wrong)})
        yield invalid(f"{name}-attribute-of-two-values", "after the last field", values)
    same = attributes(again=f.attribute(f.MESSAGE_DIGEST, digest))
    yield invalid("message-digest-attribute-twice-alike", "present twice", same)
    signing_time = f.attribute("1.2.840.113549.1.9.5", f.tlv(0x17, b"990101000000Z"))
    yield valid("good-signing-time-of-another-day", attributes(signing_time=signing_time))
    protection = f.attribute(
        "1.2.840.113549.1.9.52", f.seq(f.algorithm(f.SHA256), f.tlv(0xA1, f.oid(f.ECDSA_WITH_SHA256)))
    )
    yield valid("good-algorithm-protection", attributes(protection=protection))


def algorithm_cases() -> Iterator[Case]:
    """Combinations of key, scheme and hash."""

    def party(name: str, key: Any) -> f.Party:
        return f.certify(f"TSA {name}", key, f.intermediate(), f.TSA)

    p384 = party("p384", f.ec_key("p384", ec.SECP384R1()))
    yield valid("good-p384-sha256", signed_by(p384))
    yield valid(
        "good-p256-sha512",
        replace(
            GOOD,
            hash_name="sha512",
            signature_algorithm=f.algorithm("1.2.840.10045.4.3.4", b""),
            sign=lambda key, message: f.sign(key, message, hashes.SHA512()),
        ),
    )
    ed = party("ed", f.ed_key("ed"))
    yield valid("good-ed25519-sha512", signed_by(ed, hash_name="sha512"))
    sha384 = pss(hash_oid=f.SHA384, mask_oid=f.SHA384, salt=48)
    yield valid(
        "good-pss-sha384",
        replace(
            GOOD_RSA, hash_name="sha384", signature_algorithm=sha384, sign=f.sign_pss(b"s" * 48, "sha384")
        ),
    )
    yield valid("good-pss-salt-0", replace(GOOD_RSA, signature_algorithm=pss(salt=0), sign=f.sign_pss(b"")))
    absent = replace(GOOD_RSA, signature_algorithm=f.algorithm(f.RSASSA_PSS, b""), sign=f.sign_pss(b"s" * 32))
    yield invalid("pss-parameters-absent", "field is missing", absent)
    empty = replace(
        GOOD_RSA, signature_algorithm=f.algorithm(f.RSASSA_PSS, f.seq()), sign=f.sign_pss(b"s" * 20)
    )
    yield invalid("pss-parameters-of-sha1", "field is missing", empty)
    pkcs1 = replace(GOOD_RSA, signature_algorithm=pss())
    yield invalid("pss-around-a-pkcs1-signature", "signature does not match", pkcs1)
    sha1 = replace(GOOD_RSA, signature_algorithm=f.algorithm(f.SHA1_WITH_RSA), sign=f.sign_sha1)
    yield invalid("rsa-sha1-signature", "does not fit", sha1)
    ed_oid = replace(GOOD, signature_algorithm=f.algorithm(f.ED25519, b""))
    yield invalid("ecdsa-key-ed25519-oid", "does not fit", ed_oid)
    yield valid("good-ecdsa-for-rsa-chain", _rsa_chain())


def _rsa_chain() -> f.Token:
    root = f.certify("RSA root", f.rsa_key("weak root"), None, f.CA)
    party = f.certify("TSA mixed", f.ec_key("mixed"), root, f.TSA)
    return signed_by(party, certificates=chain(party, f.certify("RSA root", root.key, f.root(), f.CA)))


def certificate_cases() -> Iterator[Case]:
    """Extended key usages, versions and certificates beside the signer's."""
    basic, usage, _ = f.TSA

    def case(name: str, error: str, *extensions: bytes) -> Case:
        return invalid(
            name, error, signed_by(f.certify("TSA x", f.ec_key("x"), f.intermediate(), extensions))
        )

    yield case("purpose-any", "not exactly", basic, usage, f.purpose("2.5.29.37.0"))
    yield case("purpose-twice", "not exactly", basic, usage, f.purpose(f.TIME_STAMPING, f.TIME_STAMPING))
    yield case("purpose-and-any", "not exactly", basic, usage, f.purpose(f.TIME_STAMPING, "2.5.29.37.0"))
    yield case("certificate-without-extensions", "no extended key usage")
    committed = [basic, f.usage(b"\x06\x40"), f.purpose(f.TIME_STAMPING)]
    lasting = f.certify("TSA commitment", f.ec_key("x"), f.intermediate(), committed)
    yield valid("good-signer-content-commitment", signed_by(lasting))
    free = f.certify("TSA free", f.ec_key("x"), f.intermediate(), [f.purpose(f.TIME_STAMPING)])
    yield valid("good-signer-without-key-usage", signed_by(free))
    yield valid("good-certificate-twice", with_certificates(f.tsa_p256()))
    yield valid("good-root-embedded", with_certificates(f.root()))
    backwards = replace(GOOD, certificates=chain(f.tsa_p256(), f.intermediate()))
    yield valid("good-leaf-first", backwards)
