"""polledger.Recorder: a plain loop, sealed with four added lines, and left exactly as it was."""

import contextlib
import logging
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from polledger import Recorder
from polledger.core.encoding import from_real
from polledger.core.published import model_root
from polledger.core.records import Checkpoint, Final, Genesis, Step
from polledger.core.source import parse_source
from polledger.core.state import parse_state
from polledger.errors import UsageError
from polledger.store.run import RunDirectory
from polledger.training.pipeline import BLOCKS
from polledger.training.snapshot import SPARE
from polledger.training.source import PLAIN_LOOP
from polledger.training.state import flatten_objects
from tests.training.sealing import ROOT, check_seals, of_type, records_of

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the modules of other tests: a recorder commits all code that its process has loaded, up to a limit."""
    for name in [name for name in sys.modules if name.startswith("tests.") and name != __name__]:
        monkeypatch.delitem(sys.modules, name)


SCRIPT = """
import sys
import torch
{imports}
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, gamma=0.5)
{begin}
for n in range(12):
    x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
    loss = torch.nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    {step}
{end}
print([tensor.double().sum().item().hex() for tensor in model.state_dict().values()], torch.rand(1).item().hex())
"""

LINES = {
    "imports": "from polledger import Recorder",
    "begin": 'objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler}\n'
    'recorder = Recorder(sys.argv[1], objects, steps=12, every=4, warm=2, config={"width": 8, "lr": 0.1})',
    "step": 'recorder.step((x, y), {"loss": loss, "n": n})',
    "end": "recorder.close()",
}


def run_script(path: Path, run: Path, lines: dict[str, str]) -> str:
    path.write_text(SCRIPT.format(**lines))
    done = subprocess.run(
        [sys.executable, path, run], capture_output=True, text=True, env=None, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def recorded(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run made by a script, what the script printed, and what it prints without a recorder."""
    base = tmp_path_factory.mktemp("loop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLLEDGER_HOME", str(home))
        patch.setenv("PYTHONPATH", str(ROOT))
        watched = run_script(base / "loop.py", base / "run", LINES)
        alone = run_script(base / "alone.py", base / "none", dict.fromkeys(LINES, "pass"))
    return base, watched, alone


def test_training_is_the_same_with_and_without_a_recorder(recorded: tuple[Path, str, str]) -> None:
    assert recorded[1] == recorded[2]


def test_run_says_what_happened(recorded: tuple[Path, str, str]) -> None:
    run = recorded[0] / "run"
    records = records_of(run)
    genesis, final = records[0], records[-1]
    assert isinstance(genesis, Genesis)
    assert isinstance(final, Final)
    assert (genesis.kind, genesis.steps, genesis.every, genesis.warm, genesis.bound) == (
        "custom",
        12,
        4,
        2,
        False,
    )
    assert [item.name for item in genesis.objects] == ["model", "optimizer", "scheduler"]
    assert [step.step for step in of_type(records, Step)] == list(range(12))
    assert [c.step for c in of_type(records, Checkpoint)] == [0, 1, 2, 4, 8, 12]
    assert check_seals(run)[-1].size == len(records)
    assert from_real(of_type(records, Step)[7].metrics["n"]) == 7.0


def test_hyperparameters_are_those_of_the_step_not_the_schedulers_next(
    recorded: tuple[Path, str, str],
) -> None:
    rates = {}
    for step in of_type(records_of(recorded[0] / "run"), Step):
        for group in step.groups or ():
            rates[step.step] = from_real(group.values["lr"])
    assert rates == {0: 0.1, 5: 0.05, 10: 0.025}


def test_script_is_committed_and_marked_as_a_plain_loop(recorded: tuple[Path, str, str]) -> None:
    run = RunDirectory.open(recorded[0] / "run")
    source = parse_source(run.objects.get(records_of(run.path)[0].task, limit=1 << 20))
    assert (source.entry, source.class_name) == ("loop.py", PLAIN_LOOP)
    (file,) = source.files
    assert run.objects.get(file.digest, limit=1 << 20) == (recorded[0] / "loop.py").read_bytes()


def test_model_root_is_that_of_the_last_checkpoint(recorded: tuple[Path, str, str]) -> None:
    run = RunDirectory.open(recorded[0] / "run")
    records = records_of(run.path)
    root = of_type(records, Checkpoint)[-1].root
    flat = parse_state(run.objects.read(root, limit=1 << 24), root=root)
    assert model_root(flat, "model") == records[-1].model_root


def model_and_optimizer() -> dict[str, Any]:
    model = torch.nn.Linear(2, 2)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}


def test_loop_that_stops_early_is_sealed_but_not_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(tmp_path / "run", model_and_optimizer(), steps=9) as recorder:
        recorder.step(torch.zeros(1))
    assert of_type(records_of(tmp_path / "run"), Final) == []
    assert check_seals(tmp_path / "run")[-1].size == len(records_of(tmp_path / "run"))
    assert "1 of 9 announced steps" in caplog.text


def failing_loop(run: Path) -> None:
    with Recorder(run, model_and_optimizer(), steps=2) as recorder:
        recorder.step(torch.zeros(1))
        raise ZeroDivisionError


def test_loop_that_raises_is_sealed_up_to_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        failing_loop(tmp_path / "run")
    assert check_seals(tmp_path / "run")[-1].size == len(records_of(tmp_path / "run"))


def test_steps_beyond_the_announced_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    objects = model_and_optimizer()
    with Recorder(tmp_path / "run", objects, steps=1) as recorder:
        recorder.step(torch.zeros(1))
        expected = model_root(flatten_objects(objects), "model")
        with torch.no_grad():
            objects["model"].weight.zero_()
        recorder.step(torch.zeros(1))
        recorder.step(torch.zeros(1))
    final = records_of(tmp_path / "run")[-1]
    assert isinstance(final, Final)
    assert final.model_root == expected
    assert caplog.text.count("further ones are not recorded") == 1


def test_closing_twice_and_stepping_after_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", model_and_optimizer(), steps=1)
    recorder.step(1)
    recorder.close()
    recorder.close()
    with pytest.raises(UsageError, match="closed"):
        recorder.step(2)


def test_memory_for_every_copy_is_ready_before_training_begins(tmp_path: Path) -> None:
    model = torch.nn.Linear(300, 300)
    # The same weights twice, as those that are tied: they are copied once.
    with Recorder(tmp_path / "run", {"model": model, "twin": model}, steps=1) as recorder:
        size = sum(tensor.nbytes for tensor in model.state_dict().values())
        blocks = recorder._recorder._pipeline._blocks
        assert [len(block.memory) for block in blocks] == [size + size // SPARE] * BLOCKS


def test_closing_leaves_no_thread_and_no_copies_of_the_state(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    recorder = Recorder(tmp_path / "run", model_and_optimizer(), steps=2)
    recorder.step(1)
    memory = weakref.ref(recorder._recorder._pipeline._blocks[0].memory)
    assert memory() is not None
    assert [thread.name for thread in set(threading.enumerate()) - before].count("sealing") == 1
    recorder.close()
    assert set(threading.enumerate()) <= before
    assert memory() is None


def test_directory_is_free_again_after_close(tmp_path: Path) -> None:
    Recorder(tmp_path / "run", model_and_optimizer(), steps=1).close()
    with RunDirectory.open(tmp_path / "run").lock():
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the number of steps"),
        ({"steps": 0}, "needs the number of steps"),
        ({"steps": 3, "config": {"steps": 4}}, "config says 4"),
        ({"steps": 3, "model": "net"}, "published under 'net'"),
        ({"steps": 3, "every": 0}, "every must be at least 1"),
        ({"steps": 3, "config": {"x": None}}, "'x'"),
        ({"steps": 3, "tsa": ["nobody"]}, "'nobody'"),
        ({"steps": 3, "source": "no/such.py"}, "give its file as source"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Recorder(tmp_path / "run", model_and_optimizer(), **options)


@pytest.mark.parametrize(
    ("batch", "metrics", "message"),
    [
        (object(), {}, "object"),
        (1, {"Top-1": 1.0}, "Top-1"),
        (1, {"loss": "low"}, "'loss' is not one number"),
        (1, {"loss": torch.zeros(2)}, "'loss' is not one number"),
    ],
)
def test_step_that_cannot_be_recorded_is_refused(
    tmp_path: Path, batch: Any, metrics: Any, message: str
) -> None:
    with (
        Recorder(tmp_path / "run", model_and_optimizer(), steps=3) as recorder,
        pytest.raises(UsageError, match=message),
    ):
        recorder.step(batch, metrics)


def test_nothing_is_recorded_after_a_step_that_could_not_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(tmp_path / "run", model_and_optimizer(), steps=6, every=2, warm=0) as recorder:
        for number in range(6):
            with contextlib.suppress(UsageError):
                recorder.step(1, {"Top-1" if number == 3 else "top": 1.0})
    steps = of_type(records_of(tmp_path / "run"), Step)
    assert [record.step for record in steps] == [0, 1, 2]
    assert of_type(records_of(tmp_path / "run"), Final) == []
    assert "step 3 could not be recorded: recording ends here" in caplog.text


def test_existing_run_is_left_alone(tmp_path: Path) -> None:
    Recorder(tmp_path / "run", model_and_optimizer(), steps=1).close()
    before = (tmp_path / "run" / "ledger.log").read_bytes()
    with pytest.raises(UsageError, match="holds a run already"):
        Recorder(tmp_path / "run", model_and_optimizer(), steps=1)
    assert (tmp_path / "run" / "ledger.log").read_bytes() == before


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="polledger")


def test_hyperparameters_of_every_optimizer_are_recorded(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    objects = {
        "model": model,
        "one": torch.optim.SGD([model.weight], lr=0.5),
        "other": torch.optim.SGD([model.bias], lr=0.25),
    }
    with Recorder(tmp_path / "run", objects, steps=1, source=__file__) as recorder:
        model(torch.ones(1, 2)).sum().backward()
        objects["one"].step()
        objects["other"].step()
        recorder.step(torch.ones(1, 2))
    (step,) = of_type(records_of(tmp_path / "run"), Step)
    assert {group.optimizer: from_real(group.values["lr"]) for group in step.groups or ()} == {
        "one": 0.5,
        "other": 0.25,
    }
