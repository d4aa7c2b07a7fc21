"""Trains an example step by step, as a recorder does, and continues it from a stored state in a fresh build."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polledger import Task
from polledger.core.state import encode_state, parse_state
from polledger.training.runner import Runner
from polledger.training.task import prepare_task

TEXT = Path(__file__).resolve().parents[2] / "LICENSE"
"""A text that every checkout has."""

SEED = 20260101


@dataclass
class Trained:
    """What a training left behind: the state file and root after each asked step, metrics of each step, objects."""

    files: dict[int, bytes] = field(default_factory=dict)
    roots: dict[int, bytes] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    objects: dict[str, Any] = field(default_factory=dict)


def start(cls: type[Task], config: dict[str, Any], inputs: dict[str, str] | None = None) -> Runner:
    task = prepare_task(cls, config=config, inputs=inputs, seed=SEED)
    runner = Runner(task, seed=SEED)
    runner.build()
    return runner


def train(runner: Runner, first: int, last: int, *, keep: tuple[int, ...] = ()) -> Trained:
    """Run the steps ``first`` to ``last`` − 1; ``keep`` lists the numbers of steps after which the state is stored."""
    trained = Trained()
    for n in range(first, last):
        trained.metrics.append(dict(runner.step(n, runner.batch(n))))
        if n + 1 in keep:
            encoded = encode_state(runner.flatten())
            trained.roots[n + 1] = encoded.root
            trained.files[n + 1] = b"".join(bytes(chunk) for chunk in encoded.chunks())
    trained.objects = runner.objects
    return trained


def resume(runner: Runner, trained: Trained, step: int) -> None:
    runner.load(parse_state(trained.files[step], root=trained.roots[step]))
