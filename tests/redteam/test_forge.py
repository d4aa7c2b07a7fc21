"""The forger's bench: what lies about nothing verifies, so that a refutation is due to the lie."""

from pathlib import Path

import msgspec
import pytest
import torch

from polledger.core.published import model_root
from polledger.core.records import AnyRecord, Checkpoint, Final
from polledger.errors import UsageError
from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.rewrite import read_records, rewrite_run
from polledger.redteam.spoof import Attempt, Forgery, Target
from polledger.redteam.states import blend, distance, owned, tensors_of, with_tensors
from polledger.redteam.target import settings_of, target_of
from polledger.redteam.trial import verify_forgery
from polledger.store.run import RunDirectory
from polledger.training.overrides import apply_settings
from polledger.training.state import first_difference
from tests.redteam.conftest import TASK


def test_a_forge_that_lies_about_nothing_writes_a_run_that_verifies(honest: Path, target: Target) -> None:
    report = verify_forgery(Forgery(run=honest, gradients=1.0, sample=3, bogus=0), target)
    assert report["verdict"] == "VERIFIED"
    assert "fail" not in {finding["outcome"] for finding in report["findings"]}


def test_one_moved_weight_is_what_refutes_it(target: Target, tmp_path: Path) -> None:
    with forging(seal_options(target, Attempt(directory=tmp_path, seed=1)), thief_key(1)) as forge:
        forge.begin()
        forge.train_through(0, forge.steps - 1)
        forge.train(forge.steps - 1)
        nudge(forge)
        forge.checkpoint(forge.steps)
        forge.finish()
    report = verify_forgery(Forgery(run=tmp_path / "run", gradients=1.0, sample=1, bogus=1), target)
    assert report["verdict"] == "REFUTED"
    failed = [finding for finding in report["findings"] if finding["outcome"] == "fail"]
    assert [finding["name"] for finding in failed] == ["replay"]


def nudge(forge: Forge) -> None:
    weights = tensors_of(forge.weights())
    path = next(iter(weights))
    forge.put({path: weights[path] + 0.01})


def test_the_same_thief_makes_the_same_training_again(target: Target, tmp_path: Path) -> None:
    roots = []
    for number in range(2):
        attempt = Attempt(directory=tmp_path / str(number), seed=7)
        with forging(seal_options(target, attempt), thief_key(7)) as forge:
            forge.begin()
            forge.train_through(0, forge.steps)
            final = forge.finish()
        roots.append(final.model_root)
    assert roots[0] == roots[1]


def test_cost_counts_every_trained_step_and_no_said_one(target: Target, tmp_path: Path) -> None:
    with forging(seal_options(target, Attempt(directory=tmp_path, seed=1)), thief_key(1)) as forge:
        forge.begin()
        forge.train(0)
        forge.say(1)
        assert forge.gradients == 1
        assert forge.cost(target) == 1 / target.steps


def test_moving_leaves_counters_and_schedule_as_a_real_step_would(target: Target, tmp_path: Path) -> None:
    adam = seal_options(target, Attempt(directory=tmp_path, seed=1), settings=("optimizer=AdamW", "ema=0.9"))
    with forging(adam, thief_key(1)) as forge:
        before = tensors_of(forge.state(), "ema/")
        forge.move(0, tensors_of(target.weights))
        moved = forge.state()
        forge.load(owned(moved))
        forge.begin()
        forge.train(1)
    steps = [tensor for path, tensor in tensors_of(moved, "optimizer/").items() if path.endswith("/step")]
    assert steps
    assert all(float(step) == 1.0 for step in steps)
    assert distance(tensors_of(moved, "model/"), tensors_of(target.weights)) == 0
    assert distance(tensors_of(moved, "ema/"), before) > 0


def test_a_target_holds_the_published_model_and_nothing_else(honest: Path, target: Target) -> None:
    records = read_records(RunDirectory.open(honest))
    final = records[-1]
    assert isinstance(final, Final)
    assert model_root(target.weights, "model") == final.model_root
    assert {tensor.path.split("/")[0] for tensor in target.weights.tensors} == {"model"}
    assert (target.steps, target.every, target.warm) == (40, 4, 4)
    assert target.settings == ("steps=40",)


def test_settings_bring_back_every_kind_of_value() -> None:
    defaults = {
        "steps": 1,
        "lr": 0.1,
        "name": "a",
        "on": False,
        "betas": [0.9, 0.5],
        "groups": [{"match": ["x"]}],
    }
    config = {
        "steps": 2,
        "lr": 1e-7,
        "name": 'b"',
        "on": True,
        "betas": [0.1, 0.2],
        "groups": [{"match": ["y"]}],
    }
    assert apply_settings(defaults, settings_of(config, defaults)) == config


def test_blending_is_exact_at_both_ends_and_rounds_integers() -> None:
    one = {"w": torch.randn(5), "n": torch.tensor(3), "b": torch.tensor(True)}
    other = {"w": torch.randn(5), "n": torch.tensor(10), "b": torch.tensor(False)}
    assert all(torch.equal(blend(one, other, 0.0)[path], one[path]) for path in one)
    assert all(torch.equal(blend(one, other, 1.0)[path], other[path]) for path in one)
    middle = blend(one, other, 0.25)
    assert torch.allclose(middle["w"], one["w"] + 0.25 * (other["w"] - one["w"]))
    assert int(middle["n"]) == 5
    assert bool(middle["b"])


def test_replacing_tensors_refuses_another_shape(target: Target) -> None:
    path = target.weights.tensors[0].path
    with pytest.raises(ValueError, match="in place of"):
        with_tensors(target.weights, {path: torch.zeros(1)})
    with pytest.raises(KeyError):
        with_tensors(target.weights, {"model/none": torch.zeros(1)})
    same = with_tensors(target.weights, tensors_of(target.weights))
    assert first_difference(same, target.weights) is None


def test_a_run_without_an_end_is_no_target(target: Target, tmp_path: Path) -> None:
    with forging(seal_options(target, Attempt(directory=tmp_path, seed=1)), thief_key(1)) as forge:
        forge.begin()
    assert isinstance(read_records(RunDirectory.open(tmp_path / "run"))[-1], Checkpoint)
    with pytest.raises(UsageError, match="no published model"):
        target_of(tmp_path / "run", task=TASK)


@pytest.mark.parametrize("place", [1 << 40, 0])
def test_a_run_whose_end_names_no_checkpoint_is_no_target(honest: Path, tmp_path: Path, place: int) -> None:
    def lie(records: list[AnyRecord]) -> list[AnyRecord]:
        return [*records[:-1], msgspec.structs.replace(records[-1], checkpoint=place)]

    run = rewrite_run(honest, tmp_path / "lying", key=thief_key(0, "owner"), edit=lie).path
    with pytest.raises(UsageError, match="is no checkpoint"):
        target_of(run, task=TASK)
