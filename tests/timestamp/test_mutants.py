"""No single-bit mutant of a valid response is accepted, wherever the bit lies; no larger one says anything else."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from polledger.timestamp.token import TokenRejected, verify_response
from tests.timestamp import forge
from tests.timestamp.cases import OWN, SHARED, Case, find

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


def nodes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Start, content and end of every value in ``data``, those inside OCTET STRINGs included."""
    while start < end:
        length, content = data[start + 1], start + 2
        if length >= 0x80:
            content += length & 0x7F
            length = int.from_bytes(data[start + 2 : content], "big")
        yield start, content, content + length
        if data[start] & 0x20:
            yield from nodes(data, content, content + length)
        start = content + length


def grafted(data: bytes, at: tuple[int, int, int], new: bytes, start: int, end: int) -> bytes:
    """``data`` from ``start`` to ``end`` with the value at ``at`` replaced, and every length around it right."""
    parts = []
    while start < end:
        _, content, stop = next(nodes(data, start, end))
        if start == at[0]:
            parts.append(new)
        elif start < at[0] < stop:
            parts.append(forge.tlv(data[start], grafted(data, at, new, content, stop)))
        else:
            parts.append(data[start:stop])
        start = stop
    return b"".join(parts)


def structural_mutants(data: bytes, generator: random.Random, count: int) -> Iterator[bytes]:
    """Values removed, doubled, exchanged, given another's content or random bytes; the framing stays DER."""
    found = list(nodes(data, 0, len(data)))
    for _ in range(count):
        at, other = generator.choice(found), generator.choice(found)
        own, foreign = data[at[0] : at[2]], data[other[0] : other[2]]
        noise = generator.randbytes(generator.choice([0, 1, 5, 40]))
        new = generator.choice(
            [
                b"",
                own * 2,
                foreign,
                forge.tlv(own[0], data[other[1] : other[2]]),
                forge.tlv(own[0], noise),
            ]
        )
        yield grafted(data, at, new, 0, len(data))


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in (*SHARED, *OWN) if case.valid], ids=lambda case: case.name)
def test_a_structural_mutant_is_refused_or_says_the_same(case: Case) -> None:
    """What may be written in two ways (a certificate twice, NULL or no parameters) changes nothing that is claimed."""
    response, arguments = case.response(), case.arguments()
    said = verify_response(response, **arguments)
    generator = random.Random(case.name)
    for mutant in structural_mutants(response, generator, 60):
        try:
            found = verify_response(mutant, **arguments)
        except TokenRejected:
            continue
        assert replace(found, chain=said.chain) == said
        assert found.chain[0] == said.chain[0]
