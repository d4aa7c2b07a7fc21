"""``polledger timestamp verify`` and ``retry`` as a user meets them; outcomes of verify are in the vectors."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.head import Head, sign_head
from polledger.core.records import Seal
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.client import make_request
from polledger.timestamp.identity import ROOT_NAME
from polledger.timestamp.queue import Pending, RequestQueue
from polledger.timestamp.stamper import EMBEDDED_URL
from tests.timestamp import forge
from tests.timestamp.cases import find
from tests.timestamp.conftest import Command
from tests.timestamp.peers import REPLY, Asked, free_url, http
from tests.timestamp.test_stamper import forged

GOOD = find("own/good-accuracy")
HEAD = Head(run=bytes(16), size=1, root=bytes(32), chainpoint=bytes(32), previous=bytes(32))


def test_valid_token_is_described(command: Command) -> None:
    done = command("timestamp", "verify", *GOOD.words())
    assert done.code == 0
    lines = dict(line.split(maxsplit=1) for line in done.out.replace("gen time", "gen_time").splitlines())
    assert lines["gen_time"] == "2026-11-22T06:13:20Z"
    assert lines["accuracy"] == "1.002003"
    assert lines["serial"] == "1267"
    assert lines["tsa"] == "CN=TSA p256,O=polledger-test"
    assert done.err.startswith("valid: ")


def test_json_has_every_field_and_nothing_else_is_printed(command: Command) -> None:
    done = command("timestamp", "verify", *GOOD.words(), "--json")
    assert done.json() == {
        "schema": "polledger.timestamp-verify/1",
        "exit_code": 0,
        "valid": True,
        "gen_time": "2026-11-22T06:13:20Z",
        "accuracy": 1.002003,
        "policy": forge.POLICY,
        "serial": "1267",
        "nonce": "1234567890abcdef",
        "hash": "sha256",
        "digest": forge.DIGEST.hex(),
        "ordering": False,
        "tsa": "CN=TSA p256,O=polledger-test",
    }


def test_invalid_token_gives_one_line_and_exit_code_1(command: Command) -> None:
    done = command("timestamp", "verify", *find("own/nonce-other").words())
    assert (done.code, done.out) == (1, "")
    assert done.err == f"polledger: the nonce is 5, expected {forge.NONCE}\n"


def words(**changes: object) -> list[object]:
    options = {
        "digest": forge.DIGEST.hex(),
        "roots": GOOD.path("roots"),
        "at": "2027-01-01T00:00:00Z",
        **changes,
    }
    token = options.pop("token", GOOD.path("response"))
    return ["timestamp", "verify", token, *(word for key in options for word in (f"--{key}", options[key]))]


def test_nonce_may_be_hex_and_options_may_be_absent(command: Command) -> None:
    assert command(*words()).code == 0
    assert command(*words(nonce="0x1234567890abcdef")).code == 0
    assert command(*words(nonce="0x1234567890abcdee")).code == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "xyz"}, "--digest is not hex: 'xyz'"),
        ({"digest": "00"}, "a sha256 digest has 32 bytes, found 1"),
        ({"hash": "md5"}, "hash 'md5' is not one of sha256, sha384, sha512"),
        ({"nonce": "seven"}, "--nonce is not a whole number: 'seven'"),
        ({"policy": "1.x"}, "not an object identifier: '1.x'"),
        ({"at": "yesterday"}, "--at is not a time"),
        ({"at": "2026-01-01T00:00:00"}, "--at needs a time zone, for example 2026-01-01T00:00:00Z"),
        ({"token": "gone.tsr"}, "gone.tsr does not exist"),
        ({"token": "."}, "is a directory, not a file"),
        ({"roots": "gone.pem"}, "gone.pem does not exist"),
        ({"intermediates": "gone.pem"}, "gone.pem does not exist"),
        ({"roots": GOOD.path("response")}, "holds no certificates in PEM form"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(
    command: Command, changes: dict[str, object], message: str
) -> None:
    done = command(*words(**changes), "--json")
    result = done.json()
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert (result["exit_code"], result["schema"]) == (2, "polledger.timestamp-verify/1")
    assert message in result["error"]
    assert "valid" not in result


def test_missing_options_are_usage_errors(command: Command) -> None:
    done = command("timestamp", "verify", GOOD.path("response"))
    assert done.code == 2
    assert done.err.count("\n") == 1


def test_time_defaults_to_now(command: Command, tmp_path: Path) -> None:
    """A token from a clock that runs a few seconds ahead is accepted, one from tomorrow is not."""
    authority = EmbeddedAuthority.open(tmp_path)
    options = ["--digest", forge.DIGEST.hex(), "--roots", tmp_path / ROOT_NAME]
    for ahead, code in ((timedelta(seconds=20), 0), (timedelta(days=1), 1)):
        response = authority.respond(make_request(forge.DIGEST, nonce=1), now=datetime.now(UTC) + ahead)
        (tmp_path / "r.tsr").write_bytes(response)
        assert command("timestamp", "verify", tmp_path / "r.tsr", *options).code == code


def test_huge_token_is_invalid_and_not_read_whole(command: Command, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    done = command(*words(token=tmp_path / "huge"))
    assert done.code == 1
    assert "at most" in done.err


@pytest.mark.parametrize("options", [(), ("-W", "error")], ids=["as it is", "errors of warnings"])
def test_an_odd_certificate_writes_nothing_of_its_own(options: tuple[str, ...], tmp_path: Path) -> None:
    """cryptography warns of an empty name, on standard error and with a path of this machine."""
    empty = forge.seq(forge.set_(forge.seq(forge.oid("2.5.4.3"), forge.utf8(""))))
    names = forge.extension("2.5.29.17", forge.seq(forge.tlv(0xA4, empty)), critical=False)
    signer = forge.certify("Odd", forge.ec_key("odd"), forge.intermediate(), [*forge.TSA, names])
    (tmp_path / "odd.tsr").write_bytes(forge.Token(signer=signer).response_bytes())
    (tmp_path / "root.pem").write_bytes(forge.root().pem())
    words = ["timestamp", "verify", "odd.tsr", "--digest", forge.DIGEST.hex(), "--roots", "root.pem"]
    done = subprocess.run(
        [sys.executable, *options, "-m", "polledger.cli.app", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr.startswith("valid: ")
    assert done.stderr.count("\n") == 1


def test_verify_loads_no_network_client_and_no_torch() -> None:
    code = (
        "import sys\n"
        "from polledger.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "loaded = {'torch', 'numpy', 'requests', 'rfc3161ng', 'http.client'} & set(sys.modules)\n"
        "print(sorted(loaded))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words())],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory.create(tmp_path / "run")
    note = sign_head(HEAD, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    directory.write_seal(Seal(v=1, index=0, note=note, tokens=[]))
    return directory


def queue_request(run: RunDirectory, url: str, nonce: int = 7) -> None:
    request = make_request(HEAD.digest(), nonce=nonce)
    RequestQueue(run.queue_path).put(Pending(seal=0, authority="tsa", url=url, request=request))


def test_retry_of_an_empty_queue_has_nothing_to_do(command: Command, run: RunDirectory) -> None:
    done = command("timestamp", "retry", run.path, "--json")
    assert done.code == 0
    nothing = {"obtained": [], "pending": [], "cosigned": [], "unwitnessed": [], "damaged": []}
    expected = {"exit_code": 0, **nothing}
    assert done.json() == {"schema": "polledger.timestamp-retry/1", **expected}
    assert done.err == "no timestamp waits\n"


def test_retry_adds_the_token_to_the_seal(command: Command, run: RunDirectory) -> None:
    with http(forged()) as server:
        queue_request(run, server.url)
        done = command("timestamp", "retry", run.path)
    assert done.code == 0
    assert done.err.splitlines() == [
        "seal 0, tsa: token of 2026-11-22T06:13:20Z",
        "1 timestamps obtained; none waits any more",
    ]
    (reference,) = run.read_seal(0).tokens
    assert reference.authority == "tsa"
    assert RequestQueue(run.queue_path).pending() == []


def test_retry_reports_what_still_waits_without_secrets(command: Command, run: RunDirectory) -> None:
    queue_request(run, free_url().replace("//", "//me:s3cret@"))
    done = command("timestamp", "retry", run.path, "--json")
    result = done.json()
    assert done.code == result["exit_code"] == 4
    (entry,) = result["pending"]
    assert (entry["seal"], entry["authority"], entry["attempts"]) == (0, "tsa", 1)
    assert "Connection refused" in entry["reason"]
    assert "s3cret" not in done.out + done.err
    assert RequestQueue(run.queue_path).pending()[0].attempts == 1
    assert command("timestamp", "retry", run.path, "--json").json()["pending"][0]["attempts"] == 2


def test_retry_keeps_no_token_that_does_not_fit(command: Command, run: RunDirectory) -> None:
    def borrowed(_: Asked) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": REPLY}, find("own/good-p256").response()

    with http(borrowed) as server:
        queue_request(run, server.url)
        done = command("timestamp", "retry", run.path)
    assert done.code == 4
    assert "the imprint is" in done.err
    assert run.read_seal(0).tokens == []
    assert len(RequestQueue(run.queue_path).pending()) == 1


def test_retry_uses_the_embedded_authority_of_the_user(
    command: Command, run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLLEDGER_HOME", str(tmp_path / "home"))
    request = make_request(HEAD.digest(), nonce=7)
    entry = Pending(seal=0, authority="embedded", url=EMBEDDED_URL, request=request)
    RequestQueue(run.queue_path).put(entry)
    assert command("timestamp", "retry", run.path).code == 0
    assert len(run.read_seal(0).tokens) == 1
    assert (tmp_path / "home" / "tsa" / ROOT_NAME).exists()


def test_retry_names_damaged_entries(command: Command, run: RunDirectory) -> None:
    run.queue_path.mkdir(parents=True)
    (run.queue_path / "000000-x.msgpack").write_bytes(b"junk")
    done = command("timestamp", "retry", run.path, "--json")
    assert done.code == 4
    assert done.json()["damaged"] == ["000000-x.msgpack"]
    assert (run.queue_path / "000000-x.msgpack").read_bytes() == b"junk"


def test_retry_does_not_disturb_a_run_in_use(command: Command, run: RunDirectory) -> None:
    queue_request(run, free_url())
    with run.lock():
        done = command("timestamp", "retry", run.path, "--json")
    assert done.code == 4
    assert "in use" in done.json()["error"]
    assert RequestQueue(run.queue_path).pending()[0].attempts == 0


def test_retry_of_something_else_is_a_usage_error(command: Command, tmp_path: Path) -> None:
    done = command("timestamp", "retry", tmp_path / "gone", "--json")
    assert done.code == 2
    assert json.loads(done.out)["schema"] == "polledger.timestamp-retry/1"
