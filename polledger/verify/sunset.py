"""Algorithms that the policy no longer counts from a day on: which of them a token rests on. Policy ``time.sunset``."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from polledger.timestamp.token import Timestamp

_CURVES = {"secp256r1": "p256", "secp384r1": "p384"}


def sunset(timestamp: Timestamp, days: Mapping[str, str]) -> tuple[datetime, str] | None:
    """The last moment before the first of ``days`` that concerns the token, and the algorithm; None if none does.

    What its own signature, every certificate on its chain and its imprint use concerns it; the root's signature over
    itself does not. A day for ``rsa3072`` concerns every RSA key of at most 3072 bits.
    """
    used = {timestamp.hash_name, timestamp.signature_hash, *_chain(timestamp.chain)}
    found = [(day, name) for name, day in days.items() if any(_concerns(name, one) for one in used)]
    if not found:
        return None
    day, name = min(found)
    return datetime.combine(date.fromisoformat(day), time(), UTC) - timedelta(microseconds=1), name


def _chain(chain: tuple[x509.Certificate, ...]) -> Iterator[str]:
    for certificate in chain:
        yield _key(certificate)
    for certificate in chain[:-1]:
        if certificate.signature_hash_algorithm is not None:
            yield certificate.signature_hash_algorithm.name


def _key(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name, key.curve.name)
    return "ed25519"


def _concerns(name: str, used: str) -> bool:
    bits = [re.fullmatch(r"rsa(\d+)", text) for text in (name, used)]
    if bits[0] and bits[1]:
        return int(bits[1][1]) <= int(bits[0][1])
    return name == used
