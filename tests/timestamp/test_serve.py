"""``polledger tsa serve`` as its clients meet it: real processes on both sides."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
import rfc3161_client
import rfc3161ng
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from polledger.timestamp import cms, der
from polledger.timestamp.algorithms import SHA256, hash_identifier
from polledger.timestamp.authority import POLICY as EMBEDDED_POLICY
from polledger.timestamp.client import QUERY_TYPE, REPLY_TYPE, make_request, post_request
from polledger.timestamp.messages import (
    BAD_ALG,
    BAD_DATA_FORMAT,
    BAD_REQUEST,
    UNACCEPTED_EXTENSION,
    UNACCEPTED_POLICY,
    granting_response,
    parse_request,
    parse_response,
)
from polledger.timestamp.standalone import POLICY
from polledger.timestamp.token import Timestamp, verify_response
from polledger.timestamp.tstinfo import parse_tst_info
from tests.timestamp import forge
from tests.timestamp.peers import needs_curl, needs_openssl
from tests.timestamp.serving import Served, serving

NONCE = 0x1234567890ABCDEF
DATA = b"a tree head"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("serve") / "tsa") as server:
        yield server


@pytest.fixture(scope="module")
def served_rsa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("rsa") / "tsa", "--rsa") as server:
        yield server


@pytest.fixture(params=["P-256", "RSA"])
def either(request: pytest.FixtureRequest) -> Served:
    server: Served = request.getfixturevalue("served" if request.param == "P-256" else "served_rsa")
    return server


def stamped(server: Served, nonce: int = NONCE) -> Timestamp:
    """A token over the forge's digest, verified by the root that the server names."""
    body = post_request(server.url, make_request(forge.DIGEST, nonce=nonce))
    return verify_response(
        body,
        digest=forge.DIGEST,
        roots=[server.root],
        nonce=nonce,
        policies=server.entry["policies"],
    )


def test_token_says_what_it_should(either: Served) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    timestamp = stamped(either)
    assert before < timestamp.gen_time <= datetime.now(UTC)
    assert timestamp.accuracy == timedelta(seconds=1)
    assert (timestamp.ordering, timestamp.nonce) == (False, NONCE)
    assert [timestamp.policy] == either.entry["policies"]
    assert timestamp.policy != EMBEDDED_POLICY


def openssl(*words: object, cwd: Path) -> str:
    done = subprocess.run(
        ["openssl", "ts", *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@needs_openssl
@needs_curl
@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha512"])
def test_openssl_and_curl_are_served(either: Served, tmp_path: Path, hash_name: str) -> None:
    (tmp_path / "data").write_bytes(DATA)
    openssl("-query", "-data", "data", f"-{hash_name}", "-cert", "-out", "q.tsq", cwd=tmp_path)
    words = ["curl", "--fail", "--silent", "--show-error", "-H", f"Content-Type: {QUERY_TYPE}"]
    subprocess.run(
        [*words, "--data-binary", "@q.tsq", "-o", "r.tsr", either.url], cwd=tmp_path, check=True, timeout=60
    )
    for given in (["-queryfile", "q.tsq"], ["-data", "data"]):
        said = openssl("-verify", *given, "-in", "r.tsr", "-CAfile", either.root_path, cwd=tmp_path)
        assert "Verification: OK" in said


def test_rfc3161_client_is_served(either: Served) -> None:
    request = rfc3161_client.TimestampRequestBuilder().data(DATA).build()
    answer = requests.post(
        either.url, data=request.as_bytes(), headers={"Content-Type": QUERY_TYPE}, timeout=60
    )
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, REPLY_TYPE)
    verifier = (
        rfc3161_client.VerifierBuilder.from_request(request)
        .policy_id(x509.ObjectIdentifier(either.entry["policies"][0]))
        .add_root_certificate(either.root)
        .build()
    )
    assert verifier.verify_message(rfc3161_client.decode_timestamp_response(answer.content), DATA)


@pytest.mark.parametrize("hash_name", ["sha256", "sha512"])
def test_rfc3161ng_is_served(either: Served, hash_name: str) -> None:
    asked = rfc3161ng.RemoteTimestamper(either.url, hashname=hash_name, include_tsa_certificate=True)
    token = asked.timestamp(data=DATA, nonce=NONCE)
    assert rfc3161ng.get_timestamp(token, naive=False) <= datetime.now(UTC)


def test_rfc3161ng_verifies_rsa_tokens_itself(served_rsa: Served) -> None:
    """It cannot verify ECDSA: that is what ``--rsa`` is for."""
    asked = rfc3161ng.RemoteTimestamper(served_rsa.url, hashname="sha256", include_tsa_certificate=True)
    token = asked.timestamp(data=DATA)
    leaf = rfc3161_client.decode_timestamp_response(granting_response(token)).signed_data.certificates
    (certificate,) = (x509.load_der_x509_certificate(one) for one in leaf)
    checking = rfc3161ng.RemoteTimestamper(
        served_rsa.url, hashname="sha256", certificate=certificate.public_bytes(Encoding.PEM)
    )
    assert checking.timestamp(data=DATA, nonce=NONCE)


def test_certificates_come_only_when_asked_for(served: Served) -> None:
    def asked(cert_req: bool) -> list[bytes]:
        request = rfc3161ng.make_timestamp_request(
            digest=forge.DIGEST, hashname="sha256", include_tsa_certificate=cert_req
        )
        body = post_request(served.url, bytes(rfc3161ng.encode_timestamp_request(request)))
        return list(rfc3161_client.decode_timestamp_response(body).signed_data.certificates)

    assert (len(asked(True)), len(asked(False))) == (1, 0)


def test_sixteen_clients_at_once_get_distinct_serials(served: Served) -> None:
    with ThreadPoolExecutor(16) as pool:
        serials = list(pool.map(lambda nonce: stamped(served, nonce).serial, range(160)))
    assert len(set(serials)) == 160


OID = "1.3.6.1.4.1.99999.7"
SHA1 = der.sequence(der.oid("1.3.14.3.2.26"), der.null())


def query(
    *fields: bytes,
    version: int = 1,
    algorithm: bytes = hash_identifier("sha256"),
    imprint: bytes = forge.DIGEST,
) -> bytes:
    """A TimeStampReq with these fields after its imprint."""
    return der.sequence(der.integer(version), der.sequence(algorithm, der.octets(imprint)), *fields)


def extensions(*critical: bytes) -> bytes:
    return der.encode(der.context(0), der.sequence(der.oid(OID), *critical, der.octets(b"")))


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (b"", BAD_DATA_FORMAT),
        (b"nonsense", BAD_DATA_FORMAT),
        (query()[:-1], BAD_DATA_FORMAT),
        (query() + b"\0", BAD_DATA_FORMAT),
        (query(imprint=forge.DIGEST[:-1]), BAD_DATA_FORMAT),
        (query(der.octets(b"")), BAD_DATA_FORMAT),
        (query(der.integer(1 << 600)), BAD_DATA_FORMAT),
        (query(der.encode(der.context(0), der.octets(b""))), BAD_DATA_FORMAT),
        (query(version=2), BAD_REQUEST),
        (query(algorithm=SHA1, imprint=bytes(20)), BAD_ALG),
        (query(algorithm=der.sequence(der.oid("1.2.840.113549.2.5")), imprint=bytes(16)), BAD_ALG),
        (query(algorithm=der.sequence(der.oid(OID))), BAD_ALG),
        (query(algorithm=der.sequence(der.oid(SHA256), der.octets(b""))), BAD_ALG),
        (query(der.oid(OID)), UNACCEPTED_POLICY),
        (query(der.oid(EMBEDDED_POLICY)), UNACCEPTED_POLICY),
        (query(extensions()), UNACCEPTED_EXTENSION),
        (query(extensions(der.boolean(True))), UNACCEPTED_EXTENSION),
    ],
)
def test_queries_that_cannot_be_served_get_a_failure_info(served: Served, body: bytes, failure: int) -> None:
    response = parse_response(post_request(served.url, body))
    assert (response.status, response.failures, response.token) == (2, (failure,), None)
    assert response.text


@pytest.mark.parametrize(
    "body",
    [
        query(),
        query(der.integer(0)),
        query(der.integer(-1)),
        query(der.integer(1 << 256)),
        query(der.boolean(False)),
        query(der.oid(POLICY), der.integer(7), der.boolean(True)),
        query(algorithm=der.sequence(der.oid(SHA256))),
    ],
)
def test_every_valid_shape_of_a_query_is_served(served: Served, body: bytes) -> None:
    token = parse_response(post_request(served.url, body)).token
    assert token is not None
    assert parse_tst_info(cms.parse_token(token).content).nonce == parse_request(body).nonce
