"""No single-bit mutant of a valid response is accepted, wherever the bit lies."""

import pytest

from polledger.timestamp.token import TokenRejected, verify_response
from tests.timestamp.cases import find

NAMES = [
    "shared/good-rsa2048",
    "shared/good-p256",
    "own/good-pss",
    "own/good-status-text-known",
    "own/good-extra-certificate-issued-by-root",
    "own/good-extra-certificate-given",
]


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
