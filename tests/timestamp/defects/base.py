"""What cases are made of: a token with one field bent, and what is expected of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives import hashes

from tests.timestamp import forge as f

GOOD = f.Token()
GOOD_RSA = f.Token(signer=f.tsa_rsa())


@dataclass(frozen=True, kw_only=True)
class Case:
    """``error`` is a part of the reason; a valid case has none. ``asked``: what differs in the verifier's question."""

    name: str
    response: bytes
    error: str | None
    roots: Sequence[f.Party]
    intermediates: Sequence[f.Party] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)


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
