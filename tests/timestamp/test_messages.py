"""Requests and responses: our reader, our writer, and rfc3161ng as the peer."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rfc3161ng
from hypothesis import given
from hypothesis import strategies as st

from polledger.errors import MalformedError, UsageError
from polledger.timestamp import der
from polledger.timestamp.client import make_request
from polledger.timestamp.messages import (
    FAILURES,
    TEXT_CHARACTERS,
    TimestampRequest,
    granting_response,
    parse_request,
    parse_response,
    rejecting_response,
    token_of,
)
from tests.timestamp import forge
from tests.timestamp.cases import SHARED, find


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_request_carries_what_was_asked_for(name: str) -> None:
    digest = hashlib.new(name, b"hello").digest()
    request = make_request(digest, nonce=2**63 - 1, hash_name=name, policy=forge.POLICY)
    assert parse_request(request) == TimestampRequest(
        hash_name=name, imprint=digest, policy=forge.POLICY, nonce=2**63 - 1, cert_req=True
    )


def test_rfc3161ng_reads_our_requests() -> None:
    decoded = rfc3161ng.decode_timestamp_request(make_request(forge.DIGEST, nonce=7, policy=forge.POLICY))
    assert bytes(decoded["messageImprint"]["hashedMessage"]) == forge.DIGEST
    assert (int(decoded["nonce"]), str(decoded["reqPolicy"])) == (7, forge.POLICY)
    assert bool(decoded["certReq"]) is True


@given(st.integers(0, 1 << 160))
def test_nonce_of_any_length_survives(nonce: int) -> None:
    assert parse_request(make_request(forge.DIGEST, nonce=nonce)).nonce == nonce


@pytest.mark.parametrize("case", SHARED, ids=lambda case: case.name)
def test_requests_written_by_others_are_read(case: object) -> None:
    found = parse_request(case.path("request").read_bytes())  # type: ignore[attr-defined]
    assert found.cert_req is True
    assert found.nonce == forge.NONCE


def test_request_refuses_what_makes_no_sense() -> None:
    with pytest.raises(UsageError, match="has 32 bytes, found 20"):
        make_request(bytes(20), nonce=1)
    with pytest.raises(UsageError, match="is not one of"):
        make_request(bytes(20), nonce=1, hash_name="sha1")
    with pytest.raises(UsageError, match="not negative"):
        make_request(forge.DIGEST, nonce=-1)
    with pytest.raises(UsageError, match="object identifier"):
        make_request(forge.DIGEST, nonce=1, policy="policy")


OTHER_LIBRARY = """
import hashlib
from polledger.timestamp import der
def make_timestamp_request(**_):
    return None
def encode_timestamp_request(_):
    algorithm = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"), der.null())
    imprint = der.sequence(algorithm, der.octets(hashlib.sha256(b"something else").digest()))
    return der.sequence(der.integer(1), imprint, der.integer(7), der.boolean(True))
"""

ASK = """
from polledger.errors import Unavailable
from polledger.timestamp.client import make_request
try:
    make_request(bytes(32), nonce=7)
except Unavailable as error:
    print(error)
"""


def test_request_over_another_digest_than_asked_for_is_noticed(tmp_path: Path) -> None:
    """A version of rfc3161ng that hashes once more, or otherwise, must not get to send that."""
    (tmp_path / "rfc3161ng.py").write_text(OTHER_LIBRARY)
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(tmp_path), str(root)])
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "another request" in done.stdout


IMPRINT = der.sequence(forge.algorithm(forge.SHA256), der.octets(forge.DIGEST))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([der.integer(2), IMPRINT], "only version 1"),
        ([der.integer(1), der.sequence(forge.algorithm(forge.SHA256), der.octets(bytes(31)))], "31 bytes"),
        ([der.integer(1), IMPRINT, der.null()], "after the last field"),
        ([der.integer(1), IMPRINT, b"\x01\x01\x01"], "neither 00 nor FF"),
        (
            [der.integer(1), IMPRINT, forge.tlv(0xA0, forge.extension("1.2.3", b"", critical=True))],
            "critical",
        ),
    ],
)
def test_refuses_malformed_requests(fields: list[bytes], message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        parse_request(der.sequence(*fields))


def test_minimal_request_is_read() -> None:
    found = parse_request(der.sequence(der.integer(1), IMPRINT))
    assert (found.policy, found.nonce, found.cert_req) == (None, None, False)


@pytest.mark.parametrize("bit", FAILURES)
def test_every_failure_is_said_in_words(bit: int) -> None:
    response = parse_response(rejecting_response(bit))
    assert response.failures == (bit,)
    assert FAILURES[bit] in response.reason()
    assert response.reason().startswith("rejection: ")


def test_rfc3161ng_reads_our_responses() -> None:
    rejected = rfc3161ng.decode_timestamp_response(rejecting_response(15))
    assert int(rejected.status["status"]) == 2
    granted = rfc3161ng.decode_timestamp_response(
        granting_response(token_of(find("own/good-p256").response()))
    )
    assert int(granted.status["status"]) == 0
    assert bytes(granted.time_stamp_token.tst_info.message_imprint.hashed_message) == forge.DIGEST


def test_words_of_the_authority_are_made_safe_to_print() -> None:
    text = der.sequence(forge.utf8("no\x1b[31m\nway " + "x" * 500), forge.tlv(0x0C, b"\xff"))
    reason = parse_response(der.sequence(der.sequence(der.integer(2), text))).reason()
    assert reason.isprintable()
    assert "no" in reason
    assert len(reason) < TEXT_CHARACTERS + 20


def test_unknown_status_and_failure_are_named_by_number() -> None:
    data = der.sequence(der.sequence(der.integer(9), der.named_bit(3)))
    assert parse_response(data).reason() == "status 9: failure 3"


def test_granting_a_token_gives_the_response_it_came_in() -> None:
    response = find("shared/good-rsa2048").response()
    assert granting_response(token_of(response)) == response
