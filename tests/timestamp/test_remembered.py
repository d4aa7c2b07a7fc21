"""What is remembered between tokens changes no outcome: chains by which certificates are valid, and nothing else."""

import tracemalloc
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from polledger.timestamp import certificates, cms
from polledger.timestamp.token import Timestamp, TokenRejected, verify_response
from tests.timestamp import forge

SECOND = timedelta(seconds=1)
INTER_ENDS = forge.GEN_TIME + 10 * SECOND
LEAF_ENDS = forge.GEN_TIME + 20 * SECOND


# An intermediate and a leaf that end one after the other.
ABOVE = forge.certify("Brief", forge.ec_key("brief"), forge.root(), forge.CA, not_after=INTER_ENDS)
LEAF = forge.certify("TSA brief", forge.ec_key("tsa brief"), ABOVE, forge.TSA, not_after=LEAF_ENDS)


def ask(when: datetime, *, roots: Any = None, serial: int = 1, fraction: str = "") -> Timestamp:
    moment = forge.tlv(0x18, f"{when:%Y%m%d%H%M%S}{fraction}Z".encode())
    token = forge.Token(
        signer=LEAF,
        certificates=[ABOVE.certificate, LEAF.certificate],
        tst_info={"gen_time": moment, "serial": forge.integer(serial)},
    )
    given = [x509.load_der_x509_certificate(one.certificate) for one in roots or [forge.root()]]
    return verify_response(token.response_bytes(), digest=forge.DIGEST, roots=given)


def refused(when: datetime, **more: Any) -> None:
    with pytest.raises(TokenRejected, match="no chain"):
        ask(when, **more)


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    certificates._find_chain.cache_clear()


def test_a_chain_that_was_found_is_not_used_after_its_end() -> None:
    ask(INTER_ENDS)
    refused(INTER_ENDS + SECOND)
    ask(INTER_ENDS, fraction=".999")
    refused(LEAF_ENDS + SECOND)


def test_a_chain_that_was_not_found_is_looked_for_when_certificates_are_valid() -> None:
    refused(INTER_ENDS + SECOND)
    ask(INTER_ENDS)


def test_a_chain_to_one_root_is_none_to_another() -> None:
    other = forge.certify("Root", forge.ec_key("another root"), None, forge.CA)
    ask(forge.GEN_TIME)
    refused(forge.GEN_TIME, roots=[other])
    ask(forge.GEN_TIME, roots=[other, forge.root()])


def test_a_chain_of_one_signer_is_none_of_another_among_the_same_certificates() -> None:
    """What a prover stores beside a token is known: the stranger is refused for its chain or not at all."""
    root = x509.load_der_x509_certificate(forge.root().certificate)
    stranger = forge.certify("TSA stranger", forge.ec_key("stranger"), None, forge.TSA)
    stored = [x509.load_der_x509_certificate(one.certificate) for one in (ABOVE, LEAF, stranger)]

    def signed_by(party: forge.Party) -> Timestamp:
        token = forge.Token(signer=party, certificates=[])
        data = token.response_bytes()
        return verify_response(data, digest=forge.DIGEST, roots=[root], intermediates=stored)

    assert signed_by(LEAF).chain[0] == stored[1]
    with pytest.raises(TokenRejected, match="no chain"):
        signed_by(stranger)
    assert signed_by(LEAF).chain[0] == stored[1]


def test_a_chain_that_was_not_found_is_looked_for_among_other_certificates() -> None:
    beside = forge.certify("Beside", forge.ec_key("beside"), forge.root(), forge.CA, not_after=INTER_ENDS)
    root, above, other = (
        x509.load_der_x509_certificate(one.certificate) for one in (forge.root(), ABOVE, beside)
    )
    data = forge.Token(signer=LEAF, certificates=[LEAF.certificate]).response_bytes()
    for _ in range(2):
        with pytest.raises(TokenRejected, match="no chain"):
            verify_response(data, digest=forge.DIGEST, roots=[root], intermediates=[other])
        assert above in verify_response(data, digest=forge.DIGEST, roots=[root], intermediates=[above]).chain


def test_a_chain_is_built_once_for_many_tokens() -> None:
    for number in range(1, 30):
        ask(forge.GEN_TIME - number * SECOND, serial=number)
    assert certificates._find_chain.cache_info().misses == 1


def test_what_is_remembered_is_bounded() -> None:
    for number in range(2 * cms.PARSED_KEPT):
        ask(forge.GEN_TIME, serial=number)
    assert cms.parse_token.cache_info().currsize == cms.PARSED_KEPT
    for remembered in (certificates.read_certificate, certificates._find_chain, certificates.is_issued):
        assert remembered.cache_info().maxsize == certificates.KEPT


def test_a_certificate_is_kept_as_its_bytes_and_little_more() -> None:
    """Decoded, each of these extensions is an object: sixty times its bytes, for hundreds of certificates."""
    names = forge.extension("2.5.29.17", forge.seq(forge.tlv(0x82, b"a") * 5000), critical=False)
    large = [
        forge.certify("Large", forge.ec_key("large"), ABOVE, [*forge.TSA, names], serial=number).certificate
        for number in range(1, 11)
    ]
    certificates.read_certificate.cache_clear()
    tracemalloc.start()
    for raw in large:
        certificates.require_timestamping(certificates.read_certificate(raw))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 4 * sum(map(len, large))


def test_a_question_about_many_bytes_of_certificates_is_answered_and_not_kept() -> None:
    note = forge.extension("1.2.3.5", forge.octets(bytes(60_000)), critical=False)
    stored = [forge.certify(f"Large {i}", forge.ec_key("large"), None, [*forge.CA, note]) for i in range(5)]
    roots = [forge.root(), *stored]
    ask(forge.GEN_TIME, roots=roots)
    refused(LEAF_ENDS + SECOND, roots=roots)
    assert certificates._find_chain.cache_info().currsize == 0
    ask(forge.GEN_TIME, roots=roots[:4])
    assert certificates._find_chain.cache_info().currsize == 1


def test_a_broken_signature_is_refused_where_the_chain_is_known() -> None:
    ask(forge.GEN_TIME)
    token = forge.Token(
        signer=LEAF,
        certificates=[ABOVE.certificate, LEAF.certificate],
        sign=lambda key, message: forge.sign(key, message + b"x"),
    )
    root = x509.load_der_x509_certificate(forge.root().certificate)
    with pytest.raises(TokenRejected, match="signature does not match"):
        verify_response(token.response_bytes(), digest=forge.DIGEST, roots=[root])
