"""Keys and signatures that count; their use inside tokens is in the vectors."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from polledger.errors import MalformedError, UsageError
from polledger.timestamp import der
from polledger.timestamp.algorithms import hash_size, read_algorithm, require_strong, verify_signature
from tests.timestamp import forge

ACCEPTED = [
    forge.rsa_key("tsa"),
    forge.ec_key("tsa"),
    forge.ec_key("p384", ec.SECP384R1()),
    forge.ed_key("ed"),
]
REFUSED = [
    forge.rsa_key("small", 1024),
    forge.ec_key("p521", ec.SECP521R1()),
    forge.ec_key("k1", ec.SECP256K1()),
    forge.ed448_key("ed448"),
]


def verify(key: Any, message: bytes, signed: bytes = b"message") -> None:
    algorithm = read_algorithm(der.Reader(forge.usual_algorithm(key), "test"))
    signature = forge.sign(key, signed)
    verify_signature(key.public_key(), algorithm, hash_name="sha256", signature=signature, message=message)


@pytest.mark.parametrize("key", ACCEPTED, ids=lambda key: type(key).__name__)
def test_right_signature_is_accepted_and_wrong_one_refused(key: Any) -> None:
    verify(key, b"message")
    require_strong(key.public_key())
    with pytest.raises(MalformedError, match="does not match"):
        verify(key, b"another message")


@pytest.mark.parametrize("key", REFUSED, ids=lambda key: type(key).__name__)
def test_weak_or_unknown_key_is_refused_even_with_a_right_signature(key: Any) -> None:
    with pytest.raises(MalformedError, match=r"at least 2048|not accepted"):
        verify(key, b"message")
    with pytest.raises(MalformedError, match=r"at least 2048|not accepted"):
        require_strong(key.public_key())


def test_rsa_of_2048_bits_is_enough_and_less_is_not() -> None:
    assert forge.rsa_key("tsa").key_size == 2048
    short = forge.rsa_key("short", 2046)
    assert short.key_size < 2048
    with pytest.raises(MalformedError, match="at least 2048"):
        require_strong(short.public_key())


def test_sizes_of_hashes() -> None:
    assert [hash_size(name) for name in ("sha256", "sha384", "sha512")] == [32, 48, 64]
    with pytest.raises(UsageError, match="sha256, sha384, sha512"):
        hash_size("sha1")
