"""Two authorities of two operators on loopback, each a process of its own; outages, and authorities that misbehave."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polledger.store.run import RunDirectory
from polledger.timestamp.queue import RequestQueue
from tests.e2e.conftest import NONCE, TASKS, Cli
from tests.timestamp import forge
from tests.timestamp.peers import free_url, needs_openssl, rogue, write_openssl
from tests.timestamp.serving import serving

GATES = '''
import itertools, os, time
from pathlib import Path

BATCHES = itertools.count()
GATES = {40: "1", 120: "2"}


def wait_at_gate() -> None:
    """Where the variable GATES names a directory, batch 40 waits for the file 1 there, batch 120 for the file 2."""
    gate, directory = GATES.get(next(BATCHES)), os.environ.get("GATES")
    while gate and directory and not (Path(directory) / gate).exists():
        time.sleep(0.02)

'''
QUORUM = "[time]\nquorum = 2\n[require]\nexternal_time = true\n"


def trust_file(path: Path, *entries: dict[str, Any]) -> Path:
    lines = []
    for entry in entries:
        lines += ["[[authority]]", "interval = 0"]
        lines += [f"{key} = {value!r}".replace("'", '"') for key, value in entry.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def until(true: Callable[[], bool], *, process: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.05)


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    """The tiny recipe, made to wait on its way while it is trained: an outage shall not be a matter of luck."""
    text = (TASKS / "tiny.py").read_text()
    text = text.replace("\nclass Tiny", f"{GATES}\nclass Tiny").replace('"steps": 24', '"steps": 160')
    text = text.replace("        x = torch.stack(", "        wait_at_gate()\n        x = torch.stack(")
    path = tmp_path / "gated.py"
    path.write_text(text)
    return path


@pytest.fixture
def own_home(tmp_path: Path, home: Path) -> Path:
    """A home with the session's key, for a trust file of its own."""
    made = tmp_path / "home"
    made.mkdir()
    if (home / "key.pem").exists():
        shutil.copy(home / "key.pem", made / "key.pem")
    return made


@contextlib.contextmanager
def sealing(home: Path, *words: object, **variables: object) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "polledger.cli.app", "seal", *map(str, words)],
        env={
            **os.environ,
            "POLLEDGER_HOME": str(home),
            **{key: str(value) for key, value in variables.items()},
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def tokens(run: Path) -> list[int]:
    """How many tokens each seal has."""
    directory = RunDirectory.open(run)
    return [len(directory.read_seal(number).tokens) for number in directory.seals()]


@needs_openssl
def test_quorum_of_two_survives_an_outage_in_the_middle_of_the_run(
    cli: Cli, gated: Path, own_home: Path, tmp_path: Path
) -> None:
    """openssl and `tsa serve`, 2 of 2. The second is killed, comes back, the queue drains, the run verifies."""
    run, env = tmp_path / "run", {"POLLEDGER_HOME": str(own_home)}
    write_openssl(tmp_path / "openssl")
    (tmp_path / "root.pem").write_bytes(forge.root().pem())
    queue = RequestQueue(RunDirectory(run).queue_path)
    with rogue("openssl", directory=tmp_path / "openssl") as one, serving(tmp_path / "second") as two:
        entries = (
            {
                "name": "first",
                "operator": "One Ltd",
                "url": one.url,
                "roots": [str(tmp_path / "root.pem")],
            },
            {**two.entry, "name": "second", "operator": "Two Ltd"},
        )
        trust = trust_file(own_home / "trust.toml", *entries)
        words = (gated, "--run", run, "--every", 4, "--warm", 1, "--seal-every", 1)
        with sealing(own_home, *words, "--tsa", "first", "--tsa", "second", GATES=tmp_path) as process:
            until(
                lambda: run.exists() and len(tokens(run)) >= 10 and set(tokens(run)) == {2},
                process=process,
            )
            two.process.kill()
            two.process.wait()
            (tmp_path / "1").touch()
            until(lambda: len(tokens(run)) >= 29 and min(tokens(run)) == 1, process=process)
            until(lambda: any(entry.attempts for entry in queue.pending()), process=process)
            facts = cli("inspect", run, "--json", env=env).json
            assert {waits["authority"] for waits in facts["waiting"]} == {"second"}
            assert all(waits["since"] for waits in facts["waiting"])
            with serving(tmp_path / "second", listen=f"127.0.0.1:{two.port}"):
                until(lambda: queue.pending() == [] and set(tokens(run)) == {2}, process=process)
                (tmp_path / "2").touch()
                assert process.wait(300) == 0
    assert set(tokens(run)) == {2}
    policy = tmp_path / "policy.toml"
    policy.write_text(QUORUM)
    options = (
        "--sample",
        2,
        "--nonce",
        NONCE,
        "--task",
        gated,
        "--policy",
        policy,
        "--trust",
        trust,
        "--json",
    )
    done = cli("verify", run, *options, env=env)
    assert (done.code, done.json["verdict"]) == (0, "VERIFIED"), done.err
    found = done.json["time"]
    assert (found["assurance"], found["operators"]) == ("external", ["One Ltd", "Two Ltd"])
    assert (found["pending"], found["stamped"]) == (0, found["seals"])
    assert found["lag"]["tokens"] == 2 * found["seals"]

    same = [{**entry, "operator": "One Ltd"} for entry in entries]
    one_voice = (
        "--policy",
        policy,
        "--trust",
        trust_file(tmp_path / "same.toml", *same),
        "--no-replay",
        "--json",
    )
    refused = cli("verify", run, *one_voice, env=env)
    assert refused.json["time"]["assurance"] == "self-asserted"
    assert "time.required" in [finding["name"] for finding in refused.findings("unverifiable")]


def test_run_that_ends_in_an_outage_says_what_waits_and_is_completed_later(
    cli: Cli, own_home: Path, tmp_path: Path
) -> None:
    run, env = tmp_path / "run", {"POLLEDGER_HOME": str(own_home)}
    with serving(tmp_path / "tsa") as up:
        entry = {**up.entry, "name": "team"}
        port = up.port
    trust = trust_file(own_home / "trust.toml", entry)
    sealed = cli("seal", TASKS / "tiny.py", "--run", run, "--tsa", "team", "--json", env=env)
    assert sealed.code == 0, sealed.err
    pending = sealed.json["timestamps_pending"]
    assert len(pending) == sealed.json["timestamps_waiting"] == len(tokens(run))
    assert {waits["authority"] for waits in pending} == {"team"}
    assert any("Connection refused" in waits["reason"] for waits in pending)
    assert "no token yet: " in sealed.err
    assert f"polledger timestamp retry {run}" in sealed.err

    again = cli("timestamp", "retry", run, "--json", env=env)
    assert again.code == 4
    assert [waits["seal"] for waits in again.json["pending"]] == sorted(range(len(pending)), reverse=True)
    before = cli("verify", run, "--no-replay", "--no-scan", "--trust", trust, env=env)
    assert "for team since" in before.out
    assert "waiting  " in cli("inspect", run, env=env).out

    with serving(tmp_path / "tsa", listen=f"127.0.0.1:{port}"):
        done = cli("timestamp", "retry", run, "--json", env=env)
    assert (done.code, done.json["pending"]) == (0, [])
    after = cli("verify", run, "--no-replay", "--no-scan", "--trust", trust, "--json", env=env).json["time"]
    assert (after["assurance"], after["waiting"]) == ("external", [])
    assert after["lag"]["longest"] > 0
    facts = cli("inspect", run, "--json", env=env).json
    assert facts["waiting"] == []
    assert all(token["lag"] > 0 for seal in facts["seals"] for token in seal["tokens"])


def test_authorities_that_misbehave_fail_no_run(cli: Cli, own_home: Path, tmp_path: Path) -> None:
    modes = (
        "hang",
        "drip",
        "endless",
        "huge",
        "continues",
        "garbage",
        "html",
        "rejection",
        "lie",
        "redirect",
    )
    run = tmp_path / "run"
    with contextlib.ExitStack() as servers:
        urls = [servers.enter_context(rogue(mode)).url for mode in modes]
        good = servers.enter_context(serving(tmp_path / "tsa"))
        named = [word for url in [*urls, free_url(), good.url] for word in ("--tsa", url)]
        env = {"POLLEDGER_HOME": str(own_home)}
        sealed = cli("seal", TASKS / "tiny.py", "--run", run, "--steps", 8, *named, "--json", env=env)
    assert sealed.code == 0, sealed.err
    waiting = {waits["authority"] for waits in sealed.json["timestamps_pending"]}
    assert waiting >= set(urls)
    assert good.url not in waiting
    assert tokens(run) == [1] * len(tokens(run))
