#!/usr/bin/env python3
"""Measures what authorities that fail cost a training: its step times with each kind, beside one that answers.

    scripts/outage.py [--turns 60] [--work DIR] [--evidence]

Each training is a process of its own: a network of three layers trained with SGD, each step a record, each tenth step
a seal whose head goes to one authority over loopback, also a process: one that answers (``polledger tsa serve``), one
where nobody listens, and those of ``tests/timestamp/rogue.py``, which hang, lie or flood. All trainings are under way
together and take turns, ten steps each with a seal in their middle, in an order that changes from turn to turn: what
else the machine does meets all alike. Their threads are never stopped, so that an authority has several
times as long for its mischief as it would have in a training that runs alone. Time and processor time (of all threads
of the process) are taken over each turn, and divided by what the training with the authority that answers took in the
same turn; the table gives the median of these ratios and their quartiles.
"""

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evidence import ROOT, machine, table, write_evidence
from torch import nn

sys.path.insert(0, str(ROOT))
from polledger.core.encoding import real
from polledger.core.records import Step
from polledger.store.run import RunDirectory
from polledger.training.sealer import Sealer, encode_record
from polledger.training.stamping import Stamping, choose_authorities
from tests.timestamp.peers import free_url, rogue
from tests.timestamp.serving import serving

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

# Children take over what is imported here; nothing is computed before.
CONTEXT = multiprocessing.get_context("fork")

RUN = bytes(range(16))
STEPS = 10
"""Steps of a turn; after half of them the run is sealed."""

BATCH, WIDTH = 256, 512

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


class Training:
    """A training in this process that is recorded, sealed and stamped by the code that ``polledger seal`` uses."""

    def __init__(self, url: str, directory: Path) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(1)
        layers = [nn.Linear(64, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 10)]
        self._model = nn.Sequential(*layers)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.05, momentum=0.9)
        self._batch = torch.randn(BATCH, 64), torch.randint(0, 10, (BATCH,))
        self._run = RunDirectory.create(directory)
        self._stamping = Stamping(self._run, choose_authorities([url]), warn=lambda _: None)
        self._sealer = Sealer.create(self._run, RUN, Ed25519PrivateKey.generate(), stamp=self._stamping.stamp)

    def turn(self) -> dict[str, Any]:
        """Ten steps: milliseconds of each, and of the processor for all of them."""
        steps, processor = [], time.process_time()
        for number in range(STEPS):
            started = time.perf_counter()
            self._step()
            if number == STEPS // 2:
                self._sealer.seal()
            steps.append(1e3 * (time.perf_counter() - started))
        return {"steps": steps, "processor": 1e3 * (time.process_time() - processor)}

    def end(self) -> dict[str, Any]:
        """Seconds that the end waits for authorities, and how many of the seals have no token then."""
        started = time.perf_counter()
        waiting = self._stamping.close()
        return {
            "end": time.perf_counter() - started,
            "waiting": len(waiting),
            "seals": len(self._run.seals()),
        }

    def _step(self) -> None:
        inputs, labels = self._batch
        loss = nn.functional.cross_entropy(self._model(inputs), labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        index = self._sealer.size
        metrics = {"loss": real(float(loss.detach()))}
        self._sealer.append(
            encode_record(Step(v=1, run=RUN, index=index, step=index, batch=bytes(32), metrics=metrics))
        )


def serve_turns(pipe: "Connection", url: str, directory: Path) -> None:
    """A child: a turn for each message, its end for the last."""
    training = Training(url, directory)
    pipe.send({})
    while pipe.recv():
        pipe.send(training.turn())
    pipe.send(training.end())


class Child:
    """A training in a process of its own."""

    def __init__(self, name: str, url: str, work: Path) -> None:
        self.name = name
        self._pipe, far = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=serve_turns, args=(far, url, work / name), daemon=True)
        self._process.start()
        self._pipe.recv()

    def turn(self, *, last: bool = False) -> dict[str, Any]:
        """What a turn took, or the end."""
        self._pipe.send(not last)
        value: dict[str, Any] = self._pipe.recv()
        return value

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def take_turns(work: Path, turns: int) -> dict[str, dict[str, Any]]:
    """What each training took, turn by turn, and how it ended."""
    with ExitStack() as stack:
        urls = {ANSWERS: stack.enter_context(serving(work / "tsa")).url}
        urls |= {"embedded": "embedded", "refused": free_url()}
        urls |= {name: stack.enter_context(rogue(name)).url for name in CONDITIONS if name not in urls}
        children = []
        for name in CONDITIONS:
            children.append(Child(name, urls[name], work))
            stack.callback(children[-1].kill)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONDITIONS}
        for number in range(turns + 1):
            for child in random.Random(number).sample(children, len(children)):
                found[child.name].append(child.turn())
        # The first turn makes memory, and the modules that the first request needs.
        return {child.name: {"turns": found[child.name][1:], **child.turn(last=True)} for child in children}


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
                "ratio": quartiles(sum(a["steps"]) / sum(b["steps"]) for a, b in pairs),
                "processor": statistics.median(turn["processor"] for turn in turns) / STEPS,
                "processor_ratio": quartiles(a["processor"] / b["processor"] for a, b in pairs),
                **{key: result[key] for key in ("end", "waiting", "seals")},
            }
        )
    return rows


def quartiles(values: Iterable[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive")


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
    parser.add_argument("--turns", type=int, default=60, help="turns of each training")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--evidence", action="store_true", help="write docs/evidence/outage.json")
    given = parser.parse_args()
    with ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["POLLEDGER_HOME"] = str(work / "home")
        rows = summarise(take_turns(work, given.turns))
    print(render(rows))
    method = f"{given.turns} turns of {STEPS} steps, each with a seal, all trainings in turn"
    if given.evidence:
        write_evidence("outage", {"machine": machine(), "method": method, "rows": rows})


if __name__ == "__main__":
    main()
