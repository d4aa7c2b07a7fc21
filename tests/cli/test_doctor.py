"""`polledger doctor` as a user meets it: what it says of tasks that do and do not replay, and what it leaves behind."""

import json
from pathlib import Path
from typing import Any

import pytest

from polledger.training import firstinterval
from tests.cli.conftest import Command

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "training" / "tasks" / "small.py"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def test_a_task_that_replays(polledger: Any, scratch: Path) -> None:
    done = polledger("doctor", SMALL, "--every", 3, TMPDIR=str(scratch))
    assert done.code == 0, done.err
    names = [line.split()[0] for line in done.out.splitlines()]
    assert names == ["task", "code", "data", "state", "time", "replay", "isolation"]
    assert "Small (recipe), 24 steps" in done.out
    assert "96 examples" in done.out
    assert "6 steps in fresh processes, every bit the same" in done.out
    assert (
        done.last == f"the first steps of {SMALL} replay bit for bit; polledger seal takes the same options"
    )
    assert not list(scratch.glob("polledger-*"))


def test_json_says_the_same(polledger: Any, scratch: Path) -> None:
    done = polledger("doctor", SMALL, "--every", 3, "--steps", 40, "--json", TMPDIR=str(scratch))
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (said["schema"], said["exit_code"]) == ("polledger.doctor/1", 0)
    assert (said["task"], said["kind"], said["total_steps"], said["steps"]) == ("Small", "recipe", 40, 6)
    assert (said["replay"], said["detail"], said["warnings"]) == ("equal", None, [])
    assert said["examples"] == 96
    assert (said["code_files"], said["code_bytes"]) == (1, SMALL.stat().st_size)
    # The first, ten warm ones, every third up to 39, and the last.
    assert said["stored_bytes"] == said["state_bytes"] * (1 + 10 + 10 + 1)
    assert "torch" in said["distributions"]
    assert sorted(said["isolation"]) == ["files", "network"]
    assert {type(kept) for kept in said["isolation"].values()} == {bool}


def test_one_that_does_not_is_named_and_ends_with_3(polledger: Any, tmp_path: Path, scratch: Path) -> None:
    task = tmp_path / "wild.py"
    task.write_text(
        SMALL.read_text().replace("noisy = values", "noisy = values * (1 + time.time_ns() % 997)")
    )
    done = polledger("doctor", task, "--every", 2, TMPDIR=str(scratch))
    assert done.code == 3
    assert "   replay  differs: " in done.out
    assert "gave another state" in done.last
    assert done.last.startswith(f"a run of {task} could not be verified: ")
    assert not list(scratch.glob("polledger-*"))
    said = json.loads(polledger("doctor", task, "--every", 2, "--json").out)
    assert (said["exit_code"], said["replay"]) == (3, "different")
    assert "gave another state" in said["detail"]
    assert said["isolation"] is None


def test_what_stays_outside_the_state_is_said_where_it_replays(polledger: Any, tmp_path: Path) -> None:
    task = tmp_path / "stray.py"
    task.write_text(
        SMALL.read_text().replace("noisy = values", "self.seen = self.step_number; noisy = values")
    )
    done = polledger("doctor", task, "--every", 2)
    assert done.code == 0
    assert "every bit the same" in done.out
    assert "replay bit for bit" in done.last
    assert "but: a step changed self.seen" in done.last


def test_a_task_with_its_own_batches_is_told_what_that_means(polledger: Any, tmp_path: Path) -> None:
    task = tmp_path / "own.py"
    batch = "    def batch(self, n):\n        return torch.full((8, 8), 1.0 * n), torch.arange(8) % 3\n\n    def loss("
    task.write_text(SMALL.read_text().replace("    def loss(", batch))
    done = polledger("doctor", task, "--every", 1)
    assert done.code == 0, done.err
    assert "no verification can say which examples" in done.out


def test_a_replay_that_was_not_made_is_no_verdict(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setattr(firstinterval, "lack_of_memory", lambda device: f"{device} is full")
    done = command("doctor", SMALL, "--every", 1)
    assert done.code == 4
    assert "   replay  unknown: cpu is full" in done.out
    assert "isolation" not in done.out
    assert done.last == f"nothing is known of whether a run of {SMALL} could be verified: cpu is full"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch.py"], "no such file: nosuch.py"),
        ([str(SMALL), "--every", "0"], "--every"),
        ([str(SMALL), "--set", "nothing=1"], "nothing"),
        ([str(SMALL), "--steps", "3", "--set", "steps=4"], "give one of them"),
    ],
)
def test_mistakes_are_one_line_and_2(polledger: Any, words: list[str], message: str) -> None:
    done = polledger("doctor", *words)
    assert done.code == 2
    assert message in done.last


def test_what_fails_while_it_trains_is_said_with_its_line(
    polledger: Any, tmp_path: Path, scratch: Path
) -> None:
    task = tmp_path / "failing.py"
    task.write_text(
        SMALL.read_text().replace("        noisy = ", "        assert self.step_number < 1\n        noisy = ")
    )
    done = polledger("doctor", task, "--every", 2, TMPDIR=str(scratch))
    assert done.code == 2
    assert "step 1 failed: AssertionError" in done.last
    assert not list(scratch.glob("polledger-*"))
