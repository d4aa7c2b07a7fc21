#!/usr/bin/env python3
"""Measures whether the ledger stays flat: recording, its head, reading it back, as a run grows to a million steps.

    scripts/bench_ledger.py [--records 1000000] [--evidence]

One process records a run of a recipe with a cosine schedule (a new learning rate and two metrics at every step, a
checkpoint record every ten steps, a seal every 500 records). At 1,000, 10,000 … records it pauses: the microseconds of
a record (encoded, hashed into both trees, appended) are the median of the last ten batches of 100; those of a head
(both roots and the signature) the median of 100; the memory is this process's resident set. Then fresh processes of
the command line read what is there: `verify --no-replay --no-scan` and `inspect`, with their peak memory. "More" is
over the first row. --evidence keeps the figures in docs/evidence/ledger.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evidence import EVIDENCE, NOWHERE, machine, table, write_evidence

from polledger.core.config import encode_config
from polledger.core.digest import sha256
from polledger.core.encoding import encode, real
from polledger.core.head import sign_head
from polledger.core.records import Checkpoint, Final, Genesis, GroupValues, Record, StateObject, Step
from polledger.core.schedule import Schedule
from polledger.store.run import RunDirectory
from polledger.training.sealer import Sealer, encode_record

RUN = sha256(b"ledger")[:16]
KEY = Ed25519PrivateKey.from_private_bytes(sha256(b"ledger"))
EVERY = 10
SEAL_EVERY = 500
BATCH = 100
BATCHES = 10
HEADS = 100
MIB = 1 << 20


def config_of(steps: int) -> dict[str, Any]:
    """A recipe whose learning rate changes at every step."""
    sgd = {"optimizer": "SGD", "lr": 0.1, "momentum": 0.9, "schedule": "cosine"}
    return {"steps": steps, "batch_size": 1, **sgd}


def genesis_of(steps: int) -> Genesis:
    """Record 0; nothing here is ever replayed."""
    return Genesis(
        v=1,
        run=RUN,
        index=0,
        task=sha256(b"nothing"),
        kind="recipe",
        config=encode_config(config_of(steps)),
        seed=0,
        bound=True,
        key=KEY.public_key().public_bytes_raw(),
        every=EVERY,
        warm=0,
        steps=steps,
        objects=[StateObject(name="model", kind="module", buffers=[])],
        environment=NOWHERE,
        origin="scratch",
    )


def records_of(steps: int) -> Iterator[Record]:
    """Every record of a whole run of ``steps`` steps, one after the other."""
    schedule = Schedule(config_of(steps))
    yield genesis_of(steps)
    index, before = 1, dict[str, Any]()
    for step in range(steps + 1):
        if step % EVERY == 0 or step == steps:
            root = sha256(b"state %d" % step)
            yield Checkpoint(v=1, run=RUN, index=index, step=step, root=root, stored=step in (0, steps))
            index += 1
        if step == steps:
            break
        values = schedule.at(step)[0]
        changed = {name: value for name, value in values.items() if before.get(name) != value}
        before = values
        yield step_record(index, step, changed)
        index += 1
    root = sha256(b"model")
    yield Final(v=1, run=RUN, index=index, checkpoint=index - 1, object="model", model_root=root, steps=steps)


def step_record(index: int, step: int, changed: Mapping[str, Any]) -> Step:
    """A step as a recipe records it."""
    values = {name: real(value) if isinstance(value, float) else value for name, value in changed.items()}
    return Step(
        v=1,
        run=RUN,
        index=index,
        step=step,
        batch=sha256(b"batch %d" % step),
        groups=[GroupValues(optimizer="optimizer", index=0, values=values)],
        metrics={"accuracy": real(step / (step + 1)), "loss": real(1 / (step + 1))},
    )


class Recording:
    """A run that is being recorded. ``seconds``: what each batch of BATCH records took, encoded and appended."""

    def __init__(self, directory: Path, steps: int) -> None:
        self.run = RunDirectory.create(directory)
        self._sealer = Sealer.create(self.run, RUN, KEY)
        self._records = records_of(steps)
        self._sealer.append(encode(next(self._records)))
        self._sealer.seal()
        self.seconds: list[float] = []

    def until(self, size: int) -> int:
        """Go on to ``size`` records or the run's end, seal, and return how many there are."""
        while self._sealer.size < size and (batch := list(islice(self._records, BATCH))):
            began = time.perf_counter()
            for record in batch:
                self._sealer.append(encode_record(record))
            self.seconds.append(time.perf_counter() - began)
            if self._sealer.size - self._sealer.sealed >= SEAL_EVERY:
                self._sealer.seal()
        self._sealer.seal()
        return self._sealer.size

    def head_seconds(self) -> float:
        """Median of HEADS signed heads over what is there."""
        taken = []
        for _ in range(HEADS):
            began = time.perf_counter()
            sign_head(self._sealer.head(), KEY)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)


def resident() -> int:
    """Bytes of memory this process has now. Linux only, as the evidence is."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def read_back(words: Sequence[str]) -> dict[str, Any]:
    """Seconds, peak bytes of memory and JSON of a fresh process of the command line."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [sys.executable, "-m", "polledger.cli.app", *words, "--json"],
            stdout=out,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "POLLEDGER_HOME": home},
        )
        _, _, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        out.seek(0)
        said = json.loads(out.read())
    return {"seconds": seconds, "peak": used.ru_maxrss * 1024, "json": said}


def verified(run: RunDirectory) -> dict[str, Any]:
    """What `verify` says of the structure, and what that cost."""
    found = read_back(["verify", str(run.path), "--no-replay", "--no-scan"])
    passed = {item["name"] for item in found["json"]["findings"] if item["outcome"] == "pass"}
    if not {"parse", "heads"} <= passed:
        raise RuntimeError(f"the run that was recorded does not verify: {found['json']['findings']}")
    return {"seconds": found["seconds"], "peak": found["peak"], "structure": "structure" in passed}


def measure(directory: Path, records: int, *, commands: bool = True) -> dict[str, Any]:
    """A row for every power of ten from 1,000 to ``records``; ``commands``: the command line reads each back, too."""
    steps = records * EVERY // (EVERY + 1)
    recording = Recording(directory / "run", steps)
    marks = [10**power for power in range(3, len(str(records))) if 10**power < records]
    rows = []
    for mark in [*marks, records + EVERY]:
        size = recording.until(mark)
        # The process's own start is over: what it takes from here on grows with the run, if anything does.
        row: dict[str, Any] = {
            "records": size,
            "microseconds": statistics.median(recording.seconds[-BATCHES:]) / BATCH * 1e6,
            "head_microseconds": recording.head_seconds() * 1e6,
            "resident": resident(),
            "bytes": recording.run.ledger_path.stat().st_size,
        }
        recording.seconds.clear()
        if commands:
            looked = read_back(["inspect", str(recording.run.path)])
            row |= {
                "verify": verified(recording.run),
                "inspect": {key: looked[key] for key in ("seconds", "peak")},
            }
        rows.append(row)
    return {"steps": steps, "rows": rows}


def render(found: Mapping[str, Any]) -> str:
    """The table of what :func:`measure` found, and the ratios that matter."""
    rows, first, last = found["rows"], found["rows"][0], found["rows"][-1]
    cells = [
        (
            f"{row['records']:,}",
            f"{row['microseconds']:.1f}",
            f"{row['head_microseconds']:.0f}",
            f"{(row['resident'] - first['resident']) / MIB:.1f}",
            f"{row['bytes'] / MIB:.1f}",
            f"{row['verify']['seconds']:.1f}",
            f"{(row['verify']['peak'] - first['verify']['peak']) / MIB:.0f}",
            f"{row['inspect']['seconds']:.2f}",
            f"{(row['inspect']['peak'] - first['inspect']['peak']) / MIB:.1f}",
        )
        for row in rows
    ]
    columns = (
        "records",
        "µs a record",
        "µs a head",
        "MiB more",
        "ledger, MiB",
        "verify, s",
        "MiB more",
        "inspect, s",
        "MiB more",
    )
    per_record = last["bytes"] / last["records"]
    grown = (last["verify"]["peak"] - first["verify"]["peak"]) / (last["bytes"] - first["bytes"])
    return (
        f"{table(columns, cells)}\n\n"
        f"A record at the end over one at the beginning: {last['microseconds'] / first['microseconds']:.2f}. "
        f"Bytes a record, frame included: {per_record:.0f}. Peak of `verify` for each byte of ledger: {grown:.2f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure whether the ledger stays flat.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--evidence", action="store_true", help="keep the figures in docs/evidence")
    parser.add_argument("--out", type=Path, help="keep them in this directory")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), wanted.records)
    where = machine()
    if wanted.evidence or wanted.out is not None:
        write_evidence("ledger", {"machine": where, **found}, directory=wanted.out or EVIDENCE)
    print(f"{where['cpu']}, {where['cores']} cores", file=sys.stderr)
    print(render(found))


if __name__ == "__main__":
    main()
