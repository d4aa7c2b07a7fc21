#!/usr/bin/env python3
"""Measures what a verification costs beside the training it replays, on the `chars` example.

    scripts/replay_cost.py [--width 256] [--steps 60] [--every 10] [--sample 8] [--one-thread] [--evidence]

Seals a run whose steps are long enough to measure, verifies a sample of it with the command line, and prints one
Markdown row: seconds per recorded step, steps replayed, the whole verification over the time the replayed steps took
in training, and the opening of the intervals (reading, hashing, replay in a child, comparing; no process start) over
the bare loop of the same steps in one process, measured before and after. Bits have to be equal, else there is nothing
to compare and it fails. --one-thread trains on one thread of torch, so that replays run side by side where there are
cores. --evidence keeps the figures in docs/evidence/replay_cost.json, those of one thread in another file beside it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evidence import EVIDENCE, command, machine, table, write_evidence, write_text

from polledger.core.records import Checkpoint, Genesis
from polledger.core.seeds import training_seed
from polledger.core.state import parse_state
from polledger.redteam.rewrite import read_records
from polledger.store.run import RunDirectory

FIXED_SECONDS = 15.0
"""Start of processes, reading and hashing: what a verification may take besides 3 times the replayed steps."""

STATE_LIMIT = 1 << 32
"""Bytes of a state file that this reads at most: 4 GiB."""


def raw_seconds(
    run: RunDirectory, intervals: Sequence[Sequence[int]], text: Path, *, one_thread: bool
) -> float:
    """Seconds that the steps of ``intervals`` take in this process, batches included, states and starts not."""
    import torch

    from polledger.core.config import decode_config
    from polledger.examples.chars import Chars
    from polledger.training.determinism import apply_switches
    from polledger.training.runner import Runner
    from polledger.training.task import prepare_task

    apply_switches()
    if one_thread:
        torch.set_num_threads(1)
    records = read_records(run)
    genesis = records[0]
    if not isinstance(genesis, Genesis):
        raise TypeError("no genesis")
    roots = {record.step: record.root for record in records if isinstance(record, Checkpoint)}
    seed = training_seed(genesis.seed, genesis.key)
    task = prepare_task(Chars, config=decode_config(genesis.config), inputs={"text": str(text)}, seed=seed)
    runner = Runner(task, seed=seed)
    runner.build()
    total = 0.0
    for first, last in intervals:
        runner.load(parse_state(run.objects.read_state(roots[first], limit=STATE_LIMIT), root=roots[first]))
        began = time.perf_counter()
        for step in range(first, last):
            batch = runner.batch(step)
            runner.prepare(step)
            runner.step(step, batch)
        total += time.perf_counter() - began
    return total


def measure(place: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """Seal, verify, and run the same steps bare."""
    text = write_text(place / "text")
    data = ["--input", f"text={text}"]
    # Without warm checkpoints, which would be intervals of one step, all intervals but the first have k steps.
    size = ["--set", f"width={wanted.width}", "--steps", str(wanted.steps), "--every", str(wanted.every)]
    size += ["--warm", "0"]
    path = place / "run"

    variables = {"OMP_NUM_THREADS": "1"} if wanted.one_thread else {}

    def polledger(*words: str) -> dict[str, Any]:
        return command([*words, *data], home=place / "home", variables=variables)

    sealed = polledger("seal", "polledger.examples.chars", "--run", str(path), *size)
    run = RunDirectory.open(path)
    # The same sample is drawn from the same head by the same nonce: its steps are known before it is timed.
    words = ["verify", str(path), "--sample", str(wanted.sample), "--nonce", "00" * 16]
    intervals = [item["steps"] for item in polledger(*words)["intervals"]]
    before = raw_seconds(run, intervals, text, one_thread=wanted.one_thread)
    began = time.perf_counter()
    report = polledger(*words)
    wall = time.perf_counter() - began
    if report["comparison"] != "bitwise":
        sys.exit("bits differ: nothing to compare")
    raw = (before + raw_seconds(run, intervals, text, one_thread=wanted.one_thread)) / 2
    step = sealed["seconds"] / sealed["trained"]
    replayed = sum(last - first for first, last in intervals)
    timing = report["timing"]
    return {
        "step": step,
        "replayed": replayed,
        "verify": wall,
        "over_training": wall / (replayed * step),
        "opened": timing["opened_seconds"] - timing["noise_seconds"],
        "raw": raw,
        "over_raw": (timing["opened_seconds"] - timing["noise_seconds"]) / raw,
        "bound": 3 * replayed * step + FIXED_SECONDS,
    }


def table_of(found: Mapping[str, Any]) -> str:
    """One Markdown row."""
    columns = (
        "s a step",
        "steps replayed",
        "verify, s",
        "verify / training",
        "verify / bare steps",
        "opening / bare steps",
        "bound 3x + 15 s",
    )
    cells = (
        f"{found['step']:.3f}",
        found["replayed"],
        f"{found['verify']:.1f}",
        f"{found['over_training']:.2f}",
        f"{found['verify'] / found['raw']:.2f}",
        f"{found['over_raw']:.2f}",
        f"{found['bound']:.1f}",
    )
    return table(columns, [cells])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a verification costs.")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--one-thread", action="store_true", help="train on one thread of torch")
    parser.add_argument("--evidence", action="store_true", help="keep the figures in docs/evidence")
    parser.add_argument("--out", type=Path, help="keep them in this directory")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), wanted)
    where = machine()
    if wanted.evidence or wanted.out is not None:
        size = {name: value for name, value in vars(wanted).items() if name not in ("evidence", "out")}
        name = "replay_cost_one_thread" if wanted.one_thread else "replay_cost"
        write_evidence(name, {"machine": where, "arguments": size, **found}, directory=wanted.out or EVIDENCE)
    print(f"{where['cpu']}, {where['cores']} cores, torch {where['torch']}", file=sys.stderr)
    print(table_of(found))
    if found["verify"] > found["bound"]:
        sys.exit("above the bound")


if __name__ == "__main__":
    main()
