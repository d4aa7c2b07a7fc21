#!/usr/bin/env python3
"""Measures how much longer a training takes with its states kept, until all of them are on disk.

    scripts/bench_overhead.py [--mb 100] [--pairs 50] [--rounds 5] [--work DIR] [--out DIR]

A multi-layer perceptron under AdamW is trained with a state kept every k steps, in each of several ways in turn.

*One core spare*: the training has one thread less than there are cores. What is looked for is smaller than what the
rate of a machine changes by within seconds: ten steps, of which the first is followed by keeping the state, are set
against the ten that follow, which nobody keeps anything of, in one training. A round of `polledger.Recorder` has
--pairs of these, as many as states lie between two seals by default, and a round of the others a third; the overhead
is the median of the pairs, and a share of what is left to be done at the end. `polledger.Recorder` also records every
step and hashes every batch. For k = 100 ninety times the time within the call of a step that is only recorded is added
to that. Pairs of single steps, four times as many, tell what such a step costs in all, beside pairs of which nothing is
recorded: what these differ by is chance.

*All cores busy*: as many threads as cores, k = 10. Here what is kept is hashed when training lets it, which may be long
after: whole trainings of a third of --pairs states, until everything is on disk, are set against the mean of half as
many steps without, before and after. Of these there are twice as many rounds: they differ by more.

--out keeps the figures in DIR/overhead.json, round by round.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_checkpoints import spread
from bench_peers import PEERS, Peer, Training, middle, opened, ratios, spare_one, threads
from evidence import machine, table, write_evidence
from torch import Tensor

RECORDER, SPARSE = "polledger.Recorder", "polledger.Recorder, keep=10"
HASHED = "torch.save, fsync, SHA-256"
NOTHING = "nothing"
NAMES = (RECORDER, SPARSE, "torch.save", HASHED, "async_save")


class Nothing(Peer):
    """Keeps nothing: what is found of it is chance."""

    def step(self, batch: Tensor) -> None:
        """Nothing."""


PEERS[NOTHING] = Nothing

EVERY = 10
"""Steps after which a state is kept."""

RARELY = 100
"""The same, for a training that keeps few."""

SINGLE = 4
"""So many times more pairs of single steps than of ten."""

FEWER = 3
"""How many times fewer pairs the others have: what they add is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Seconds that steps took longer when they were kept, pair by pair; without; within calls; and at the end."""

    excess: list[float]
    plain: list[float]
    calls: list[float]
    drain: float


def spare(work: Path, training: Training, *, pairs: int, rounds: int) -> list[dict[str, Any]]:
    """The cases with a core spare, k = 10 and k = 100."""
    tens: dict[str, list[Pairs]] = {name: [] for name in NAMES}
    singles: dict[str, list[Pairs]] = {RECORDER: [], NOTHING: []}
    with threads(spare_one()):
        for _ in range(rounds):
            for name in NAMES:
                count = pairs if name == RECORDER else fewer(pairs)
                tens[name].append(paired(work, training, name, steps=EVERY, every=EVERY, pairs=count))
            for name, found in singles.items():
                found.append(paired(work, training, name, steps=1, every=None, pairs=SINGLE * pairs))
    case = {"case": "one core spare", "threads": spare_one()}
    often = {name: [_overhead(ten) for ten in found] for name, found in tens.items()}
    single = {name: [_single(pairs) for pairs in found] for name, found in singles.items()}
    parts = {name: [_parts(ten) for ten in found] for name, found in tens.items()}
    step = middle([seconds / EVERY for found in tens.values() for ten in found for seconds in ten.plain])
    rarely = rare(often, single, step)
    return [
        {**case, "every": EVERY, "step": step, "overhead": often, "parts": parts},
        {**case, "every": RARELY, "step": step, "overhead": rarely, "single": single},
    ]


def rare(
    often: Mapping[str, list[float]], single: Mapping[str, list[dict[str, float]]], step: float
) -> dict[str, list[float]]:
    """The overheads with a state every hundred steps, from those with one every ten: most steps are only recorded."""
    share = EVERY / RARELY
    return {
        RECORDER: [
            share * ten + (1 - share) * one["calls"] / step
            for ten, one in zip(often[RECORDER], single[RECORDER], strict=True)
        ],
        # Where no state is kept it does nothing.
        "torch.save": [share * ten for ten in often["torch.save"]],
    }


def paired(work: Path, training: Training, name: str, *, steps: int, every: int | None, pairs: int) -> Pairs:
    """``steps`` steps kept in the way ``name`` and as many without, in turn; ``every`` None: no state is kept."""
    total = (pairs + 2) * steps
    excess, plain, calls = [], [], []
    with opened(name, work, training.objects, steps=total, every=every or total) as peer:
        # The first of the steps of a pair is the one whose state is kept.
        trained(training, peer, (every or 1) - 1)
        # Not of the pairs: it touches for the first time what the others find touched.
        trained(training, peer, steps)
        for _ in range(pairs):
            kept, inside = trained(training, peer, steps)
            without, _ = trained(training, None, steps)
            excess.append(kept - without)
            plain.append(without)
            calls.append(inside)
        began = time.perf_counter()
        peer.drain()
        return Pairs(excess=excess, plain=plain, calls=calls, drain=time.perf_counter() - began)


def _overhead(ten: Pairs) -> float:
    """Of a state every ten steps."""
    return (middle(ten.excess) + ten.drain / len(ten.excess)) / middle(ten.plain)


def _single(pairs: Pairs) -> dict[str, float]:
    """Seconds that a step took longer when it was recorded, and those of them within the call."""
    return {"added": middle(pairs.excess), "calls": middle(pairs.calls)}


def _parts(ten: Pairs) -> dict[str, float]:
    """Shares of ten steps: the mean instead of the median, what is spent within calls, and what is left at the end."""
    plain = middle(ten.plain)
    return {
        "mean": statistics.mean(ten.excess) / plain,
        "calls": middle(ten.calls) / plain,
        "drain": ten.drain / len(ten.excess) / plain,
    }


def busy(work: Path, training: Training, *, states: int, rounds: int) -> dict[str, Any]:
    """The case with all cores busy."""
    cores = os.cpu_count() or 1
    half = max(1, states * EVERY // 2)
    plain: list[float] = []
    overhead: dict[str, list[float]] = {name: [] for name in NAMES}
    with threads(cores):
        before = trained(training, None, half)[0]
        for _ in range(rounds):
            for name in NAMES:
                with opened(name, work, training.objects, steps=states * EVERY, every=EVERY) as peer:
                    began = time.perf_counter()
                    trained(training, peer, states * EVERY)
                    peer.drain()
                    seconds = time.perf_counter() - began
                after = trained(training, None, half)[0]
                plain.append(after / half)
                overhead[name].append(seconds / (states * EVERY) / ((before + after) / 2 / half) - 1)
                before = after
    return {
        "case": "all cores busy",
        "every": EVERY,
        "threads": cores,
        "step": middle(plain),
        "overhead": overhead,
    }


def fewer(pairs: int) -> int:
    """A third of so many, and one at least."""
    return max(1, pairs // FEWER)


def trained(training: Training, peer: Peer | None, steps: int) -> tuple[float, float]:
    """Seconds of so many steps, kept by ``peer``; and those within its calls."""
    inside = 0.0
    began = time.perf_counter()
    for _ in range(steps):
        batch = training.batch()
        training.step(batch)
        if peer is not None:
            called = time.perf_counter()
            peer.step(batch)
            inside += time.perf_counter() - called
    return time.perf_counter() - began, inside


def against_hashed(item: Mapping[str, Any]) -> list[float]:
    """The overhead over that of torch.save made durable and hashed, round by round."""
    return ratios(item["overhead"][RECORDER], item["overhead"][HASHED])


def render(value: Mapping[str, Any]) -> str:
    """The overheads in percent, and what a step costs that is only recorded."""
    rows: list[Sequence[object]] = [
        (
            item["case"],
            item["every"],
            f"{item['threads']} of {value['machine']['cores']}",
            f"{1e3 * item['step']:.1f}",
            name,
            _percent(shares),
            *(_part(item, name, part) for part in ("mean", "calls", "drain")),
        )
        for item in value["cases"]
        for name, shares in item["overhead"].items()
    ]
    head = ("", "k", "threads", "step, ms", "", "overhead, %", "by the mean", "within calls", "at the end")
    single = next(item["single"] for item in value["cases"] if "single" in item)
    steps: list[Sequence[object]] = [
        (name, *(spread([1e3 * one[part] for one in found]) for part in ("added", "calls")))
        for name, found in single.items()
    ]
    return table(head, rows) + "\n\n" + table(("single steps", "added, ms", "within the call, ms"), steps)


def _part(item: Mapping[str, Any], name: str, part: str) -> str:
    return _percent([parts[part] for parts in item["parts"][name]]) if "parts" in item else ""


def _percent(shares: Sequence[float]) -> str:
    return spread([100 * share for share in shares])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--work", type=Path, help="where states are written; default: the temporary directory"
    )
    parser.add_argument("--out", type=Path, help="keep the figures in this directory")
    wanted = parser.parse_args()
    # Every training here ends before its announced number of steps.
    logging.getLogger("polledger").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=wanted.work, prefix="polledger-bench-") as name:
        work = Path(name)
        # Key and authority of these runs, not the user's.
        os.environ["POLLEDGER_HOME"] = str(work / "home")
        training = Training(wanted.mb)
        found = spare(work, training, pairs=wanted.pairs, rounds=wanted.rounds)
        found.append(busy(work, training, states=fewer(wanted.pairs), rounds=2 * wanted.rounds))
    value = {"machine": machine(), "megabytes": wanted.mb, "rounds": wanted.rounds, "cases": found}
    if wanted.out is not None:
        write_evidence("overhead", value, directory=wanted.out)
    print(render(value))


if __name__ == "__main__":
    main()
