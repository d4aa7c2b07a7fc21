"""DSSE envelopes, held against the specification's own example and against securesystemslib."""

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope as PeerEnvelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from polledger.core.dsse import (
    IN_TOTO,
    SIGNATURES,
    Envelope,
    PublicKey,
    encode_envelope,
    pae,
    parse_envelope,
    sign_envelope,
)
from polledger.errors import MalformedError, UsageError
from polledger.keys import signer_of

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
SIGNER = signer_of(KEY)
PAYLOAD = '{"text":"hällo"}'.encode()


@pytest.fixture
def envelope() -> Envelope:
    return sign_envelope(IN_TOTO, PAYLOAD, (SIGNER,))


def test_the_encoding_that_is_signed_is_the_one_of_the_specification() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    # Lengths are those of bytes, not of characters.
    assert pae("ä", "ö".encode()) == "DSSEv1 2 ä 2 ö".encode()


def test_another_implementation_accepts_what_we_sign(envelope: Envelope) -> None:
    read = PeerEnvelope.from_dict(json.loads(encode_envelope(envelope)))
    assert read.pae() == envelope.message()
    public = KEY.public_key()
    key = SSlibKey.from_crypto(public, keyid=SIGNER.public.keyid)
    assert read.verify([key], 1)


def test_we_accept_what_another_implementation_signs() -> None:
    signer = CryptoSigner(KEY)
    made = PeerEnvelope(payload=PAYLOAD, payload_type=IN_TOTO, signatures={})
    made.sign(signer)
    plain = made.to_dict()
    for one in plain["signatures"]:
        one["keyid"] = ""
    read = parse_envelope(json.dumps(plain, indent=1).encode())
    assert read.payload == PAYLOAD
    assert read.signature_of(SIGNER.public) is not None
    assert read.signature_of(signer_of(OTHER).public) is None


def test_a_keyid_is_the_digest_of_the_keys_standard_form() -> None:
    der = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert SIGNER.public.keyid == hashlib.sha256(der).hexdigest()


def test_what_is_written_is_read(envelope: Envelope) -> None:
    assert parse_envelope(encode_envelope(envelope)) == envelope


def test_any_flipped_bit_of_payload_type_or_signature_is_noticed(envelope: Envelope) -> None:
    assert envelope.signature_of(SIGNER.public) == envelope.signatures[0].sig
    for position in range(len(PAYLOAD) * 8):
        payload = bytearray(PAYLOAD)
        payload[position // 8] ^= 1 << position % 8
        changed = Envelope(payload_type=IN_TOTO, payload=bytes(payload), signatures=envelope.signatures)
        assert changed.signature_of(SIGNER.public) is None
    for position in range(0, 512, 7):
        signature = bytearray(envelope.signatures[0].sig)
        signature[position // 8] ^= 1 << position % 8
        assert not SIGNER.public.signed(envelope.message(), bytes(signature))
    renamed = Envelope(payload_type=IN_TOTO + "x", payload=PAYLOAD, signatures=envelope.signatures)
    assert renamed.signature_of(SIGNER.public) is None


def test_the_wrong_key_and_a_short_signature_do_not_hold(envelope: Envelope) -> None:
    assert envelope.signature_of(signer_of(OTHER).public) is None
    assert not SIGNER.public.signed(envelope.message(), b"")


def test_a_signature_is_found_among_others_and_without_a_keyid(envelope: Envelope) -> None:
    both = sign_envelope(IN_TOTO, PAYLOAD, (signer_of(OTHER), SIGNER))
    assert both.signature_of(SIGNER.public) == envelope.signatures[0].sig
    named = changed(envelope, lambda plain: plain["signatures"][0].update(keyid="somebody"))
    assert named.signature_of(SIGNER.public) is None


def changed(envelope: Envelope, change: Any) -> Envelope:
    plain = json.loads(encode_envelope(envelope))
    change(plain)
    return parse_envelope(json.dumps(plain).encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(more=1),
        lambda plain: plain["signatures"][0].update(cert="x"),
        lambda plain: plain.update(signatures=[]),
        lambda plain: plain.update(signatures=plain["signatures"] * (SIGNATURES + 1)),
        lambda plain: plain.update(payload="a"),
        lambda plain: plain.update(payload="YR=="),
        lambda plain: plain.update(payload="YQ"),
        lambda plain: plain.update(payload="YQ==\n"),
        lambda plain: plain.update(payloadType=""),
        lambda plain: plain.pop("payloadType"),
        lambda plain: plain["signatures"][0].update(sig=""),
        lambda plain: plain["signatures"][0].update(sig="é==="),
    ],
)
def test_other_forms_are_refused(envelope: Envelope, change: Any) -> None:
    with pytest.raises(MalformedError):
        changed(envelope, change)


def test_both_alphabets_of_base64_are_read() -> None:
    payload = b"\xfb\xff\xfe"
    data = json.dumps({"payload": "-__-", "payloadType": "t", "signatures": [{"sig": "AA=="}]}).encode()
    assert parse_envelope(data).payload == payload == base64.urlsafe_b64decode("-__-")


def test_a_public_key_has_the_length_of_its_algorithm() -> None:
    for algorithm, length in (("ed25519", 31), ("ml-dsa-44", 1311)):
        with pytest.raises(UsageError):
            PublicKey(algorithm=algorithm, key=bytes(length))  # type: ignore[arg-type]


def test_a_second_signature_with_ml_dsa_holds_where_it_is_offered(tmp_path: Any) -> None:
    pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa")
    from polledger.keys import create_signer, load_signer

    made = create_signer(tmp_path / "pq.pem", "ml-dsa-44")
    again = load_signer(tmp_path / "pq.pem")
    assert again.public == made.public
    both = sign_envelope(IN_TOTO, PAYLOAD, (SIGNER, again))
    assert parse_envelope(encode_envelope(both)).signature_of(made.public) is not None
    assert not made.public.signed(both.message() + b"x", both.signatures[1].sig)
    der = _spki(tmp_path / "pq.pem")
    assert made.public.keyid == hashlib.sha256(der).hexdigest()


def _spki(path: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key: Any = load_pem_private_key(path.read_bytes(), password=None)
    return bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
