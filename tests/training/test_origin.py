"""Sealing a run that starts from another run's end, or from a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import UNSET

from polledger.core.records import Checkpoint, Genesis, Parent
from polledger.core.start import model_tensors
from polledger.core.state import FlatState, parse_state
from polledger.errors import Unavailable, UsageError
from polledger.files import file_digest
from polledger.store.run import RunDirectory, hinted_origin
from polledger.training.origin import open_parent
from polledger.training.plan import SealOptions
from tests.training.sealing import SMALL, of_type, records_of, seal_task

pytestmark = pytest.mark.usefixtures("own_home", "switches")

SHORT = {"settings": ("steps=4", "ema=0.9"), "warm": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """A finished run to start from. Not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLLEDGER_HOME", str(home))
        run = tmp_path_factory.mktemp("base") / "run"
        seal_task(SMALL, run, **SHORT)
    return run


def genesis_of(run: Path) -> Genesis:
    first = records_of(run)[0]
    assert isinstance(first, Genesis)
    return first


def state_of(run: Path, number: int) -> FlatState:
    root = of_type(records_of(run), Checkpoint)[number].root
    return parse_state(RunDirectory.open(run).objects.read(root, limit=1 << 30), root=root)


def weights(flat: FlatState, name: str = "model") -> dict[str, bytes]:
    return {key: bytes(tensor.data) for key, tensor in model_tensors(flat, name).items()}


def save(run: Path, file: Path, **changes: Any) -> Path:
    """The final model of a run as torch writes it."""
    found: dict[str, Any] = {}
    for key, tensor in model_tensors(state_of(run, -1), "model").items():
        values = np.frombuffer(tensor.data, {"float32": "<f4", "int64": "<i8"}[tensor.dtype])
        found[key] = torch.from_numpy(values.reshape(tensor.shape).copy())
    torch.save({**found, **changes}, file)
    return file


def test_a_run_starts_from_the_final_model_of_its_parent_and_from_nothing_else_of_it(
    base: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    seal_task(SMALL, run, parent=base, seed=1, **SHORT)
    genesis = genesis_of(run)
    assert genesis.origin == "parent"
    assert genesis.parent == Parent(head=open_parent(base).head.digest(), mode="model")
    first, end = state_of(run, 0), state_of(base, -1)
    assert weights(first) == weights(end)
    # An average of the weights begins where they do; the optimizer begins empty.
    assert weights(first, "ema") == weights(end)
    assert not [tensor for tensor in first.tensors if tensor.path.startswith("optimizer/state")]
    hinted = hinted_origin(RunDirectory.open(run), "parent")
    assert hinted is not None
    assert hinted.resolve() == base.resolve()


def test_a_run_may_go_on_from_the_whole_state_and_be_resumed_with_the_same_words(
    base: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    seal_task(SMALL, run, parent=base, whole=True, seed=2, **SHORT)
    assert of_type(records_of(run), Checkpoint)[0].root == open_parent(base).root
    assert genesis_of(run).parent == Parent(head=open_parent(base).head.digest(), mode="continue")
    assert seal_task(SMALL, run, parent=base, whole=True, resume=True).trained == 0
    for changes in (
        {"parent": base},
        {"parent": run},
        {"external": SMALL},
        {"parent": base, "fresh": ("0.*",)},
    ):
        with pytest.raises(UsageError, match=r"resumed run keeps its origin|fits no tensor"):
            seal_task(SMALL, run, resume=True, **changes)
    # What was not given again stays known.
    assert hinted_origin(RunDirectory.open(run), "parent") is not None


def test_a_run_starts_from_a_file_whose_digest_is_committed_but_for_what_is_fresh(
    base: Path, tmp_path: Path
) -> None:
    file = save(base, tmp_path / "model.pt", old=torch.zeros(2))
    run = tmp_path / "run"
    seal_task(SMALL, run, external=file, fresh=("3.*", "old"), **SHORT)
    genesis = genesis_of(run)
    assert (genesis.origin, genesis.external) == ("external", file_digest(file))
    assert genesis.fresh == ["3.bias", "3.weight", "old"]
    first, end = weights(state_of(run, 0)), weights(state_of(base, -1))
    assert {key for key in first if first[key] != end[key]} == {"3.bias", "3.weight"}
    # The seed is the parent's: what is fresh is as it was there.
    assert weights(state_of(base, 0))["3.weight"] == first["3.weight"]


@pytest.mark.parametrize(
    ("changes", "fresh", "words"),
    [
        (
            {"3.weight": torch.zeros(5, 16)},
            (),
            r"3\.weight is float32 \[3, 16\] in the model, float32 \[5, 16\]",
        ),
        ({"old": torch.zeros(2)}, (), "old has no place in the model"),
        ({"note": "text"}, (), "note of 'model' is no tensor"),
        ({}, ("4.*",), r"--fresh 4\.\* fits no tensor"),
    ],
    ids=["shape", "left over", "text", "pattern"],
)
def test_what_does_not_fit_is_named_before_anything_is_sealed(
    base: Path, tmp_path: Path, changes: dict[str, Any], fresh: tuple[str, ...], words: str
) -> None:
    file = save(base, tmp_path / "model.pt", **changes)
    with pytest.raises(UsageError, match=words):
        seal_task(SMALL, tmp_path / "run", external=file, fresh=fresh, **SHORT)
    assert not (tmp_path / "run").exists()


def test_a_file_that_holds_code_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save({"x": Path("p")}, file)
    with pytest.raises(UsageError, match="holds more than tensors"):
        seal_task(SMALL, tmp_path / "run", external=file)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parent": Path("a"), "external": Path("b")}, "both say"),
        ({"whole": True}, "give it with --parent"),
        ({"external": Path("b"), "whole": True}, "give it with --parent"),
        ({"fresh": ("a",)}, "does not take"),
        ({"parent": Path("a"), "whole": True, "fresh": ("a",)}, "does not take"),
    ],
)
def test_options_that_make_no_sense_together(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SealOptions(task="t", run=Path("r"), **options)


def test_only_a_finished_run_whose_records_are_whole_is_a_parent(base: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(UsageError, match="does not exist"):
        open_parent(tmp_path / "nowhere")
    RunDirectory.create(tmp_path / "empty")
    with pytest.raises(UsageError, match="no seal"):
        open_parent(tmp_path / "empty")
    shutil.copytree(base, tmp_path / "early")
    RunDirectory.open(tmp_path / "early").seal_path(1).unlink()
    with pytest.raises(UsageError, match="not finished"):
        open_parent(tmp_path / "early")
    shutil.copytree(base, tmp_path / "damaged")
    ledger = RunDirectory.open(tmp_path / "damaged").ledger_path
    ledger.write_bytes(ledger.read_bytes()[:-1])
    with pytest.raises(Unavailable, match="not those of its last head"):
        open_parent(tmp_path / "damaged")
    shutil.copytree(base, tmp_path / "lost")
    parent = open_parent(tmp_path / "lost")
    parent.run.objects.path(parent.root).write_bytes(b"other")
    with pytest.raises(Unavailable, match="final state is damaged"):
        parent.state()


def test_without_an_origin_genesis_names_none(base: Path) -> None:
    genesis = genesis_of(base)
    assert (genesis.origin, genesis.parent, genesis.external, genesis.fresh) == (
        "scratch",
        UNSET,
        UNSET,
        UNSET,
    )
