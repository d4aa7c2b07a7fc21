"""`polledger doctor` as a user meets it: what it says of tasks that do and do not replay, and what it leaves behind."""

import json
from pathlib import Path
from typing import Any

import pytest

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
    assert done.last == f"a run of {SMALL} can be replayed here; polledger seal {SMALL} --run DIR makes one"
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
    assert set(said["isolation"]) == {"files", "network"}


def test_one_that_does_not_is_named_and_ends_with_3(polledger: Any, tmp_path: Path, scratch: Path) -> None:
    task = tmp_path / "wild.py"
    task.write_text(
        SMALL.read_text().replace("noisy = values", "noisy = values * (1 + time.time_ns() % 997)")
    )
    done = polledger("doctor", task, "--every", 2, TMPDIR=str(scratch))
    assert done.code == 3
    assert "   replay  differs: " in done.out
    assert "gave another state" in done.last
    assert done.last.startswith(f"a run of {task} could not be verified like this: ")
    assert not list(scratch.glob("polledger-*"))
    said = json.loads(polledger("doctor", task, "--every", 2, "--json").out)
    assert (said["exit_code"], said["replay"]) == (3, "different")
    assert said["detail"] in said["warnings"][0]


def test_what_stays_outside_the_state_ends_with_3_although_it_replays(polledger: Any, tmp_path: Path) -> None:
    task = tmp_path / "stray.py"
    task.write_text(
        SMALL.read_text().replace("noisy = values", "self.seen = self.step_number; noisy = values")
    )
    done = polledger("doctor", task, "--every", 2)
    assert done.code == 3
    assert "every bit the same" in done.out
    assert "self.seen" in done.last


def test_a_task_with_its_own_batches_is_told_what_that_means(polledger: Any) -> None:
    done = polledger("doctor", "polledger.examples.gan", "--every", 1)
    assert done.code in (0, 3), done.err
    assert "(custom)" in done.out


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
