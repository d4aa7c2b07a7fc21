"""Keys: made once, never overwritten, read only by their owner, Ed25519 only."""

import io
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.errors import Unavailable, UsageError
from polledger.keys import create_key, home, load_key, load_or_create_key, new_passphrase, public_key


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "home"
    monkeypatch.setenv("POLLEDGER_HOME", str(directory))
    monkeypatch.delenv("POLLEDGER_KEY_PASSWORD", raising=False)
    return directory


def test_default_key_is_made_once_and_then_read(own_home: Path) -> None:
    first = load_or_create_key()
    assert public_key(first) == public_key(load_or_create_key())
    assert public_key(first) == public_key(load_key(own_home / "key.pem"))
    assert len(public_key(first)) == 32


def test_key_file_is_readable_by_its_owner_only(own_home: Path) -> None:
    load_or_create_key()
    assert stat.S_IMODE((own_home / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(own_home.stat().st_mode) == 0o700


def test_key_is_pkcs8_pem_that_other_tools_read(tmp_path: Path) -> None:
    key = create_key(tmp_path / "k.pem")
    loaded = serialization.load_pem_private_key((tmp_path / "k.pem").read_bytes(), password=None)
    assert (tmp_path / "k.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert isinstance(loaded, Ed25519PrivateKey)
    assert public_key(loaded) == public_key(key)


def test_home_without_a_variable_is_below_the_config_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLLEDGER_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert home() == Path("/somewhere/.config/polledger")


def test_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists"):
        create_key(path)
    assert path.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == ["k.pem"]


def test_processes_racing_for_the_default_key_end_up_with_one(own_home: Path) -> None:
    code = "from polledger.keys import *; print(public_key(load_or_create_key()).hex())"
    root = str(Path(__file__).parents[1])
    racers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root) for _ in range(6)
    ]
    answers = {racer.communicate()[0] for racer in racers}
    assert len(answers) == 1
    assert len(answers.pop().strip()) == 64
    assert [file.name for file in own_home.iterdir()] == ["key.pem"]


def test_named_key_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="polledger keygen"):
        load_or_create_key(tmp_path / "none.pem")
    assert not (tmp_path / "none.pem").exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----\n"]
)
def test_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "k.pem"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="holds no private key"):
        load_key(path)


def test_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    path.write_bytes(b"x" * 70_000)
    with pytest.raises(UsageError, match="too large"):
        load_key(path)


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        load_key(tmp_path)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)], ids=["ec", "rsa"]
)
def test_key_of_another_kind_is_refused(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "k.pem"
    path.write_bytes(pem)
    with pytest.raises(UsageError, match="Ed25519 only"):
        load_key(path)


def test_key_others_can_read_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "k.pem"
    create_key(path)
    with caplog.at_level(logging.WARNING):
        load_key(path)
        assert not caplog.records
        path.chmod(0o640)
        load_key(path)
    assert "chmod 600" in caplog.text


def test_passphrase_of_the_environment_encrypts_and_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "k.pem"
    monkeypatch.setenv("POLLEDGER_KEY_PASSWORD", "correct horse")
    key = create_key(path)
    assert b"ENCRYPTED" in path.read_bytes()
    assert public_key(load_key(path)) == public_key(key)


def test_wrong_passphrase_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "k.pem"
    create_key(path, password=b"right")
    monkeypatch.setenv("POLLEDGER_KEY_PASSWORD", "wrong")
    with pytest.raises(UsageError, match="passphrase is wrong"):
        load_key(path)


def test_an_empty_passphrase_at_the_terminal_is_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_key(tmp_path / "key.pem", password=b"right")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt: "")
    with pytest.raises(UsageError, match="passphrase is wrong"):
        load_key(tmp_path / "key.pem")


def test_missing_passphrase_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "k.pem"
    create_key(path, password=b"right")
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(UsageError, match="POLLEDGER_KEY_PASSWORD"):
            load_key(path)
        with pytest.raises(UsageError, match="POLLEDGER_KEY_PASSWORD"):
            new_passphrase()


def test_directory_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="cannot write"):
        create_key(tmp_path / "file" / "k.pem")
