"""The embedded authority: files, races, tokens, and peers that accept them."""

import datetime as dt
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rfc3161_client
import rfc3161ng
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from polledger.errors import Unavailable, UsageError
from polledger.timestamp.authority import POLICY, VALID_FROM, VALID_UNTIL, EmbeddedAuthority
from polledger.timestamp.client import make_request
from polledger.timestamp.identity import FILE_NAME, ROOT_NAME, Identity, make_identity, open_identity
from polledger.timestamp.messages import parse_response
from polledger.timestamp.token import Timestamp, TokenRejected, verify_response
from tests.timestamp import forge
from tests.timestamp.peers import needs_openssl

NOW = dt.datetime(2026, 11, 22, 6, 13, 20, 123_987, tzinfo=dt.UTC)
REQUEST = make_request(forge.DIGEST, nonce=forge.NONCE)


def read(authority: EmbeddedAuthority, response: bytes) -> Timestamp:
    return verify_response(
        response, digest=forge.DIGEST, roots=[authority.root], nonce=forge.NONCE, policies=[POLICY], at=NOW
    )


def test_token_verifies_and_says_what_it_should(embedded: EmbeddedAuthority) -> None:
    timestamp = read(embedded, embedded.respond(REQUEST, now=NOW))
    assert timestamp.gen_time == NOW.replace(microsecond=123_000)
    assert timestamp.accuracy == dt.timedelta(seconds=1)
    assert (timestamp.policy, timestamp.nonce) == (POLICY, forge.NONCE)
    assert "self-asserted" in timestamp.tsa


@needs_openssl
@pytest.mark.parametrize("now", [NOW, NOW.replace(microsecond=0)])
def test_openssl_accepts_the_token(embedded: EmbeddedAuthority, tmp_path: Path, now: dt.datetime) -> None:
    (tmp_path / "q.tsq").write_bytes(REQUEST)
    (tmp_path / "r.tsr").write_bytes(embedded.respond(REQUEST, now=now))
    for what in (["-digest", forge.DIGEST.hex()], ["-queryfile", tmp_path / "q.tsq"]):
        words = ["openssl", "ts", "-verify", *what, "-in", tmp_path / "r.tsr"]
        words += ["-CAfile", tmp_path / "tsa" / ROOT_NAME, "-attime", str(int(now.timestamp()))]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert "Verification: OK" in done.stdout, done.stderr


def test_rfc3161_client_accepts_the_token(embedded: EmbeddedAuthority) -> None:
    response = rfc3161_client.decode_timestamp_response(embedded.respond(REQUEST, now=NOW))
    verifier = rfc3161_client.VerifierBuilder().add_root_certificate(embedded.root).nonce(forge.NONCE).build()
    assert verifier.verify(response, forge.DIGEST)


def test_rfc3161ng_reads_the_token(embedded: EmbeddedAuthority) -> None:
    decoded = rfc3161ng.decode_timestamp_response(embedded.respond(REQUEST, now=NOW))
    assert int(decoded.time_stamp_token.tst_info["nonce"]) == forge.NONCE
    assert rfc3161ng.get_timestamp(decoded.time_stamp_token, naive=False) == NOW.replace(microsecond=123_000)


@pytest.mark.parametrize("name", ["sha384", "sha512"])
def test_other_hashes_are_stamped(embedded: EmbeddedAuthority, name: str) -> None:
    digest = bytes({"sha384": 48, "sha512": 64}[name])
    response = embedded.respond(make_request(digest, nonce=1, hash_name=name), now=NOW)
    assert verify_response(response, digest=digest, hash_name=name, roots=[embedded.root]).imprint == digest


def test_serial_numbers_are_unique(embedded: EmbeddedAuthority) -> None:
    serials = {read(embedded, embedded.respond(REQUEST, now=NOW)).serial for _ in range(200)}
    assert len(serials) == 200


def test_certificate_is_left_out_when_not_asked_for(embedded: EmbeddedAuthority) -> None:
    request = rfc3161ng.make_timestamp_request(digest=forge.DIGEST, hashname="sha256", nonce=forge.NONCE)
    response = embedded.respond(rfc3161ng.encode_timestamp_request(request), now=NOW)
    with pytest.raises(TokenRejected, match="neither in the token nor given"):
        read(embedded, response)
    assert verify_response(
        response, digest=forge.DIGEST, roots=[embedded.root], intermediates=[embedded.leaf]
    )


@pytest.mark.parametrize(
    ("request_", "now", "failure"),
    [
        (b"nonsense", NOW, 5),
        (make_request(forge.DIGEST, nonce=1, policy="1.2.3"), NOW, 15),
        (REQUEST, VALID_FROM - dt.timedelta(seconds=1), 14),
        (REQUEST, VALID_UNTIL, 14),
    ],
)
def test_requests_that_cannot_be_served_are_rejected(
    embedded: EmbeddedAuthority, request_: bytes, now: dt.datetime, failure: int
) -> None:
    response = parse_response(embedded.respond(request_, now=now))
    assert (response.status, response.failures, response.token) == (2, (failure,), None)


def test_own_policy_may_be_asked_for(embedded: EmbeddedAuthority) -> None:
    request = make_request(forge.DIGEST, nonce=forge.NONCE, policy=POLICY)
    assert read(embedded, embedded.respond(request, now=NOW)).policy == POLICY


def test_time_needs_a_zone(embedded: EmbeddedAuthority) -> None:
    with pytest.raises(UsageError, match="time zone"):
        embedded.respond(REQUEST, now=dt.datetime(2026, 1, 1))  # noqa: DTZ001 - the missing zone is the point


def test_another_authority_is_not_trusted(embedded: EmbeddedAuthority, tmp_path: Path) -> None:
    other = EmbeddedAuthority.open(tmp_path / "other")
    with pytest.raises(TokenRejected, match="no chain"):
        read(embedded, other.respond(REQUEST, now=NOW))


def test_second_opening_gives_the_same_authority(embedded: EmbeddedAuthority, tmp_path: Path) -> None:
    again = EmbeddedAuthority.open(tmp_path / "tsa")
    assert (again.root, again.leaf) == (embedded.root, embedded.leaf)


def test_files_are_private_and_the_root_is_beside_them(embedded: EmbeddedAuthority, tmp_path: Path) -> None:
    directory = tmp_path / "tsa"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / FILE_NAME).stat().st_mode) == 0o600
    assert (directory / ROOT_NAME).read_bytes() == embedded.root.public_bytes(Encoding.PEM)
    assert sorted(path.name for path in directory.iterdir()) == [FILE_NAME, ROOT_NAME]


def test_directory_that_others_could_read_is_closed_on_first_use(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    EmbeddedAuthority.open(tmp_path / "open")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700


OPEN = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.hashes import SHA256
from polledger.timestamp.authority import EmbeddedAuthority
sys.stdin.readline()
print(EmbeddedAuthority.open(Path(sys.argv[1])).leaf.fingerprint(SHA256()).hex())
"""


def test_processes_that_race_get_the_same_authority(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, tmp_path / "tsa"],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda racer: racer.communicate("go\n")[0], racers))
    assert len(set(outputs)) == 1
    assert outputs[0].strip()


def test_one_of_those_that_race_makes_the_authority_and_the_others_wait(tmp_path: Path) -> None:
    made = []

    def make() -> Identity:
        time.sleep(0.1)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(len(made)))])
        made.append(name)
        key = ec.generate_private_key(ec.SECP256R1())
        return make_identity(key, leaf=name, root=name, valid=(VALID_FROM, VALID_UNTIL))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_identity(tmp_path / "tsa", make).leaf, range(4)))
    assert len(made) == 1
    assert found == [found[0]] * 4


@pytest.mark.parametrize(
    "damage", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_damaged_file_is_named(embedded: EmbeddedAuthority, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "tsa" / FILE_NAME
    path.write_text(damage)
    with pytest.raises(Unavailable, match=FILE_NAME):
        EmbeddedAuthority.open(path.parent)


def test_key_of_another_authority_is_noticed(embedded: EmbeddedAuthority, tmp_path: Path) -> None:
    EmbeddedAuthority.open(tmp_path / "other")
    mine, theirs = (tmp_path / name / FILE_NAME for name in ("tsa", "other"))
    marker = "-----END PRIVATE KEY-----\n"
    key = theirs.read_text().partition(marker)[0]
    mine.write_text(key + marker + mine.read_text().partition(marker)[2])
    with pytest.raises(Unavailable, match="damaged"):
        EmbeddedAuthority.open(mine.parent)


def test_root_of_another_authority_is_noticed(embedded: EmbeddedAuthority, tmp_path: Path) -> None:
    other = EmbeddedAuthority.open(tmp_path / "other")
    path = tmp_path / "tsa" / FILE_NAME
    swapped = path.read_bytes().replace(
        embedded.root.public_bytes(Encoding.PEM), other.root.public_bytes(Encoding.PEM)
    )
    path.write_bytes(swapped)
    with pytest.raises(Unavailable, match="damaged"):
        EmbeddedAuthority.open(path.parent)


def test_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="embedded authority"):
        EmbeddedAuthority.open(tmp_path / "file" / "tsa")
