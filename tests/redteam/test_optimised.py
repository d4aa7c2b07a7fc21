"""Spoofs that optimise, with small budgets: what each comes to, and that the published kind of verifier accepts it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from polledger.redteam import steering, synthetic, tolerance_drift
from polledger.redteam.reference import reference_verdict
from polledger.redteam.spoof import Attempt, Forgery, Target
from polledger.redteam.synthetic import A1, A1_FREE, A2, A3, Method, forge_synthetic
from polledger.redteam.tolerance_drift import Drift, by_every_name, forge_drift
from polledger.redteam.trial import verify_forgery

SHIPPED_L2 = 10.0
"""The published bound on the l2 distance."""


def accepted(forgery: Forgery, target: Target) -> bool:
    words = forgery.arguments
    task = words[words.index("--task") + 1] if "--task" in words else target.task
    inputs = {"data": words[words.index("--input") + 1].removeprefix("data=")} if "--input" in words else {}
    found = reference_verdict(forgery.run, task=task, inputs=inputs, delta=SHIPPED_L2)
    # Whether first weights look drawn is a matter of the key: one honest run in ten or so does not.
    return found.accepts or "does not look initialised" in found.why


def small(method: Method) -> Method:
    return replace(method, intervals=3, evaluations=6, batch=32)


@pytest.mark.parametrize("method", [A2, A3], ids=["A2", "A3"])
def test_made_up_batches_pass_the_published_kind(target: Target, tmp_path: Path, method: Method) -> None:
    attempt = Attempt(directory=tmp_path, seed=1, budget=4.0)
    forgery = forge_synthetic(small(method), False, target, attempt)
    assert accepted(forgery, target)
    assert forgery.gradients <= 6.0
    assert 0 < forgery.reached["smallest"] <= forgery.reached["mean"] <= forgery.reached["largest"]


def test_made_up_batches_are_refuted_by_replay(target: Target, tmp_path: Path) -> None:
    attempt = Attempt(directory=tmp_path, seed=1, budget=4.0)
    forgery = forge_synthetic(small(A1_FREE), False, target, attempt)
    assert accepted(forgery, target)
    report = verify_forgery(forgery, target)
    assert report["verdict"] == "REFUTED"
    assert 9 in {finding["step"] for finding in report["findings"] if finding["outcome"] == "fail"}


def test_a_forged_first_state_is_refuted_by_origin(target: Target, tmp_path: Path) -> None:
    attempt = Attempt(directory=tmp_path, seed=1, budget=1.0)
    forgery = forge_synthetic(replace(small(A1), intervals=1), True, target, attempt)
    assert accepted(forgery, target)
    report = verify_forgery(forgery, target)
    assert report["verdict"] == "REFUTED"
    assert 8 in {finding["step"] for finding in report["findings"] if finding["outcome"] == "fail"}


def test_steering_is_an_honest_run_on_invented_data(target: Target, tmp_path: Path) -> None:
    # A stated limit: nothing in the run is untrue. What it shows is that the data are not the published ones.
    spoof = next(spoof for spoof in steering.LIMITS if spoof.variant == "domains-epochs")
    forgery = spoof.forge(target, Attempt(directory=tmp_path, seed=1, budget=30.0))
    assert forgery.reached["distance"] == pytest.approx(forgery.reached["solved"], rel=1e-6)
    assert forgery.reached["share"] < 0.8
    assert forgery.gradients <= 31
    report = verify_forgery(replace(forgery, sample=5), target)
    assert report["verdict"] == "VERIFIED"
    assert report["comparison"] == "bitwise"


def test_drift_is_not_verified_where_a_tolerance_decides(target: Target, tmp_path: Path) -> None:
    forgery = forge_drift(Drift(share=0.05, often=False), target, Attempt(directory=tmp_path, seed=1))
    assert accepted(forgery, target)
    report = verify_forgery(replace(forgery, sample=2), target)
    assert report["verdict"] == "UNVERIFIABLE"
    assert any("above the tolerance" in finding["detail"] for finding in report["findings"])


def test_tied_weights_are_moved_under_all_their_names() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    moved = by_every_name(model, {"model/embed.weight": torch.ones(5, 3)})
    assert moved.keys() == {"model/embed.weight", "model/head.weight"}
    assert moved["model/head.weight"] is moved["model/embed.weight"]


def test_catalogue_entries_are_named_once() -> None:
    names = [s.name for s in (*synthetic.SPOOFS, *steering.LIMITS, *tolerance_drift.SPOOFS)]
    assert len(set(names)) == len(names)
    assert {"3", "4+A2", "4+A3", "2+3", "22", "22+domains", "24+0.3"} <= set(names)
