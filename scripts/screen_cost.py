#!/usr/bin/env python3
"""Measures how fast stored checkpoints are read, rehashed and screened, beside plain SHA-256 over the same bytes.

    scripts/screen_cost.py [--states 24x100 240x100 24x1000] [--rounds 3] [--work DIR] [--evidence]

So many states of so many megabytes are made up: a model of 24 layers under AdamW in float32; three are stored and read
in turn. Both are taken alternately and the best round of each counts, because other programs only ever slow a
measurement down. SHA-256 runs on one core over memory that was used before, without reading a file; the pass reads
files, which the first round leaves in the page cache, and on more than one core other processes read ahead. To start
them, and memory that was never used, cost the same however many states follow: hence two rows of 100 MB.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from evidence import NOWHERE, machine, table, write_evidence

from polledger.core.config import encode_config
from polledger.core.encoding import real
from polledger.core.records import Checkpoint, Genesis, GroupValues, StateObject, Step
from polledger.core.state import FlatState, SkeletonEntry, TensorData, encode_state
from polledger.store.objects import ObjectStore
from polledger.verify.lineage import Interval, Lineage
from polledger.verify.readers import reader_count
from polledger.verify.scan import ScanTask, scan

LAYERS = 24
DISTINCT = 3
SLOTS = ("exp_avg", "exp_avg_sq")
RUN = bytes(16)
OBJECTS = [StateObject(name="model", kind="module"), StateObject(name="optimizer", kind="optimizer")]


def states(store: ObjectStore, *, megabytes: int, count: int) -> tuple[list[bytes], int]:
    """The roots of ``count`` checkpoints, three stored states of about that size in turn, and the bytes of one."""
    rng = np.random.default_rng(1)
    size = megabytes * 1_000_000 // (4 * 3 * LAYERS)
    weights = [rng.standard_normal(size, dtype=np.float32) for _ in range(3 * LAYERS)]
    roots, length = [], 0
    for _ in range(DISTINCT):
        for number, values in enumerate(weights):
            # Not new numbers each time: they would take longer than everything that is measured.
            values *= np.float32(0.999 if number % 3 else 1.001)
        encoded = encode_state(_flat(weights))
        store.put_named(encoded.root, list(encoded.chunks()))
        roots.append(encoded.root)
        length = encoded.size
    return [roots[i % DISTINCT] for i in range(count)], length


def _flat(weights: list[Any]) -> FlatState:
    tensors, model, slots = [], [], []
    for layer in range(LAYERS):
        paths = [f"model/{layer:02d}.weight", *(f"optimizer/state/#{layer}/{slot}" for slot in SLOTS)]
        for path, values in zip(paths, weights[3 * layer : 3 * layer + 3], strict=True):
            data = np.square(values) if path.endswith("sq") else values
            tensors.append(
                TensorData(path=path, dtype="float32", shape=data.shape, data=memoryview(data.tobytes()))
            )
        model.append([f"{layer:02d}.weight", ["tensor", paths[0]]])
        parts = [[slot, ["tensor", path]] for slot, path in zip(SLOTS, paths[1:], strict=True)]
        slots.append([f"#{layer}", ["map", parts]])
    slots.sort()
    return FlatState(
        skeletons=[
            SkeletonEntry(v=1, path="model", structure=["map", model]),
            SkeletonEntry(v=1, path="optimizer", structure=["map", [["state", ["map", slots]]]]),
        ],
        tensors=tensors,
    )


def lineage(roots: list[bytes]) -> Lineage:
    """A run of one step per interval that stored these states."""
    config = {"optimizer": "AdamW", "lr": 0.001, "steps": len(roots) - 1}
    genesis = Genesis(
        v=1, run=RUN, index=0, task=bytes(32), kind="recipe", config=encode_config(config), seed=0, bound=True,
        key=bytes(32), every=1, warm=0, steps=len(roots) - 1, objects=OBJECTS, environment=NOWHERE, origin="scratch",
    )  # fmt: skip
    values: dict[str, bytes | int | bool] = {
        "lr": real(0.001),
        "betas_0": real(0.9),
        "betas_1": real(0.999),
        "weight_decay": real(0.01),
    }
    groups = [GroupValues(optimizer="optimizer", index=0, values=values)]
    checkpoints = [
        Checkpoint(v=1, run=RUN, index=i, step=i, root=root, stored=True) for i, root in enumerate(roots)
    ]
    intervals = []
    for number, (start, end) in enumerate(pairwise(checkpoints)):
        step = Step(v=1, run=RUN, index=0, step=number, batch=bytes(32), groups=groups)
        intervals.append(Interval(number=number, start=start, end=end, steps=(step,), environment=NOWHERE))
    return Lineage(
        genesis=genesis, intervals=tuple(intervals), checkpoints=tuple(checkpoints), final=None, resumes=(),
        abandoned=0, complete=True, findings=(),
    )  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes by the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(place: Path, *, megabytes: int, count: int, rounds: int) -> dict[str, Any]:
    """Bytes per second of both, best of ``rounds``."""
    store = ObjectStore(place)
    roots, size = states(store, megabytes=megabytes, count=count)
    run = lineage(roots)
    task = ScanTask(
        lineage=run, objects=store, values=[{}] * (count - 1), nonce=bytes(16), told=lambda done, total: None
    )
    data = bytearray(store.path(roots[0]).read_bytes())

    def hash_as_many() -> None:
        for _ in roots:
            hashlib.sha256(data).digest()

    hashed, scanned = [], []
    for _ in range(rounds):
        hashed.append(seconds(hash_as_many))
        scanned.append(seconds(lambda: scan(task)))
    return {
        "state_bytes": size,
        "checkpoints": count,
        "readers": reader_count(store, roots),
        "sha256_gb_s": round(count * size / min(hashed) / 1e9, 3),
        "screening_gb_s": round(count * size / min(scanned) / 1e9, 3),
        "ratio": round(min(hashed) / min(scanned), 3),
    }


def print_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """A Markdown row for each size."""
    cells = [
        (
            f"{row['state_bytes'] / 1e6:.0f} MB",
            row["checkpoints"],
            f"{row['sha256_gb_s']} GB/s",
            f"{row['screening_gb_s']} GB/s",
            row["readers"],
            row["ratio"],
        )
        for row in rows
    ]
    print(
        table(
            ("state", "checkpoints", "SHA-256, one core", "read, rehash, screen", "readers", "ratio"), cells
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure reading and screening against SHA-256.")
    parser.add_argument(
        "--states",
        nargs="+",
        default=["24x100", "240x100", "24x1000"],
        metavar="COUNTxMB",
        help="what to make up",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--work", type=Path, help="where the states are written; default: the temporary directory"
    )
    parser.add_argument("--evidence", action="store_true", help="keep the figures in docs/evidence")
    wanted = parser.parse_args()
    rows = []
    for size in wanted.states:
        count, megabytes = map(int, size.split("x"))
        with tempfile.TemporaryDirectory(dir=wanted.work) as name:
            rows.append(measure(Path(name), megabytes=megabytes, count=count, rounds=wanted.rounds))
    print_table(rows)
    if wanted.evidence:
        write_evidence("screen_cost", {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
