"""Commands that are stopped from outside: one sentence, one object, exit code 130, nothing temporary left."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = [sys.executable, "-m", "polledger.cli.app"]
SMALL = ROOT / "tests" / "training" / "tasks" / "small.py"
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stopping")


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    return {
        **os.environ,
        "POLLEDGER_HOME": str(place / "home"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def slow(place: Path) -> Path:
    """The small task, every loss of which takes a while."""
    path = place / "slow.py"
    path.write_text(
        SMALL.read_text().replace("time.sleep(PAUSE)\n        values", "time.sleep(0.2)\n        values")
    )
    return path


@pytest.fixture(scope="module")
def run(place: Path, slow: Path, environment: dict[str, str]) -> Path:
    words = ["seal", slow, "--run", place / "run", "--steps", "8", "--every", "4", "--warm", "1"]
    subprocess.run([*MODULE, *map(str, words)], env=environment, capture_output=True, check=True)
    return place / "run"


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_verification_leaves_nothing_behind(
    run: Path, slow: Path, environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [*MODULE, "verify", str(run), "--task", str(slow), "--json"],
        env={**environment, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: any(path.name.startswith("polledger-") for path in tmp_path.iterdir()), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "polledger: interrupted"
    assert json.loads(out) == {"schema": "polledger.verify/1", "exit_code": 130, "error": "interrupted"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_training_that_has_not_begun_leaves_nothing_behind(
    place: Path, environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    task = tmp_path / "sleepy.py"
    waits = f"open({str(tmp_path / 'building')!r}, 'w').close()\n        time.sleep(60)\n"
    task.write_text(SMALL.read_text().replace("width = self.config", f"{waits}        width = self.config"))
    process = subprocess.Popen(
        [*MODULE, "seal", str(task), "--run", str(tmp_path / "run"), "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((tmp_path / "building").exists, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.splitlines()[1:] == ["polledger: interrupted before anything was sealed"]
    assert json.loads(out)["exit_code"] == 130
    assert not (tmp_path / "run").exists()


def test_an_interrupted_question_ends_with_a_sentence(run: Path, environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MODULE, "verify", str(run)],
        env=environment,
        cwd="/",
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    said = ""
    while "[y/N] " not in said:
        said += os.read(ours, 4096).decode()
    assert "run Small in an isolated process? [y/N] " in said
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    rest = ""
    while not rest.endswith("interrupted\r\n"):
        rest += os.read(ours, 4096).decode()
    os.close(ours)
    assert rest.split() == ["polledger:", "interrupted"]
    assert rest.startswith("\r\n")
    assert process.stdout is not None
    process.stdout.close()
