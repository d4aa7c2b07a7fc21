"""Spoof 20: code that takes the answer where it is in reach finds none where it is replayed."""

import pytest
import torch

from polledger.redteam import peeking
from polledger.redteam.spoof import Attempt, Target
from polledger.redteam.states import tensors_of
from polledger.training.location import load_task_class, resolve_task
from polledger.training.runner import Runner
from polledger.training.task import prepare_task
from tests.redteam.judging import Judge, caught


def test_code_that_peeks_finds_nothing_where_it_is_replayed(
    target: Target, attempt: Attempt, judge: Judge
) -> None:
    forgery = peeking.peek(target, attempt)
    report = judge(forgery)
    isolation = report.environment["isolation"]
    if not (isolation["files"] and isolation["network"]):
        pytest.skip(f"this system does not keep the child apart: {isolation}")
    assert caught(report) == {(9, "replay"): "fail"}
    last = report.intervals[-1]
    assert (last.last, last.outcome) == (target.steps, "fail")


def test_the_same_code_takes_the_answer_where_it_is_in_reach(
    target: Target, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(attempt.directory))
    peeking.peek(target, attempt)
    task = prepare_task(
        load_task_class(resolve_task(f"{attempt.directory / 'peek.py'}:Peek")), config={"steps": 2}
    )
    runner = Runner(task, seed=0)
    runner.build()
    # The optimizer has its slots from the first step on.
    runner.step(0, runner.batch(0))
    found = runner.step(1, runner.batch(1))
    assert found["files"] > 0
    assert found["network"] > 0
    stolen, reached = tensors_of(target.weights), tensors_of(runner.flatten())
    assert all(torch.equal(reached[path], tensor) for path, tensor in stolen.items())
