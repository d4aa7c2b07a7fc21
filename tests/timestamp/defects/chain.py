"""Defects of certificates and chains."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tests.timestamp import forge as f
from tests.timestamp.defects.base import GOOD, Case, chain, invalid, signed_by, with_certificates


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
