"""Batches made in worker processes are those the training makes itself."""

from pathlib import Path

import pytest

from polledger.errors import UsageError
from polledger.training.batches import InProcess, InWorkers
from polledger.training.location import TaskLocation, resolve_task
from polledger.training.nest import encode_nest
from polledger.training.rehearsal import RunRequest, load_task
from polledger.training.runner import Runner

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
        with pytest.raises(UsageError):
            there.batch(0)
    finally:
        there.close()
