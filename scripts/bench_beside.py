#!/usr/bin/env python3
"""Measures what two replays gain side by side on this machine, where the run was recorded with one thread.

    scripts/bench_beside.py [--rounds 7] [--seconds 4] [--only NAME ...] [--out DIR]

Two processes hold the same task, each with one thread of torch. In every round one of them trains as many steps as take
so many seconds, while the other sleeps; then both train half of them each, at the same time. The first over the second
is what side by side can gain at most: no start, no state read or sent, nothing compared. 2 would be everything, 1
nothing. Beside it, how much slower a step is while the other process trains too, and what a second process keeps in
memory.

--out keeps the figures in DIR/beside.json, round by round.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench_checkpoints import spread
from evidence import machine, table, write_evidence, write_text

from polledger.training.location import load_task_class, resolve_task
from polledger.training.runner import Runner
from polledger.training.task import prepare_task

TASKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mlp": ("a perceptron, width 32", "mlp", {}),
    "wide-mlp": ("a perceptron, width 2048", "mlp", {"width": 2048, "layers": 3}),
    "chars": ("a transformer, width 96", "chars", {}),
    "wide-chars": ("a transformer, width 512", "chars", {"width": 512}),
    "resnet": ("a residual network", "resnet", {}),
}
"""In words, the example, and what is set: what fits the caches of a core, and what does not."""

WARM = 3
"""Steps before anything is measured."""


def work(pipe: Connection, example: str, config: dict[str, Any], text: Path) -> None:
    """A process: answer a number of steps with the seconds that they took, and 0 with the bytes kept in memory."""
    import torch

    from polledger.training.determinism import apply_switches

    torch.set_num_threads(1)
    apply_switches()
    kind = load_task_class(resolve_task(f"polledger.examples.{example}"))
    inputs = {"text": str(text)} if example == "chars" else {}
    runner = Runner(prepare_task(kind, config={**kind.config, **config}, inputs=inputs, seed=1), seed=1)
    runner.build()
    at = 0
    while (steps := pipe.recv()) is not None:
        began = time.perf_counter()
        for step in range(at, at + steps):
            batch = runner.batch(step)
            runner.prepare(step)
            runner.step(step, batch)
        at += steps
        taken = time.perf_counter() - began
        pipe.send((taken, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def timed(pipes: Sequence[Connection], steps: int) -> float:
    """Seconds until each of ``pipes`` has trained so many steps, all at the same time."""
    began = time.perf_counter()
    for pipe in pipes:
        pipe.send(steps)
    for pipe in pipes:
        pipe.recv()
    return time.perf_counter() - began


def measure(name: str, *, rounds: int, seconds: float, text: Path) -> dict[str, Any]:
    """Seconds in turn and side by side, round by round, of one of TASKS."""
    title, example, config = TASKS[name]
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(2)]
    config = {"steps": 1_000_000, **config}
    others = [
        context.Process(target=work, args=(pair[1], example, config, text), daemon=True) for pair in pairs
    ]
    for process in others:
        process.start()
    pipes = [pair[0] for pair in pairs]
    timed(pipes, WARM)
    half = max(1, round(seconds / 2 / (timed(pipes[:1], WARM) / WARM)))
    turns, besides = [], []
    for _ in range(rounds):
        turns.append(timed(pipes[:1], 2 * half))
        besides.append(timed(pipes, half))
    pipes[1].send(1)
    _, resident = pipes[1].recv()
    for pipe in pipes:
        pipe.send(None)
    for process in others:
        process.join()
    return {"task": title, "steps": 2 * half, "turns": turns, "besides": besides, "resident": resident}


def render(value: dict[str, Any]) -> str:
    """A row for each task."""
    rows = [
        (
            found["task"],
            f"{1e3 * statistics.median(found['turns']) / found['steps']:.3g}",
            spread([one / two for one, two in zip(found["turns"], found["besides"], strict=True)]),
            spread([2 * two / one for one, two in zip(found["turns"], found["besides"], strict=True)]),
            f"{found['resident'] / (1 << 20):.0f}",
        )
        for found in value["tasks"]
    ]
    head = (
        "one thread",
        "step, ms",
        "in turn / side by side",
        "a step beside another / alone",
        "process, MiB",
    )
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", nargs="+", choices=tuple(TASKS), default=tuple(TASKS), metavar="NAME")
    parser.add_argument("--out", type=Path, help="keep the figures in this directory")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        text = write_text(Path(name) / "text")
        found = [
            measure(task, rounds=wanted.rounds, seconds=wanted.seconds, text=text) for task in wanted.only
        ]
    value = {"machine": machine(), "rounds": wanted.rounds, "tasks": found}
    if wanted.out is not None:
        write_evidence("beside", value, directory=wanted.out)
    print(render(value))


if __name__ == "__main__":
    main()
