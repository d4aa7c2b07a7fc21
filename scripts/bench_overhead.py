#!/usr/bin/env python3
"""Measures how much longer a training takes with its states kept, until all of them are on disk.

    scripts/bench_overhead.py [--mb 100] [--checkpoints 18] [--rounds 3] [--work DIR] [--out DIR]

A multi-layer perceptron under AdamW is trained with a state kept every k steps, in each of these ways in turn, and
without before the first and after each; the overhead of a way is its wall time over the mean of the two beside it, less
one. The time ends when everything is on disk. Three cases: *one core spare*, the training on one thread less than there
are cores, k = 10; the same with k = 100 and half as many states (nine at least); *all cores busy*, as many threads as
cores, k = 10. `polledger.Recorder` also records every step and hashes every batch. With a core spare and k = 10 what is
looked for is smaller than what one round of this machine scatters by: the first way has four rounds there for each.

--out keeps the figures in DIR/overhead.json, round by round.
"""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_checkpoints import spread
from bench_peers import Training, middle, opened, ratios, spare_one, threads
from evidence import machine, table, write_evidence

RECORDER, SPARSE = "polledger.Recorder", "polledger.Recorder, keep=10"
HASHED = "torch.save, fsync, SHA-256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How often a state is kept, on how many threads the training runs, and what is compared, the first so often."""

    name: str
    every: int
    checkpoints: int
    threads: int
    names: tuple[str, ...]
    first: int = 1


def cases(checkpoints: int) -> list[Case]:
    """The three of them."""
    cores, spare = os.cpu_count() or 1, spare_one()
    rare = max(9, checkpoints // 2)
    names = (RECORDER, SPARSE, "torch.save", HASHED, "async_save")
    return [
        Case(name="one core spare", every=10, checkpoints=checkpoints, threads=spare, names=names, first=4),
        Case(
            name="one core spare", every=100, checkpoints=rare, threads=spare, names=(RECORDER, "torch.save")
        ),
        Case(name="all cores busy", every=10, checkpoints=checkpoints, threads=cores, names=names),
    ]


def measure(work: Path, training: Training, case: Case, *, rounds: int) -> dict[str, Any]:
    """Seconds without, and the overhead of every way, round by round."""
    plain: list[float] = []
    overhead: dict[str, list[float]] = {name: [] for name in case.names}
    with threads(case.threads):
        for number in range(rounds * case.first):
            before = trained(work, training, case, None)
            for name in case.names[:1] if number % case.first else case.names:
                seconds = trained(work, training, case, name)
                after = trained(work, training, case, None)
                plain.append(after)
                overhead[name].append(2 * seconds / (before + after) - 1)
                before = after
    return {
        "case": case.name,
        "every": case.every,
        "checkpoints": case.checkpoints,
        "threads": case.threads,
        "step": middle(plain) / (case.every * case.checkpoints),
        "overhead": overhead,
    }


def trained(work: Path, training: Training, case: Case, name: str | None) -> float:
    """Seconds of the whole training, its states kept as ``name`` says."""
    steps = case.every * case.checkpoints
    with contextlib.ExitStack() as stack:
        peer = None
        if name is not None:
            peer = stack.enter_context(opened(name, work, training.objects, steps=steps, every=case.every))
        began = time.perf_counter()
        for _ in range(steps):
            batch = training.batch()
            training.step(batch)
            if peer is not None:
                peer.step(batch)
        if peer is not None:
            peer.drain()
        return time.perf_counter() - began


def against_hashed(item: Mapping[str, Any]) -> list[float]:
    """The overhead over that of torch.save made durable and hashed, round by round."""
    return ratios(item["overhead"][RECORDER], item["overhead"][HASHED])


def render(value: Mapping[str, Any]) -> str:
    """The overheads in percent."""
    rows: list[Sequence[object]] = [
        (
            item["case"],
            item["every"],
            f"{item['threads']} of {value['machine']['cores']}",
            f"{1e3 * item['step']:.1f}",
            name,
            spread([100 * share for share in shares]),
        )
        for item in value["cases"]
        for name, shares in item["overhead"].items()
    ]
    return table(("", "k", "threads", "step, ms", "", "overhead, %"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--checkpoints", type=int, default=18)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--work", type=Path, help="where states are written; default: the temporary directory"
    )
    parser.add_argument("--out", type=Path, help="keep the figures in this directory")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wanted.work, prefix="polledger-bench-") as name:
        work = Path(name)
        # Key and authority of these runs, not the user's.
        os.environ["POLLEDGER_HOME"] = str(work / "home")
        training = Training(wanted.mb)
        found = [measure(work, training, case, rounds=wanted.rounds) for case in cases(wanted.checkpoints)]
    value = {"machine": machine(), "megabytes": wanted.mb, "rounds": wanted.rounds, "cases": found}
    if wanted.out is not None:
        write_evidence("overhead", value, directory=wanted.out)
    print(render(value))


if __name__ == "__main__":
    main()
