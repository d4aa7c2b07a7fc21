"""Witnesses from the command line: sealed, verified, out of reach, asked again, and a fork that is refused."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from polledger.store.run import RunDirectory
from tests.e2e.conftest import TASKS, Cli
from tests.timestamp.witness import Running, running
from tests.verify.build import KEY

TASK = TASKS / "tiny.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the prover's key, of which both witnesses take any run."""
    base = tmp_path_factory.mktemp("witnessed")
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (base / "key.pem").write_bytes(pem)
    (base / "key.pem").chmod(0o600)
    (base / "home").mkdir()
    return base


@pytest.fixture(scope="module")
def witnesses(place: Path) -> Iterator[tuple[Running, Running]]:
    log = KEY.public_key().public_bytes_raw()
    with (
        running(place / "w1", log=log, name="witness.example/w1") as one,
        running(place / "w2", log=log, name="witness.example/w2") as two,
    ):
        text = "".join(
            f'[[witness]]\nname = "{name}"\noperator = "{name} Ltd"\nkey = "{server.vkey}"\nurl = "{server.url}"\n\n'
            for name, server in (("first", one), ("second", two))
        )
        (place / "home" / "trust.toml").write_text(text)
        yield one, two


def env(place: Path) -> dict[str, str]:
    return {"POLLEDGER_HOME": str(place / "home")}


def seal(cli: Cli, place: Path, run: Path, *words: object) -> dict[str, Any]:
    options = ["--every", 4, "--warm", 2, "--seal-every", 3, "--key", place / "key.pem", "--json"]
    done = cli("seal", TASK, "--run", run, *options, *words, env=env(place))
    assert done.code == 0, done.err
    return done.json


def verify(cli: Cli, place: Path, run: Path, *words: object) -> dict[str, Any]:
    options = ["--task", TASK, "--trust", place / "home" / "trust.toml", "--sample", 1, "--json"]
    return cli("verify", run, *options, *words, env=env(place)).json


def findings(report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [finding for finding in report["findings"] if finding["name"] == name]


@pytest.fixture(scope="module")
def sealed_run(cli: Cli, place: Path, witnesses: tuple[Running, Running]) -> Path:
    """A run that both witnesses saw, one by name and one by URL and key."""
    said = seal(cli, place, place / "run", "--witness", "first", "--witness", witnesses[1].given)
    assert said["witnesses_pending"] == []
    return place / "run"


def test_a_run_that_two_witnesses_saw(cli: Cli, place: Path, sealed_run: Path) -> None:
    (place / "policy.toml").write_text("[time]\nwitnesses = 2\n")
    report = verify(cli, place, sealed_run, "--policy", place / "policy.toml")
    assert report["verdict"] == "VERIFIED"
    (finding,) = findings(report, "time.witnesses")
    assert finding["outcome"] == "pass"
    assert finding["detail"].startswith("2 of 2 witnesses of the trust file cosigned the last head; over ")
    assert report["time"]["assurance"] == "self-asserted"
    assert [(one["name"], one["final"]) for one in report["time"]["witnesses"]] == [
        ("first", True),
        ("second", True),
    ]


def test_a_damaged_cosignature_is_unverifiable(
    cli: Cli, place: Path, sealed_run: Path, tmp_path: Path
) -> None:
    run = RunDirectory.open(Path(shutil.copytree(sealed_run, tmp_path / "run")))
    path = run.seal_path(run.seals()[-1])
    data = path.read_bytes()
    at = data.index(b"witness.example/w1 ") + 60
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    report = verify(cli, place, run.path)
    assert report["verdict"] == "UNVERIFIABLE"
    assert report["first_bad"]["name"] == "time.cosignatures"


def test_a_witness_that_is_down_is_asked_again_after_the_run(
    cli: Cli, place: Path, witnesses: tuple[Running, Running], tmp_path: Path
) -> None:
    one, two = witnesses
    one.stop()
    two.mode("garbage")
    run = tmp_path / "run"
    said = seal(cli, place, run, "--witness", "first", "--witness", "second")
    assert sorted(entry["authority"] for entry in said["witnesses_pending"]) == [one.name, two.name]
    (finding,) = findings(verify(cli, place, run, "--no-replay"), "time.witnesses")
    assert (finding["outcome"], finding["remedy"]) == (
        "unverifiable",
        "have the prover ask them with timestamp retry",
    )
    one.start()
    two.mode("honest")
    done = cli("timestamp", "retry", run, "--json", env=env(place))
    assert done.code == 0, done.err
    assert {entry["witness"] for entry in done.json["cosigned"]} == {one.name, two.name}
    assert done.last == "no timestamp waits; 2 of 2 cosignatures obtained"
    (finding,) = findings(verify(cli, place, run, "--no-replay"), "time.witnesses")
    assert finding["outcome"] == "pass"
