"""Spoofs 1, 2, 5 and 6: whatever goes straight to the stolen weights, from an honest or a forged beginning."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from polledger.core.published import model_root
from polledger.core.records import Checkpoint, Final
from polledger.redteam import blindfold, forged_init, infinitesimal, interpolation
from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.moves import model_tensors, tied
from polledger.redteam.reference import ALPHA, initial_p_values
from polledger.redteam.rewrite import read_records
from polledger.redteam.spoof import Attempt, Forgery, Target
from polledger.redteam.states import distance, tensors_of
from polledger.redteam.trial import accepts_by_l2, ask_reference
from polledger.store.run import RunDirectory
from polledger.verify.sampling import SampleRequest
from polledger.verify.states import load_state
from tests.redteam.judging import Judge, caught

LOOKS_DRAWN = 8
"""A thief whose honest first weights pass the published test, which one honest key in ten does not."""


@pytest.fixture
def thief(attempt: Attempt) -> Attempt:
    return Attempt(directory=attempt.directory, seed=LOOKS_DRAWN)


def checkpoints(forgery: Forgery) -> list[dict[str, torch.Tensor]]:
    run = RunDirectory.open(forgery.run)
    found = [record for record in read_records(run) if isinstance(record, Checkpoint)]
    return [tensors_of(load_state(run.objects, item.root).flat, "model/") for item in found]


def final_root(forgery: Forgery) -> bytes:
    final = read_records(RunDirectory.open(forgery.run))[-1]
    assert isinstance(final, Final)
    return final.model_root


def accepted(forgery: Forgery, target: Target) -> bool:
    found = ask_reference(forgery, target)
    assert found is not None
    return accepts_by_l2(found)


def test_interpolation_is_a_straight_line_that_ends_in_the_stolen_file(
    target: Target, thief: Attempt, judge: Judge
) -> None:
    forgery = interpolation.forge_interpolation(target, thief)
    states = checkpoints(forgery)
    way = distance(states[0], states[-1])
    assert final_root(forgery) == model_root(target.weights, "model")
    assert all(
        abs(distance(states[0], state) - way * i / (len(states) - 1)) < 1e-5 * way
        for i, state in enumerate(states)
    )
    assert (forgery.gradients, forgery.bogus) == (0, len(states) - 1)
    assert accepted(forgery, target)
    report = judge(forgery)
    assert report.verdict == "REFUTED"
    assert caught(report)[9, "replay"] == "fail"
    assert (8, "origin") not in caught(report)


def test_a_forged_first_state_looks_drawn_and_lies_near_the_stolen_weights(
    target: Target, thief: Attempt
) -> None:
    end = tensors_of(target.weights)
    with forging(seal_options(target, thief), thief_key(thief.seed)) as forge:
        honest = model_tensors(forge)
        start = forged_init.forged_init(forge, end, seed=thief.seed)
        forge.put(start)
        state = forge.state()
        built = model_tensors(forge)
        forge.runner.build()
        again = model_tensors(forge)
        p_values = initial_p_values(state, forge.runner.task)
    assert p_values
    assert min(p_values.values()) >= ALPHA
    assert distance(start, end) < 0.6 * distance(honest, end)
    assert distance(built, start) == 0
    # The forge itself is as it was: its seed still gives the honest first state.
    assert distance(again, honest) == 0


def test_parameters_that_are_one_under_two_names_stay_one() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    forge = SimpleNamespace(objects={"model": model})
    tensors = {f"model/{name}": torch.randn(2, 2) for name in ("a.weight", "a.bias", "b.weight", "b.bias")}
    found = tied(cast(Forge, forge), tensors)
    assert torch.equal(found["model/b.weight"], tensors["model/a.weight"])
    assert all(found[path] is tensors[path] for path in tensors if path != "model/b.weight")


def test_scattering_by_rank_keeps_the_values_and_takes_the_order() -> None:
    values, like = torch.randn(50), torch.randn(5, 10)
    placed = forged_init.scattered(values, like)
    assert placed.shape == like.shape
    assert torch.equal(placed.flatten().sort().values, values.sort().values)
    assert np.array_equal(np.argsort(placed.flatten().numpy()), np.argsort(like.flatten().numpy()))


@pytest.mark.parametrize(
    "forge",
    [
        forged_init.forge_with_interpolation,
        forged_init.forge_with_standstill,
        forged_init.forge_with_blindfold,
    ],
    ids=["2+1", "2+5", "2+6"],
)
def test_every_way_from_a_forged_first_state_is_refuted_by_its_origin(
    target: Target, thief: Attempt, judge: Judge, forge: "object"
) -> None:
    assert callable(forge)
    forgery = forge(target, thief)
    assert final_root(forgery) == model_root(target.weights, "model")
    assert accepted(forgery, target)
    report = judge(forgery)
    assert caught(report)[8, "origin"] == "fail"
    assert caught(report)[9, "replay"] == "fail"


def test_a_learning_rate_of_nearly_zero_agrees_with_its_schedule_and_moves_nothing(
    target: Target, thief: Attempt, judge: Judge
) -> None:
    forgery = infinitesimal.forge_tiny_rate(target, thief)
    assert forgery.reached["displacement"] < 0.1
    assert accepted(forgery, target)
    report = judge(forgery)
    assert caught(report)[9, "replay"] == "fail"
    assert (4, "structure") not in caught(report)
    errors = [
        group.measure.e / group.measure.u
        for result in report.intervals
        for group in result.groups
        if group.measure.name == "model/parameters"
    ]
    # Replay stands still: it misses by the whole displacement.
    assert errors == pytest.approx([1.0] * len(errors), rel=1e-5)


def test_a_schedule_of_zeros_stands_still(target: Target, thief: Attempt, judge: Judge) -> None:
    forgery = infinitesimal.forge_zero_schedule(target, thief)
    assert accepted(forgery, target)
    report = judge(forgery)
    assert caught(report)[4, "stillness"] == "unverifiable"
    assert caught(report)[9, "replay"] == "fail"


def test_a_blindfold_that_changes_the_learning_rate_breaks_the_schedule(
    target: Target, thief: Attempt, judge: Judge
) -> None:
    forgery = blindfold.forge_published(target, thief)
    assert accepted(forgery, target)
    report = judge(forgery)
    assert caught(report)[4, "structure"] == "fail"


def test_a_blindfold_at_the_committed_rate_is_real_where_it_says_so_and_nowhere_else(
    target: Target, thief: Attempt, judge: Judge
) -> None:
    forgery = blindfold.forge_scheduled(target, thief)
    assert accepted(forgery, target)
    report = judge(forgery, sample=SampleRequest(count=1000))
    outcomes = [result.outcome for result in report.intervals]
    assert outcomes.count("fail") == forgery.bogus
    assert outcomes.count("pass") == len(outcomes) - forgery.bogus
    # Whoever opens the ends sees nothing: the draw does.
    assert (outcomes[0], outcomes[-1]) == ("pass", "pass")
    assert caught(judge(forgery))[9, "replay"] == "fail"
