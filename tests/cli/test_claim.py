"""``polledger claim``, ``publish`` and ``verify CLAIM`` as commands: options, messages, exit codes."""

import json
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cli.conftest import Command
from tests.verify.build import KEY, Built


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLLEDGER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def key_file(path: Path, key: Ed25519PrivateKey = KEY) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return key_file(tmp_path / "key.pem")


def test_a_claim_is_one_json_object_and_a_sentence(
    command: Command, sealed: Built, key: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c" / "claim.dsse.json"
    said = command("claim", sealed.run.path, "--key", key, "-o", out, "--title", "small", "--json")
    assert (said.code, said.json["schema"]) == (0, "polledger.claim/1")
    assert said.json["authorities"] == ["embedded"]
    assert f"`polledger verify {out}` checks it" in said.last
    shown = command("verify", out)
    assert shown.code == 3
    assert "12 steps, 2 time stamps, 4 tensors" in " ".join(shown.out.split())


def test_a_claim_in_the_run_directory_is_held_against_that_run(
    command: Command, copied: Built, key: Path
) -> None:
    out = copied.run.path / "claim.dsse.json"
    assert command("claim", copied.run.path, "--key", key, "-o", out).code == 0
    said = command("verify", out, "--no-replay", "--json")
    [finding] = [one for one in said.json["findings"] if one["name"] == "claim"]
    assert "each compared with the state that the run ends in" in finding["detail"]


def test_an_authority_that_is_not_there_is_named_and_stops_nothing(
    command: Command, sealed: Built, key: Path, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}/"
    out = tmp_path / "c" / "claim.dsse.json"
    said = command("claim", sealed.run.path, "--key", key, "-o", out, "--tsa", nobody)
    assert said.code == 0
    assert f"no token from {nobody}" in said.err
    assert "not stamped: no token came" in said.last
    assert out.exists()


def test_mistakes_are_one_line(command: Command, sealed: Built, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "c" / "claim.dsse.json"
    other = key_file(tmp_path / "other.pem", Ed25519PrivateKey.from_private_bytes(b"o" * 32))
    run = sealed.run.path
    for words, why in (
        (("claim", run, "--key", other, "-o", out), "this key did not seal the run"),
        (("claim", run, "--key", tmp_path / "no.pem", "-o", out), "no such key"),
        (("claim", tmp_path / "no", "--key", key, "-o", out), "does not exist"),
        (("claim", run, "--key", key, "-o", out, "--model", tmp_path / "no.pt"), "does not exist"),
        (("claim", run, "--key", key, "-o", out, "--name", "a\nb"), "the claim cannot be read"),
        (("claim", run, "--key", key, "-o", out, "--supersedes", key), "--supersedes"),
        (("publish", tmp_path / "no.json", tmp_path / "site"), "does not exist"),
        (("verify", run, "--run", run), "is no claim"),
    ):
        said = command(*words)
        assert (said.code, why in said.last) == (2, True), said.last
        assert not out.exists()


def test_only_a_claim_of_the_same_key_is_superseded(
    command: Command, sealed: Built, key: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "1" / "claim.dsse.json", tmp_path / "2" / "claim.dsse.json"
    assert command("claim", sealed.run.path, "--key", key, "-o", first).code == 0
    envelope = json.loads(first.read_text())
    envelope["signatures"][0]["sig"] = "A" * 86 + "=="
    stolen = tmp_path / "stolen.json"
    stolen.write_text(json.dumps(envelope))
    words = ("claim", sealed.run.path, "--key", key, "-o", second, "--supersedes")
    assert "another key signed it" in command(*words, stolen).last
    assert command(*words, first).code == 0
