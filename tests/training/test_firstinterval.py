"""The replay beside the training: whatever becomes of it is said, and training never stands still for it."""

from pathlib import Path

import pytest
import torch

from polledger.core.state import encode_state
from polledger.training import session
from polledger.training.batchcopies import Batch
from polledger.training.firstinterval import FirstInterval, lack_of_memory
from polledger.training.location import load_task_class, resolve_task
from polledger.training.runner import Runner
from polledger.training.task import prepare_task
from tests.training.sealing import SMALL, Listener, seal_task
from tests.training.test_replay import SEED, context, runner_of

pytestmark = pytest.mark.usefixtures("own_home", "switches")

HANGS = """
    def dataset(self):
        while os.path.basename(os.getcwd()).startswith('polledger-'):
            time.sleep(0.1)
        return Examples()
"""
"""Waits for ever where it is replayed: for a mount, a lock, a server."""


@pytest.mark.slow
def test_replay_that_hangs_is_given_up_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SMALL.read_text().replace("    def dataset(self) -> Examples:\n        return Examples()\n", HANGS)
    assert HANGS in text
    (tmp_path / "hangs.py").write_text(text)
    monkeypatch.setattr(session, "WAIT_SECONDS", 0.5)
    listener = Listener()
    result = seal_task(tmp_path / "hangs.py", tmp_path / "run", listener, every=4, warm=2)
    assert result.steps == 24
    assert any("the replay of the first steps was not finished" in said for said in listener.warnings)


@pytest.mark.slow
def test_replay_that_hangs_ends_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "hangs.py"
    path.write_text(SMALL.read_text().replace("return F.cross", "time.sleep(9999)\n        return F.cross"))
    task = load_task_class(resolve_task(str(path)))
    runner = Runner(prepare_task(task, seed=SEED), seed=SEED)
    runner.build()
    first = FirstInterval(context(path, "Small", task.config), secret=bytes(32), ends=[1])
    first.note_checkpoint(0, encode_state(runner.flatten()))
    first.note_step(0, runner.batch_indices(0), Batch(bytes(32), 0, [b""]))
    first.note_checkpoint(1, encode_state(runner.flatten()))
    children = [child._process for child in first._engine._children.values()]
    first.close()
    assert first._thread is not None
    assert not first._thread.is_alive()
    assert all(process.poll() is not None for process in children)


@pytest.mark.slow
def test_any_error_of_the_replay_is_a_finding() -> None:
    """A step that was never noted: an error of our own, which used to pass for equal bits."""
    runner = runner_of(SMALL, "Small")
    runner.build()
    state = encode_state(runner.flatten())
    first = FirstInterval(context(SMALL, "Small", runner.task.config), secret=bytes(32), ends=[1])
    first.note_checkpoint(0, state)
    first.note_checkpoint(1, state)
    found = first.finding()
    assert found is not None
    assert "cannot be replayed in a fresh process: IndexError" in found
    assert first.skipped is None


def test_memory_of_the_cpu_is_not_counted() -> None:
    assert lack_of_memory("cpu") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_replay_beside_a_training_that_fills_the_device_is_left_out() -> None:
    assert lack_of_memory("cuda") is None
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free * 3 // 4, dtype=torch.uint8, device="cuda")
    assert "not replayed beside the training" in str(lack_of_memory("cuda"))
    del held
    torch.cuda.empty_cache()
