"""The frame around the verbs: defaults from files and the environment, interrupts, start-up."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MODULE = [sys.executable, "-m", "polledger.cli.app"]
ROOT = Path(__file__).resolve().parents[2]


def run(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLLEDGER_HOME": str(cwd / "home"), **variables}
    return subprocess.run([*MODULE, *words], cwd=cwd, env=environment, capture_output=True, text=True)


def test_pyproject_gives_defaults_under_the_options_own_names(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.polledger.seal]\nset = ["lr=oops oops"]\nrun = "r"\n')
    done = run("seal", str(ROOT / "tests/e2e/tasks/tiny.py"), cwd=tmp_path)
    assert done.returncode == 2
    assert "oops" in done.stderr


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[tool.polledger.seal]\nevry = 3\n", "--evry"),
        ("[tool.polledger.sael]\nevery = 3\n", "sael"),
        ("[tool.polledger\n", "TOML"),
        ("[tool]\npolledger = 3\n", "table"),
    ],
)
def test_pyproject_with_a_mistake_is_refused(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    done = run("inspect", "nowhere", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert hint in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 2


def test_environment_gives_defaults(tmp_path: Path) -> None:
    task = str(ROOT / "tests/e2e/tasks/tiny.py")
    done = run("seal", task, "--run", "r", cwd=tmp_path, POLLEDGER_SEAL_EVERY="0")
    assert done.returncode == 2
    assert "every" in done.stderr


def test_quiet_may_stand_anywhere(tmp_path: Path) -> None:
    done = run("inspect", "nowhere", "--quiet", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_a_refused_option_names_the_whole_verb_in_its_object(tmp_path: Path) -> None:
    done = run("timestamp", "verify", "--nonsense", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["schema"] == "polledger.timestamp-verify/1"


def test_what_evidence_or_names_contain_reaches_no_terminal_as_control_codes(tmp_path: Path) -> None:
    done = run("inspect", "no\x1b[31m\nwhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_version_is_printed(tmp_path: Path) -> None:
    from polledger import __version__

    assert run("--version", cwd=tmp_path).stdout == f"polledger {__version__}\n"


@pytest.mark.parametrize("words", [[], ["timestamp"], ["--quiet"]])
def test_without_a_verb_the_help_is_printed_as_it_is(tmp_path: Path, words: list[str]) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "\nCommands:\n  " in done.stdout
    assert done.stderr == "polledger: no command was given\n"


def test_completion_still_ends_well(tmp_path: Path) -> None:
    variables = {
        "_POLLEDGER_COMPLETE": "complete_bash",
        "COMP_WORDS": "polledger ver",
        "COMP_CWORD": "1",
    }
    done = run(cwd=tmp_path, **variables)
    assert (done.returncode, done.stdout.split()) == (0, ["verify"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_is_one_line_one_object_and_130(tmp_path: Path, number: signal.Signals) -> None:
    # A named pipe nobody writes to: reading the trust file waits until the interrupt.
    os.mkfifo(tmp_path / "trust.toml")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.log").write_bytes(b"")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLLEDGER_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(
        [*MODULE, "verify", "run", "--policy", "trust.toml", "--json"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        waiting = Path(f"/proc/{process.pid}/wchan").read_text()
        if "fifo" in waiting or "wait_for_partner" in waiting:
            break
        time.sleep(0.05)
    else:
        pytest.skip("the policy file is not read in a way that waits")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "polledger: interrupted\n"
    assert json.loads(out)["exit_code"] == 130
