"""Challenges and refusals: what they ask, and signatures over them. Shapes are in schemas/vectors/."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from polledger.core.challenge import (
    Challenge,
    Refusal,
    parse_challenge,
    parse_refusal,
    sign_challenge,
    sign_refusal,
)
from polledger.core.digest import ZERO
from polledger.core.encoding import encode
from polledger.core.head import Head, sign_head
from polledger.errors import MalformedError

KEY = Ed25519PrivateKey.from_private_bytes(b"v" * 32)
RUN = bytes(range(16))


def note_of(run: bytes = RUN) -> bytes:
    head = Head(run=run, size=5, root=b"r" * 32, chainpoint=b"c" * 32, previous=ZERO)
    return sign_head(head, KEY)


def challenge(**changes: Any) -> Challenge:
    values = {
        "v": 1,
        "run": RUN,
        "note": note_of(),
        "nonce": b"n" * 32,
        "policy": b"p" * 32,
        "made": 7,
        "count": 3,
    }
    return Challenge(**{**values, **changes})


REFUSAL = Refusal(v=1, run=RUN, challenge=b"c" * 32, reason="no", made=9)


def test_a_challenge_knows_its_head() -> None:
    found = parse_challenge(encode(challenge()))
    assert (found.head.run, found.head.size, found.head.root) == (RUN, 5, b"r" * 32)


def test_a_note_that_is_no_head_is_refused() -> None:
    with pytest.raises(MalformedError, match="tree head"):
        parse_challenge(encode(challenge(note=b"text\n\n\xe2\x80\x94 x AAAAAAAA\n")))


def test_the_head_of_another_run_is_refused() -> None:
    with pytest.raises(MalformedError, match="the head of another"):
        parse_challenge(encode(challenge(note=note_of(bytes(16)))))


def test_signatures_hold_over_everything_else() -> None:
    signed = sign_challenge(challenge(), KEY)
    assert parse_challenge(encode(signed)) == signed
    assert sign_challenge(signed, KEY) == signed
    for change in ({"count": 4}, {"nonce": b"m" * 32}, {"made": 8}, {"deadline": 10}):
        with pytest.raises(MalformedError, match="does not hold"):
            parse_challenge(encode(replace(signed, **change)))
    refusal = sign_refusal(REFUSAL, KEY)
    assert parse_refusal(encode(refusal)) == refusal
    with pytest.raises(MalformedError, match="does not hold"):
        parse_refusal(encode(replace(refusal, reason="yes")))


def test_the_signature_of_one_kind_is_none_of_the_other() -> None:
    """Each has a label of its own: the bytes under one never are those under the other."""
    signed = sign_refusal(REFUSAL, KEY)
    with pytest.raises(MalformedError, match="does not hold"):
        parse_challenge(encode(challenge(key=signed.key, signature=signed.signature)))


@given(st.binary(max_size=200))
def test_nonsense_is_malformed(data: bytes) -> None:
    for parse in (parse_challenge, parse_refusal):
        with pytest.raises(MalformedError):
            parse(data)
