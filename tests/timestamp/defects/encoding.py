"""Encodings that BER allows and DER does not, and lengths, numbers and tags that no encoder writes.

Where CMS lets a sender use BER (outside what is hashed), the signature is right and only the framing is not DER.
"""

from collections.abc import Iterator
from dataclasses import replace

from tests.timestamp import forge as f
from tests.timestamp.defects.base import (
    GOOD,
    Case,
    extension,
    invalid,
    signed_data,
    signer_info,
    status,
    tst,
    with_certificates,
)

INDEFINITE = "indefinite"
SHORTEST = "shortest form"


def indefinite(tag: int, *parts: bytes) -> bytes:
    """The value in BER's form without a length, closed by two zero bytes."""
    return bytes([tag, 0x80]) + b"".join(parts) + b"\0\0"


def long(tag: int, *parts: bytes) -> bytes:
    """The value with one octet of length more than it needs."""
    content = b"".join(parts)
    size = (len(content).bit_length() + 7) // 8 + (len(content) >= 128)
    return bytes([tag, 0x80 + size]) + len(content).to_bytes(size, "big") + content


def content_of(encoded: bytes) -> bytes:
    """What the length of ``encoded`` covers."""
    return encoded[2:] if encoded[1] < 0x80 else encoded[2 + (encoded[1] & 0x7F) :]


def framing_cases() -> Iterator[Case]:
    """Lengths of the layers from the response inwards."""
    yield invalid("ber-response", INDEFINITE, indefinite(0x30, content_of(GOOD.response_bytes())))
    token = indefinite(0x30, content_of(GOOD.token_bytes()))
    yield invalid("ber-content-info", INDEFINITE, replace(GOOD, response={"token": token}))
    inner = f.tlv(0xA0, indefinite(0x30, content_of(GOOD.signed_data_bytes())))
    yield invalid("ber-signed-data", INDEFINITE, replace(GOOD, content_info={"content": inner}))
    explicit = indefinite(0xA0, GOOD.signed_data_bytes())
    yield invalid("ber-explicit-tag", INDEFINITE, replace(GOOD, content_info={"content": explicit}))
    content = GOOD.tst_info_bytes()
    parts = f.tlv(0x24, f.octets(content[:40]), f.octets(content[40:]))
    split = f.seq(f.oid(f.TST_INFO), f.tlv(0xA0, parts))
    yield invalid("ber-content-in-parts", "expected tag 0x04", signed_data(content=split))
    certificates = indefinite(0xA0, f.intermediate().certificate, f.tsa_p256().certificate)
    yield invalid("ber-certificates", INDEFINITE, signed_data(certificates=certificates))
    attributes = indefinite(0xA0, *GOOD.attribute_list(content))
    yield invalid("ber-signed-attributes", INDEFINITE, signer_info(attributes=attributes))
    bent = replace(GOOD, content=indefinite(0x30, content_of(content)))
    yield invalid("ber-tst-info", INDEFINITE, bent)
    party = f.tsa_p256()
    bent_party = replace(party, certificate=indefinite(0x30, content_of(party.certificate)))
    yield invalid("ber-extra-certificate", INDEFINITE, with_certificates(bent_party))


def length_cases() -> Iterator[Case]:
    """Lengths that are longer than they need to be, or lie."""
    content = GOOD.tst_info_bytes()
    yield invalid("length-not-minimal-response", SHORTEST, long(0x30, content_of(GOOD.response_bytes())))
    yield invalid(
        "length-not-minimal-tst-info", SHORTEST, replace(GOOD, content=long(0x30, content_of(content)))
    )
    signature = f.sign(f.tsa_p256().key, f.set_(*GOOD.attribute_list(content)))
    yield invalid("length-not-minimal-signature", SHORTEST, signer_info(signature=long(0x04, signature)))
    imprint = f.seq(f.algorithm(f.SHA256), long(0x04, f.DIGEST))
    yield invalid("length-not-minimal-imprint", SHORTEST, tst(imprint=imprint))
    yield invalid("length-beyond-the-end", "truncated", tst(nonce=b"\x02\x09\x12\x34"))
    five = b"\x30\x85\0" + len(content_of(GOOD.response_bytes())).to_bytes(4, "big")
    yield invalid("length-of-5-octets", "too long", five + content_of(GOOD.response_bytes()))
    huge = b"\x30\x84\xff\xff\xff\xff" + content_of(GOOD.response_bytes())
    yield invalid("length-of-4-gigabytes", "truncated", huge)


def number_cases() -> Iterator[Case]:
    """Integers and object identifiers with bytes that say nothing."""
    padded = f.tlv(0x02, b"\x00\x01")
    yield invalid("integer-not-minimal-tst-version", SHORTEST, tst(version=padded))
    yield invalid("integer-not-minimal-serial", SHORTEST, tst(serial=f.tlv(0x02, b"\x00\x12\x67")))
    nonce = b"\x00" + f.NONCE.to_bytes(8, "big")
    yield invalid("integer-not-minimal-nonce", SHORTEST, tst(nonce=f.tlv(0x02, nonce)))
    yield invalid("integer-not-minimal-accuracy", SHORTEST, tst(accuracy=f.seq(padded)))
    yield invalid("integer-not-minimal-negative", SHORTEST, tst(serial=f.tlv(0x02, b"\xff\x80")))
    yield invalid("integer-not-minimal-status", SHORTEST, status(f.tlv(0x02, b"\x00\x00")))
    yield invalid("integer-not-minimal-signed-data", SHORTEST, signed_data(version=f.tlv(0x02, b"\x00\x03")))
    yield invalid("integer-not-minimal-signer-version", SHORTEST, signer_info(version=padded))
    party = f.tsa_p256()
    number = f.integer(party.serial)
    longer = f.seq(party.issuer, f.tlv(0x02, b"\x00" + content_of(number)))
    yield invalid("integer-not-minimal-signer-serial", SHORTEST, signer_info(sid=longer))
    yield invalid("integer-empty", "an integer of 0 bytes", tst(serial=b"\x02\x00"))
    policy = content_of(f.oid(f.POLICY))
    yield invalid("oid-not-minimal", SHORTEST, tst(policy=f.tlv(0x06, policy[:5] + b"\x80" + policy[5:])))
    yield invalid("oid-truncated", "empty or truncated", tst(policy=f.tlv(0x06, policy + b"\x81")))
    far = f.tlv(0x06, b"\x2b" + b"\xff" * 3000 + b"\x7f")
    yield invalid("oid-of-3002-bytes", "an object identifier of 3002 bytes", tst(policy=far))
    edge = f.tlv(0x06, b"\x2b" + b"\xff" * 63 + b"\x7f")
    yield invalid("oid-of-65-bytes", "an object identifier of 65 bytes", tst(policy=edge))
    yield invalid("oid-empty", "empty or truncated", tst(policy=b"\x06\x00"))


def tag_cases() -> Iterator[Case]:
    """Tags that stand for something else, or take more than a byte."""
    yield invalid("tag-of-two-bytes", "more than one byte", tst(serial=b"\x1f\x21\x01\x00"))
    digits = content_of(f.time(f.GEN_TIME))
    yield invalid("tag-utc-time-for-gen-time", "expected tag 0x18", tst(gen_time=f.tlv(0x17, digits[2:])))
    parts = f.tlv(0x38, f.tlv(0x18, digits))
    yield invalid("tag-gen-time-in-parts", "expected tag 0x18", tst(gen_time=parts))
    bent = replace(GOOD, content=b"\x31" + GOOD.tst_info_bytes()[1:])
    yield invalid("tag-set-for-tst-info", "expected tag 0x30", bent)
    critical = extension(critical=b"\x01\x01\x00")
    yield invalid("extension-critical-false-written", "default value", tst(extensions=f.tlv(0xA1, critical)))
    yield invalid("extensions-empty", "none in it", tst(extensions=f.tlv(0xA1)))
    twice = f.tlv(0xA1, extension(critical=b""), extension(critical=b""))
    yield invalid("extension-twice", "present twice", tst(extensions=twice))
