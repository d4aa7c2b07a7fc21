"""`kill -9` at any moment of `polledger seal`, then --resume: the run finishes, and its history is whole."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from polledger.core.records import Checkpoint, Final, Genesis, Resume, Step
from polledger.store.run import RunDirectory
from polledger.training.resume import surviving
from tests.training.sealing import SMALL, check_seals, of_type, records_of, start_seal

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_home")]

WORDS = ("--every", "3", "--warm", "2", "--seal-every", "2", "--set", "steps=12")

PAUSE = 0.05
"""Seconds per step: long against polling, short against the test's patience."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come on disk."""

    ledger: int
    seals: int


Moment = Callable[[Path, Progress, Progress], bool]
"""Whether to kill now: the run, how far it was when the process started, how far it is."""


def progress(run: Path) -> Progress:
    ledger = run / "ledger.log"
    return Progress(
        ledger=ledger.stat().st_size if ledger.exists() else 0, seals=len(list(run.glob("seals/*.msgpack")))
    )


def is_final(run: Path) -> bool:
    return b"\xa5final" in (run / "ledger.log").read_bytes()


MOMENTS: list[Moment] = [
    # rehearsing
    lambda run, before, now: (run / "private" / "secret").exists(),
    # the data set is hashed, nothing is in the ledger
    lambda run, before, now: any(path.is_file() for path in (run / "objects").rglob("*")),
    # genesis is being written or sealed
    lambda run, before, now: now.ledger > 0,
    lambda run, before, now: now.seals > 0,
    # after the resume record, among steps that are not sealed
    lambda run, before, now: now.ledger > before.ledger + 3000,
    # after another seal
    lambda run, before, now: now.seals >= before.seals + 2,
    # the end
    lambda run, before, now: now.ledger > 0 and is_final(run),
]


def kill_at(moment: Moment, run: Path, *words: str) -> bool:
    """Start sealing and kill the process as soon as ``moment`` holds; False if it finished before."""
    before = progress(run)
    process = start_seal(SMALL, run, *WORDS, *words, pause=PAUSE)
    try:
        while process.poll() is None and not moment(run, before, progress(run)):
            time.sleep(0.002)
        finished = process.poll() is not None
        if finished:
            assert process.returncode == 0, process.communicate()[1]
        return not finished
    finally:
        process.kill()
        process.communicate()


def finish(run: Path) -> None:
    done = start_seal(SMALL, run, *WORDS, "--resume")
    _, errors = done.communicate(timeout=600)
    assert done.returncode == 0, errors


def check_history(run: Path) -> tuple[list[Resume], bytes]:
    """The ledger tells one whole training, with its interruptions; returns them and the model root."""
    records = records_of(run)
    heads = check_seals(run)
    assert heads[-1].size == len(records)
    kept = surviving(records)
    assert isinstance(kept[0], Genesis)
    assert [step.step for step in of_type(kept, Step)] == list(range(12))
    assert [c.step for c in of_type(kept, Checkpoint)] == [0, 1, 2, 3, 6, 9, 12]
    (final,) = of_type(kept, Final)
    assert final.index == len(records) - 1
    for resume in of_type(records, Resume):
        abandoned = [r.index for r in records[resume.source + 1 : resume.index] if not isinstance(r, Resume)]
        named = range(resume.first, resume.last + 1) if isinstance(resume.first, int) else range(0)
        alive = [r.index for r in surviving(records[: resume.index]) if r.index > resume.source]
        assert {index for index in alive if index in abandoned} <= set(named)
    return of_type(records, Resume), final.model_root


@pytest.fixture(scope="module")
def undisturbed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Model root of the same training without an interruption."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLLEDGER_HOME", str(home))
        done = start_seal(SMALL, run, *WORDS)
        assert done.wait(timeout=600) == 0, done.communicate()[1]
        done.communicate()
    resumes, root = check_history(run)
    assert resumes == []
    return root


def notes(run: Path) -> list[bytes]:
    if not (run / "ledger.log").exists():
        return []
    directory = RunDirectory.open(run)
    return [directory.read_seal(index).note for index in directory.seals()]


def test_killed_again_and_again_at_every_stage(tmp_path: Path, undisturbed: bytes) -> None:
    run = tmp_path / "run"
    sealed: list[bytes] = []
    for number, moment in enumerate(MOMENTS):
        if not kill_at(moment, run, *(["--resume"] if number else [])):
            break
        # What was sealed stays as it was.
        now = notes(run)
        assert now[: len(sealed)] == sealed
        sealed = now
    finish(run)
    resumes, root = check_history(run)
    assert root == undisturbed
    assert notes(run)[: len(sealed)] == sealed
    # Kills before the first seal leave nothing to resume; the later ones are on record.
    assert len(resumes) >= 2


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.6])
def test_killed_at_a_random_time_of_training(tmp_path: Path, undisturbed: bytes, delay: float) -> None:
    run = tmp_path / "run"
    process = start_seal(SMALL, run, *WORDS, pause=PAUSE)
    while process.poll() is None and progress(run).seals < 1:
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.communicate()
    finish(run)
    _, root = check_history(run)
    assert root == undisturbed


def test_ctrl_c_in_a_terminal_exits_130_with_the_command_that_continues(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_seal(SMALL, run, *WORDS, pause=0.3)
    while process.poll() is None and progress(run).seals < 2:
        time.sleep(0.01)
    # A terminal signals the whole group, helpers included.
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert out.strip() == f"polledger seal {SMALL} --run {run} --resume"
    assert "interrupted after step" in errors.strip().splitlines()[-1]
    assert check_seals(run)[-1].size == len(records_of(run))


def test_orphans_of_a_killed_run_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_seal(SMALL, run, *WORDS, pause=PAUSE)
    while process.poll() is None and not (run / "private" / "secret").exists():
        time.sleep(0.01)
    time.sleep(1.0)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while _group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _group_lives(process.pid)


def _group_lives(group: int) -> bool:
    """Whether a process of that group is left that has not ended."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgid = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgid) == group and state != "Z":
            return True
    return False


def test_ctrl_c_before_training_leaves_nothing_behind(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_seal(SMALL, run, *WORDS, pause=PAUSE)
    while process.poll() is None and not (run / "ledger.log").exists():
        time.sleep(0.01)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert (out, errors.strip().splitlines()[-1]) == ("", "polledger: interrupted before anything was sealed")
    assert "Traceback" not in errors
    assert not run.exists()
