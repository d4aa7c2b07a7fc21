"""No single-bit mutant of a valid response is accepted, wherever the bit lies."""

import pytest

from polledger.timestamp.token import TokenRejected, verify_response
from tests.timestamp.cases import find

NAMES = [
    "shared/good-rsa2048",
    "shared/good-p256",
    "shared/good-ed",
    "own/good-pss",
    "own/good-p384-sha384",
    "own/good-ed25519-sha512",
    "own/good-rsa-encryption-oid",
    "own/good-esscertid-of-the-whole-chain",
    "own/good-imprint-without-parameters",
    "own/good-bare-token",
    "own/good-status-text-known",
    "own/good-extra-certificate-issued-by-root",
    "own/good-extra-certificate-given",
]


def test_every_kind_of_signature_is_among_them() -> None:
    named = "rsa2048", "pss", "p256", "p384", "ed25519"
    assert all(any(kind in name for name in NAMES) for kind in named)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_single_bit_mutant_is_accepted(name: str) -> None:
    case = find(name)
    response, arguments = case.response(), case.arguments()
    verify_response(response, **arguments)
    accepted = []
    for bit in range(8 * len(response)):
        mutant = bytearray(response)
        mutant[bit // 8] ^= 1 << bit % 8
        try:
            verify_response(bytes(mutant), **arguments)
            accepted.append(bit)
        except TokenRejected:
            pass
    assert accepted == []


@pytest.mark.parametrize("name", ["shared/good-rsa2048", "shared/good-p256"])
def test_no_truncation_is_accepted(name: str) -> None:
    case = find(name)
    response, arguments = case.response(), case.arguments()
    for length in range(len(response)):
        with pytest.raises(TokenRejected):
            verify_response(response[:length], **arguments)
