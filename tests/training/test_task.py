"""The task contract: what makes a task custom, and how an instance gets its values."""

import subprocess
import sys
from typing import Any

import pytest

from polledger.errors import UsageError
from polledger.training.task import Task, kind_of, overrides, prepare_task


class Plain(Task):
    config = {"lr": 0.1, "nested": {"a": [1]}}
    inputs = {"data": None, "more": "here"}


def with_method(name: str) -> type[Task]:
    return type("Changed", (Plain,), {name: lambda self, *arguments: None})


@pytest.mark.parametrize("method", ["build", "step", "batch"])
def test_overriding_the_computation_makes_a_task_custom(method: str) -> None:
    assert kind_of(with_method(method)) == "custom"
    assert kind_of(type("Grandchild", (with_method(method),), {})) == "custom"
    assert overrides(with_method(method), method)


@pytest.mark.parametrize("method", ["model", "dataset", "loss", "collate", "helper"])
def test_a_recipe_stays_one_whatever_else_it_defines(method: str) -> None:
    assert kind_of(with_method(method)) == "recipe"


def test_values_of_a_run_are_merged_and_the_class_unchanged() -> None:
    task = prepare_task(Plain, config={"lr": 0.2}, inputs={"data": "/tmp/x"}, device="cuda", seed=2**64 - 1)
    assert task.config == {"lr": 0.2, "nested": {"a": [1]}}
    assert task.inputs == {"data": "/tmp/x", "more": "here"}
    assert (task.device, task.seed, task.step_number) == ("cuda", 2**64 - 1, 0)
    task.config["nested"]["a"].append(2)
    assert Plain.config == {"lr": 0.1, "nested": {"a": [1]}}
    assert Plain.inputs == {"data": None, "more": "here"}


def test_undeclared_input_is_refused_and_the_declared_ones_named() -> None:
    with pytest.raises(UsageError, match=r"no input 'dta'.*data, more"):
        prepare_task(Plain, inputs={"dta": "x"})


@pytest.mark.parametrize("cls", [object, Plain(), "Plain", None])
def test_only_a_subclass_of_task_is_one(cls: Any) -> None:
    with pytest.raises(UsageError, match="not a subclass"):
        prepare_task(cls)


def test_constructor_with_arguments_is_refused() -> None:
    class Needs(Task):
        def __init__(self, size: int) -> None:
            self.size = size

    with pytest.raises(UsageError, match="without arguments"):
        prepare_task(Needs)


@pytest.mark.parametrize(
    "call",
    [
        lambda task: task.model(),
        lambda task: task.dataset(),
        lambda task: task.loss(None, None),
        lambda task: task.batch(0),
    ],
    ids=["model", "dataset", "loss", "batch"],
)
def test_what_a_task_leaves_out_is_named(call: Any) -> None:
    with pytest.raises(UsageError):
        call(Task())


def test_a_task_file_loads_without_torch() -> None:
    code = "import sys, polledger.training.task; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
