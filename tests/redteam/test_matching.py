"""Batches whose gradient is what a thief wants."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from polledger.redteam.forge import DOUBLE_BACKWARD, thief_key
from polledger.redteam.matching import Free, Matcher
from polledger.redteam.owndata import noise, own_data, own_runner, plain_sgd, wanted_gradient, way
from polledger.redteam.spoof import Target
from polledger.redteam.states import tensors_of
from polledger.training.runner import Runner

BATCH = 64
PIXELS = Free(low=0.0, high=16.0, whole=True, soft=False)
SCORES = Free(low=0.0, high=16.0, whole=False, soft=True)


def runner_for(target: Target, directory: Path, *, soft: bool, rate: float = 10.0) -> Runner:
    own = own_data(directory, target, soft=soft)
    own.write(*noise(BATCH, soft=soft, seed=1))
    return own_runner(own, target, plain_sgd(steps=1, batch=BATCH, rate=rate), thief_key(1))


def wanted(runner: Runner, target: Target) -> Tensor:
    return wanted_gradient(runner, 0, tensors_of(target.weights), longest=0.3)


@pytest.mark.parametrize("free", [PIXELS, SCORES], ids=["pixels", "scores"])
def test_the_search_comes_nearer(target: Target, tmp_path: Path, free: Free) -> None:
    runner = runner_for(target, tmp_path, soft=free.soft)
    matcher, goal = Matcher(runner), wanted(runner, target)
    images, labels = noise(BATCH, soft=free.soft, seed=1)
    begun = float((matcher.gradient(0, images, labels) - goal).norm() / goal.norm())
    few = matcher.fit(0, goal, images, labels, free=free, evaluations=4)
    more = matcher.fit(0, goal, images, labels, free=free, evaluations=25)
    assert more.miss < few.miss < begun
    assert more.miss < 0.8


def test_what_was_found_leads_towards_the_stolen_weights(target: Target, tmp_path: Path) -> None:
    # The published sign leads away from them.
    runner = runner_for(target, tmp_path, soft=False)
    goal = tensors_of(target.weights)
    images, labels = noise(BATCH, soft=False, seed=1)
    found = Matcher(runner).fit(0, wanted(runner, target), images, labels, free=PIXELS, evaluations=15)
    before = way(runner, goal)
    runner.step(0, runner.collate_examples(0, list(zip(found.images, found.labels.tolist(), strict=True))))
    assert way(runner, goal) < before


def test_pixels_stay_in_the_published_domain(target: Target, tmp_path: Path) -> None:
    runner = runner_for(target, tmp_path, soft=False)
    images, labels = noise(BATCH, soft=False, seed=1)
    found = Matcher(runner).fit(0, wanted(runner, target), images, labels, free=PIXELS, evaluations=5)
    assert torch.equal(found.images, found.images.round())
    assert found.images.min() >= 0
    assert found.images.max() <= 16
    assert torch.equal(found.labels, labels)
    assert found.noise > 0


def test_a_penalty_keeps_images_near_where_they_began(target: Target, tmp_path: Path) -> None:
    runner = runner_for(target, tmp_path, soft=False)
    images, labels = noise(BATCH, soft=False, seed=1)
    bound = Free(low=0.0, high=16.0, whole=True, soft=False, penalty=10.0)
    goal = wanted(runner, target)
    free = Matcher(runner).fit(0, goal, images, labels, free=PIXELS, evaluations=10)
    held = Matcher(runner).fit(0, goal, images, labels, free=bound, evaluations=10)
    assert held.noise < free.noise


def test_the_search_leaves_the_model_alone_and_counts_what_it_spends(target: Target, tmp_path: Path) -> None:
    runner = runner_for(target, tmp_path, soft=False)
    matcher, before = Matcher(runner), tensors_of(runner.flatten())
    images, labels = noise(BATCH, soft=False, seed=1)
    matcher.fit(0, wanted(runner, target), images, labels, free=PIXELS, evaluations=3)
    after = tensors_of(runner.flatten())
    assert all(torch.equal(before[path], after[path]) for path in before)
    assert (matcher.spent - 1) % DOUBLE_BACKWARD == 0
    assert DOUBLE_BACKWARD < matcher.spent <= 4 * DOUBLE_BACKWARD + 1
