"""Batches made in worker processes are those the training makes itself, and the processes stay with it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polledger.errors import UsageError
from polledger.training.batches import InProcess, InWorkers
from polledger.training.location import TaskLocation, resolve_task
from polledger.training.nest import encode_nest
from polledger.training.rehearsal import RunRequest, load_task
from polledger.training.runner import Runner
from tests.training.sealing import SMALL, check_seals, records_of, start_seal

TINY = Path(__file__).resolve().parents[1] / "e2e" / "tasks" / "tiny.py"
SEED = 77


def request(location: TaskLocation) -> RunRequest:
    return RunRequest(location=location, settings=(), inputs={}, seed=SEED, device="cpu")


def test_workers_give_the_same_batches_in_order() -> None:
    wanted = request(resolve_task(str(TINY)))
    here = InProcess(Runner(load_task(wanted), seed=SEED))
    there = InWorkers(wanted, workers=2, first=3, last=9)
    try:
        for step in range(3, 9):
            one, other = (b"".join(map(bytes, encode_nest(source.batch(step)))) for source in (here, there))
            assert one == other
    finally:
        there.close()


def test_an_error_in_a_worker_reaches_the_training(tmp_path: Path) -> None:
    task = tmp_path / "broken.py"
    task.write_text(TINY.read_text().replace("torch.stack(", "no_such_name("))
    there = InWorkers(request(resolve_task(str(task))), workers=1, first=0, last=2)
    try:
        with pytest.raises(NameError, match="no_such_name"):
            there.batch(0)
    finally:
        there.close()


def test_a_batch_that_would_change_on_the_way_is_refused(tmp_path: Path) -> None:
    task = tmp_path / "odd.py"
    task.write_text(TINY.read_text().replace("return x + 0.01 * torch.randn_like(x), y", "return {1, 2}"))
    there = InWorkers(request(resolve_task(str(task))), workers=1, first=0, last=2)
    try:
        with pytest.raises(UsageError, match="with --workers, batches are plain"):
            there.batch(0)
    finally:
        there.close()


def test_layout_of_a_batch_reaches_no_step(tmp_path: Path) -> None:
    """collate gives a transposed batch; from a worker it comes row-major."""
    task = tmp_path / "transposed.py"
    text = TINY.read_text().replace(
        "return x + 0.01 * torch.randn_like(x), y", "return x.T.contiguous().T, y"
    )
    task.write_text(text.replace("x, y = batch", "x, y = batch\n        self.strides = x.stride()"))
    wanted = request(resolve_task(str(task)))
    runner = Runner(load_task(wanted), seed=SEED)
    runner.build()
    there = InWorkers(wanted, workers=1, first=0, last=1)
    found = []
    try:
        for source in (InProcess(runner), there):
            runner.step(0, source.batch(0))
            found.append(vars(runner.task)["strides"])
    finally:
        there.close()
    assert found == [(12, 1), (12, 1)]


def _group(leader: int) -> list[str]:
    """Processes of the group, but zombies that somebody else has to collect."""
    table = subprocess.run(["ps", "-eo", "pgid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in table.splitlines()[1:])
    return [row[2] for row in rows if row[0] == str(leader) and not row[1].startswith("Z")]


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _sealing_with_workers(run: Path) -> subprocess.Popen[str]:
    """A training with two workers that has sealed some steps, in a process group of its own."""
    words = ("--workers", "2", "--every", "3", "--warm", "0", "--seal-every", "1", "--set", "steps=5000")
    process = start_seal(SMALL, run, *words, pause=0.02)
    _until(lambda: process.poll() is not None or len(list(run.glob("seals/*.msgpack"))) > 2)
    assert process.poll() is None, process.communicate()
    return process


@pytest.mark.slow
@pytest.mark.usefixtures("own_home")
def test_ctrl_c_does_not_reach_the_workers(tmp_path: Path) -> None:
    process = _sealing_with_workers(tmp_path / "run")
    assert len(_group(process.pid)) > 2
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    assert check_seals(tmp_path / "run")[-1].size == len(records_of(tmp_path / "run"))
    # A child may be on its way out yet when its parent has ended.
    _until(lambda: _group(process.pid) == [])


@pytest.mark.slow
@pytest.mark.usefixtures("own_home")
def test_workers_end_with_a_training_that_is_killed(tmp_path: Path) -> None:
    process = _sealing_with_workers(tmp_path / "run")
    process.kill()
    process.communicate()
    _until(lambda: _group(process.pid) == [])
