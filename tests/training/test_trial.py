"""`polledger doctor`: what the first steps of a task show, tried on tasks that do and do not replay."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from polledger.core.records import Checkpoint
from polledger.errors import UsageError
from polledger.training import firstinterval, session
from polledger.training.plan import SealOptions, TaskFailed
from polledger.training.recording import DEFAULT_EVERY, DEFAULT_WARM
from polledger.training.trial import Trial, try_task
from tests.training.sealing import SMALL, Listener, records_of


def tried(place: Path, listener: Listener | None = None, *, task: Path = SMALL, **options: Any) -> Trial:
    return try_task(SealOptions(task=str(task), run=place / "run", **options), listener or Listener())


def changed(place: Path, old: str, new: str) -> Path:
    text = SMALL.read_text()
    assert old in text
    path = place / "changed.py"
    path.write_text(text.replace(old, new))
    return path


def test_a_task_that_replays(tmp_path: Path) -> None:
    listener = Listener()
    trial = tried(tmp_path, listener)
    assert (trial.found, trial.skipped, listener.warnings) == (None, None, [])
    assert trial.steps == 2 * DEFAULT_EVERY
    assert (trial.cadence.every, trial.cadence.warm) == (DEFAULT_EVERY, DEFAULT_WARM)
    assert trial.code_bytes == SMALL.stat().st_size
    assert trial.code_files == 1
    assert trial.examples == trial.rehearsal.examples
    assert trial.isolation is not None
    assert trial.step_seconds is not None
    assert trial.step_seconds > 0


def test_intervals_are_as_long_as_asked_and_no_longer_than_the_run(tmp_path: Path) -> None:
    assert tried(tmp_path / "a", every=3).steps == 6
    assert tried(tmp_path / "b", every=3, settings=("steps=4",)).steps == 4
    short = tried(tmp_path / "c", every=3, settings=("steps=1",))
    assert (short.steps, short.step_seconds) == (1, None)


@pytest.mark.parametrize("change", ["values * (1 + time.time_ns() % 997)", "values + self.hidden()"])
def test_what_no_replay_repeats_is_found(tmp_path: Path, change: str) -> None:
    task = changed(tmp_path, "noisy = values", f"noisy = {change}")
    hidden = "\n    def hidden(self):\n        self.seen = getattr(self, 'seen', 0) + 1\n"
    task.write_text(task.read_text() + hidden + "        return torch.arange(8) ** self.seen\n")
    trial = tried(tmp_path, task=task, every=3)
    assert trial.found is not None
    assert "gave another state" in trial.found
    assert (trial.skipped, trial.isolation) == (None, None)


def test_what_shows_only_late_is_found_with_longer_intervals(tmp_path: Path) -> None:
    late = "noisy = values * (1 + (self.step_number == 7) * (time.time_ns() % 997))"
    task = changed(tmp_path, "noisy = values", late)
    assert tried(tmp_path / "a", task=task, every=3).found is None
    assert tried(tmp_path / "b", task=task, every=4).found is not None


def test_a_replay_is_waited_for_as_long_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "WAIT_SECONDS", 0.0)
    trial = tried(tmp_path, every=2)
    assert (trial.found, trial.skipped) == (None, None)


def test_a_replay_for_which_there_is_no_room_is_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firstinterval, "lack_of_memory", lambda device: f"{device} is full")
    trial = tried(tmp_path, every=2)
    assert (trial.found, trial.skipped, trial.isolation) == (None, "cpu is full", None)


def test_batches_of_the_task_itself_have_no_examples(tmp_path: Path) -> None:
    batch = "    def batch(self, n):\n        values = torch.full((8, 8), float(n % 7))\n"
    batch += "        return values, torch.arange(8) % 3\n\n    def loss("
    trial = tried(tmp_path, task=changed(tmp_path, "    def loss(", batch), every=2)
    assert (trial.examples, trial.found) == (None, None)
    assert trial.rehearsal.examples == 96


def test_batches_may_come_from_other_processes(tmp_path: Path) -> None:
    trial = tried(tmp_path, every=2, workers=2)
    assert (trial.found, trial.skipped) == (None, None)


def test_no_state_but_the_first_is_stored(tmp_path: Path) -> None:
    tried(tmp_path, every=2)
    checkpoints = [item for item in records_of(tmp_path / "run") if isinstance(item, Checkpoint)]
    assert [(item.step, item.stored) for item in checkpoints] == [(0, True), (2, False), (4, False)]


def test_a_task_that_fails_in_a_step_says_so(tmp_path: Path) -> None:
    task = changed(
        tmp_path, "        noisy = ", "        assert self.step_number < 5, 'five'\n        noisy = "
    )
    with pytest.raises(TaskFailed, match="step 5 failed: AssertionError: five"):
        tried(tmp_path, task=task)


def test_a_task_that_does_not_begin_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing"):
        tried(tmp_path, task=changed(tmp_path, "        noisy = ", "        nothing()\n        noisy = "))


@pytest.mark.parametrize("last", [3, 20])
def test_stopped_by_the_user_nothing_is_said(tmp_path: Path, last: int) -> None:
    class Impatient(Listener):
        def step(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
            if done == last:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tried(tmp_path, Impatient())
