"""The verifier's arguments, results and manners; what it refuses is in the vectors."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polledger.errors import UsageError
from polledger.timestamp import cms
from polledger.timestamp.messages import token_of
from polledger.timestamp.token import TOKEN_BYTES, TokenRejected, embedded_certificates, verify_response
from tests.timestamp import forge
from tests.timestamp.cases import find

GOOD = find("own/good-p256")


def test_fields_of_a_timestamp() -> None:
    case = find("own/good-accuracy")
    timestamp = verify_response(case.response(), **case.arguments())
    assert timestamp.gen_time == forge.GEN_TIME
    assert timestamp.gen_time.tzinfo is UTC
    assert timestamp.accuracy == timedelta(seconds=1, milliseconds=2, microseconds=3)
    assert (timestamp.policy, timestamp.serial, timestamp.nonce) == (forge.POLICY, 4711, forge.NONCE)
    assert (timestamp.hash_name, timestamp.imprint) == ("sha256", forge.DIGEST)
    assert timestamp.ordering is False
    assert timestamp.tsa == "CN=TSA p256,O=polledger-test"


def test_missing_accuracy_is_none_and_ordering_is_reported() -> None:
    assert verify_response(GOOD.response(), **GOOD.arguments()).accuracy is None
    ordered = find("own/good-ordering")
    assert verify_response(ordered.response(), **ordered.arguments()).ordering is True


def test_fraction_of_a_second_is_read() -> None:
    case = find("own/good-fraction")
    assert verify_response(case.response(), **case.arguments()).gen_time.microsecond == 125_000


def test_nonce_policy_and_time_are_compared_only_when_given() -> None:
    arguments = GOOD.arguments() | {"nonce": None, "policies": (), "at": None}
    assert verify_response(GOOD.response(), **arguments).nonce == forge.NONCE


def test_one_of_several_policies_is_enough() -> None:
    arguments = GOOD.arguments() | {"policies": ["1.2.3", forge.POLICY]}
    assert verify_response(GOOD.response(), **arguments).policy == forge.POLICY


def test_gen_time_equal_to_at_is_accepted_and_a_microsecond_earlier_is_not() -> None:
    arguments = GOOD.arguments()
    verify_response(GOOD.response(), **arguments | {"at": forge.GEN_TIME})
    with pytest.raises(TokenRejected, match="lies after"):
        verify_response(GOOD.response(), **arguments | {"at": forge.GEN_TIME - timedelta(microseconds=1)})


def test_validity_of_certificates_is_judged_in_utc() -> None:
    """Half an hour on either side of a limit, told apart however the machine's zone lies."""
    limit = forge.GEN_TIME + timedelta(minutes=30)
    party = forge.certify("TSA", forge.ec_key("tsa"), forge.intermediate(), forge.TSA, not_after=limit)
    arguments = GOOD.arguments() | {"at": None}
    token = forge.Token(signer=party)
    verify_response(token.response_bytes(), **arguments)
    late = replace(token, tst_info={"gen_time": forge.time(limit + timedelta(minutes=30))})
    with pytest.raises(TokenRejected, match="no chain"):
        verify_response(late.response_bytes(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"digest": bytes(31)}, "has 32 bytes, found 31"),
        ({"hash_name": "sha1"}, "is not one of"),
        ({"hash_name": "sha512"}, "has 64 bytes"),
        ({"roots": []}, "nothing to trust"),
        ({"at": datetime(2026, 11, 22)}, "time zone"),  # noqa: DTZ001 - the missing zone is the point
    ],
)
def test_arguments_that_make_no_sense_are_usage_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        verify_response(GOOD.response(), **GOOD.arguments() | arguments)


def test_size_limit_is_exact() -> None:
    """Bytes beyond the limit are refused before anything is parsed."""
    with pytest.raises(TokenRejected, match="expected tag"):
        verify_response(bytes(TOKEN_BYTES), **GOOD.arguments())
    with pytest.raises(TokenRejected, match=f"{TOKEN_BYTES + 1} bytes, at most {TOKEN_BYTES}"):
        verify_response(bytes(TOKEN_BYTES + 1), **GOOD.arguments())


def test_a_root_with_the_right_name_and_another_key_is_not_enough() -> None:
    other = forge.certify("Root", forge.ec_key("another root"), None, forge.CA)
    from cryptography import x509

    arguments = GOOD.arguments() | {"roots": [x509.load_der_x509_certificate(other.certificate)]}
    with pytest.raises(TokenRejected, match="no chain"):
        verify_response(GOOD.response(), **arguments)


def test_embedded_certificates_come_in_order_and_unverified() -> None:
    found = embedded_certificates(GOOD.response())
    assert [one.subject.rfc4514_string() for one in found] == [
        "CN=Inter,O=polledger-test",
        "CN=TSA p256,O=polledger-test",
    ]
    with pytest.raises(TokenRejected):
        embedded_certificates(b"<html>")


def test_signature_is_over_the_attributes_with_the_tag_of_a_set() -> None:
    signed = cms.parse_token(token_of(GOOD.response()))
    assert signed.signed_attributes[0] == 0x31


@given(data=st.binary(max_size=400))
def test_random_bytes_are_rejected_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(TokenRejected):
        verify_response(data, **GOOD.arguments())


@given(cut=st.integers(0, 1500), length=st.integers(0, 40), insert=st.binary(max_size=40))
def test_random_splices_are_rejected_and_nothing_else_happens(cut: int, length: int, insert: bytes) -> None:
    good = GOOD.response()
    bent = good[:cut] + insert + good[cut + length :]
    if bent != good:
        with pytest.raises(TokenRejected):
            verify_response(bent, **GOOD.arguments())
