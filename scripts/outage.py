#!/usr/bin/env python3
"""Measures what authorities that fail cost a training: its step times with each kind, beside one that answers.

    scripts/outage.py [--blocks 40] [--work DIR] [--evidence]

Each training is a process of its own that seals the example ``mlp`` after every tenth step and asks one authority over
loopback, also a process: one that answers (``polledger tsa serve``), one where nobody listens, and the ones of
``tests/timestamp/rogue.py``, which hang, lie or flood. All trainings are under way together and take turns, ten steps
each with a seal in their middle, in an order that changes from turn to turn: what else the machine does meets all
alike. Their threads are never stopped, so that an authority has several times as long for its mischief as it would
have in a training that runs alone. Time and processor time (of all threads of the process) are taken over each turn,
and divided by what the training with the authority that answers took in the same turn; the table gives the median of
these ratios and their quartiles. The first steps, beside which a rehearsal runs, do not count.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from evidence import ROOT, machine, table, write_evidence, write_key

sys.path.insert(0, str(ROOT))
from polledger.store.run import RunDirectory
from polledger.training.plan import SealOptions
from polledger.training.session import seal
from tests.timestamp.peers import free_url, rogue
from tests.timestamp.serving import serving

TASK = "polledger.examples.mlp"
EVERY = 5
SEAL_EVERY = 2
BLOCK = EVERY * SEAL_EVERY
"""Steps of a turn: each has one seal, after its fifth step."""

FIRST = 65
"""Steps before the first turn: beside them a rehearsal replays the first interval."""

ANSWERS = "answers"
CONDITIONS = {
    ANSWERS: "`polledger tsa serve`",
    "embedded": "none: the embedded authority",
    "refused": "nobody listens",
    "hang": "takes the request and never answers",
    "endless": "a body without end",
    "huge": "a body of 10 GB",
    "garbage": "no HTTP",
    "lie": "a token over something else",
}


class Turns:
    """Trains a turn when a line comes on standard input, and writes what it took on standard output."""

    def __init__(self) -> None:
        self._wall = [0.0]
        self._processor = 0.0
        self.ended = 0.0

    def phase(self, text: str) -> None:
        pass

    def progress(self, done: int, total: int) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def step(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        self.ended = time.perf_counter()
        self._wall.append(self.ended)
        if done >= FIRST and (done - FIRST) % BLOCK == 0:
            self._take(done > FIRST)

    def _take(self, is_whole: bool) -> None:
        if is_whole:
            steps = [1e3 * (b - a) for a, b in zip(self._wall, self._wall[1:], strict=False)]
            tell({"steps": steps, "processor": 1e3 * (time.process_time() - self._processor)})
        else:
            tell({})
        sys.stdin.readline()
        self._wall, self._processor = [time.perf_counter()], time.process_time()


def tell(value: Mapping[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def train(url: str, run: Path, key: Path, steps: int) -> None:
    """One training in this process, turn by turn; at last how long its end waited, and what waits for a token."""
    turns = Turns()
    options = SealOptions(
        task=TASK,
        run=run,
        key=key,
        every=EVERY,
        seal_every=SEAL_EVERY,
        settings=(f"steps={steps}",),
        authorities=(url,),
    )
    result = seal(options, turns)
    tell(
        {
            "end": time.perf_counter() - turns.ended,
            "waiting": result.waiting,
            "seals": len(RunDirectory.open(run).seals()),
        }
    )


class Child:
    """A training in a process of its own."""

    def __init__(self, name: str, url: str, work: Path, steps: int) -> None:
        words = ["--url", url, "--work", str(work), "--place", name, "--steps", str(steps)]
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, __file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "POLLEDGER_HOME": str(work / "home")},
        )

    def read(self) -> dict[str, Any]:
        """What it writes next."""
        if self._process.stdout is None:
            raise RuntimeError("the child has no standard output")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the training with {self.name} ended early")
        value: dict[str, Any] = json.loads(line)
        return value

    def turn(self) -> dict[str, Any]:
        """Let it go on, and read what comes of it."""
        if self._process.stdin is not None:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        return self.read()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def take_turns(work: Path, blocks: int) -> dict[str, dict[str, Any]]:
    """What each training took, turn by turn, and how it ended."""
    with ExitStack() as stack:
        urls = {
            ANSWERS: stack.enter_context(serving(work / "tsa")).url,
            "embedded": "embedded",
            "refused": free_url(),
        }
        urls |= {name: stack.enter_context(rogue(name)).url for name in CONDITIONS if name not in urls}
        children = []
        for name in CONDITIONS:
            children.append(Child(name, urls[name], work, FIRST + BLOCK * blocks + 1))
            stack.callback(children[-1].kill)
        for child in children:
            child.read()
            print(f"{child.name} is under way", file=sys.stderr, flush=True)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONDITIONS}
        for number in range(blocks):
            for child in random.Random(number).sample(children, len(children)):
                found[child.name].append(child.turn())
        return {child.name: {"turns": found[child.name], **child.turn()} for child in children}


def summarise(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each condition: its steps, and the ratios of its turns to those of the authority that answers."""
    base = found[ANSWERS]["turns"]
    rows = []
    for name, result in found.items():
        turns = result["turns"]
        steps = [step for turn in turns for step in turn["steps"]]
        pairs = list(zip(turns, base, strict=True))
        rows.append(
            {
                "authority": name,
                "median": statistics.median(steps),
                "p99": statistics.quantiles(steps, n=100)[98],
                "ratio": statistics.quantiles((sum(a["steps"]) / sum(b["steps"]) for a, b in pairs), n=4),
                "processor": statistics.median(turn["processor"] for turn in turns) / BLOCK,
                "processor_ratio": statistics.quantiles(
                    (a["processor"] / b["processor"] for a, b in pairs), n=4
                ),
                **{key: result[key] for key in ("end", "waiting", "seals")},
            }
        )
    return rows


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = (
        "authority", "step, ms", "99 %, ms", "turn, ratio", "processor a step, ms", "ratio", "end, s", "seals waiting",
    )  # fmt: skip
    return table(
        columns,
        [
            (
                CONDITIONS[row["authority"]],
                f"{row['median']:.1f}",
                f"{row['p99']:.0f}",
                _ratio(row["ratio"]),
                f"{row['processor']:.1f}",
                _ratio(row["processor_ratio"]),
                f"{row['end']:.1f}",
                f"{row['waiting']} of {row['seals']}",
            )
            for row in rows
        ],
    )


def _ratio(quartiles: Sequence[float]) -> str:
    return f"{quartiles[1]:.2f} ({quartiles[0]:.2f}–{quartiles[2]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=40, help="turns of each training")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--evidence", action="store_true", help="write docs/evidence/outage.json")
    for internal in ("--url", "--place", "--steps"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.url:
        train(given.url, given.work / given.place, given.work / "key.pem", int(given.steps))
        return
    with ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (work / "home").mkdir(parents=True, exist_ok=True)
        write_key(work / "key.pem", "outage")
        rows = summarise(take_turns(work, given.blocks))
    print(render(rows))
    method = f"{given.blocks} turns of {BLOCK} steps of {TASK}, each with a seal, all trainings in turn"
    if given.evidence:
        write_evidence("outage", {"machine": machine(), "method": method, "rows": rows})


if __name__ == "__main__":
    main()
