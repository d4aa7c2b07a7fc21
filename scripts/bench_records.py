#!/usr/bin/env python3
"""Measures what encoding a record costs, and what starting does.

    scripts/bench_records.py [--repeats 5] [--out DIR]

Prints tables; --out keeps the figures in DIR/records.json. Every figure is of this machine; what travels are the
ratios, each taken between two things measured in turn in this one process: polledger's codec against plain ``msgpack``
and ``json``, start-up against a bare interpreter. What a whole ledger costs is measured by ``bench_ledger.py``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
from evidence import machine, write_evidence
from rich.console import Console
from rich.table import Table

from polledger.core.encoding import encode, real
from polledger.core.records import GroupValues, Step, parse_record
from polledger.training.sealer import encode_record

RUN = bytes(range(16))
ENTRIES_PER_ROUND = 2000


def step_record(index: int) -> Step:
    """A step as a recipe with a schedule records it: a new learning rate and two metrics at every step."""
    return Step(
        v=1,
        run=RUN,
        index=index,
        step=index - 1,
        batch=sha256(index.to_bytes(8, "big")).digest(),
        groups=[GroupValues(optimizer="optimizer", index=0, values={"lr": real(0.05 / index)})],
        metrics={"accuracy": real(1 - 1 / index), "loss": real(1 / index)},
    )


def rounds(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of each function, the median of ``repeats`` rounds in which each ran once, in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def measure_codec(repeats: int) -> dict[str, Any]:
    """Microseconds to encode and to parse one step record, beside the same fields in plain msgpack and JSON.

    "recorder encode" is what recording does, with records that are valid by construction; "polledger encode" and
    "polledger parse" are the gate, which checks everything.
    """
    records = [step_record(index) for index in range(1, ENTRIES_PER_ROUND + 1)]
    encoded = [encode(record) for record in records]
    plain = [msgpack.unpackb(data) for data in encoded]
    packed = [msgpack.packb(value) for value in plain]
    texts = [json.dumps(value, default=bytes.hex) for value in plain]
    seconds = rounds(
        {
            "recorder encode": lambda: [encode_record(record) for record in records],
            "polledger encode": lambda: [encode(record) for record in records],
            "msgpack packb": lambda: [msgpack.packb(value) for value in plain],
            "json dumps": lambda: [json.dumps(value, default=bytes.hex) for value in plain],
            "polledger parse": lambda: [parse_record(data) for data in encoded],
            "msgpack unpackb": lambda: [msgpack.unpackb(data) for data in packed],
            "json loads": lambda: [json.loads(text) for text in texts],
        },
        repeats,
    )
    micro = {name: value / ENTRIES_PER_ROUND * 1e6 for name, value in seconds.items()}
    return {
        "record_bytes": len(encoded[-1]),
        "microseconds": micro,
        "ratios": {
            "recorder / msgpack packb": micro["recorder encode"] / micro["msgpack packb"],
            "encode / msgpack packb": micro["polledger encode"] / micro["msgpack packb"],
            "encode / json dumps": micro["polledger encode"] / micro["json dumps"],
            "parse / msgpack unpackb": micro["polledger parse"] / micro["msgpack unpackb"],
            "parse / json loads": micro["polledger parse"] / micro["json loads"],
        },
    }


def measure_start(repeats: int) -> dict[str, Any]:
    """Wall-clock milliseconds of fresh processes, each started in turn."""

    def start(*arguments: str) -> Callable[[], Any]:
        command = [sys.executable, *arguments]
        return lambda: subprocess.run(command, check=True, capture_output=True)

    seconds = rounds(
        {
            "python -c pass": start("-c", "pass"),
            "import polledger": start("-c", "import polledger"),
            "polledger --help": start("-m", "polledger.cli.app", "--help"),
            "import torch": start("-c", "import torch"),
        },
        repeats,
    )
    milli = {name: value * 1e3 for name, value in seconds.items()}
    return {
        "milliseconds": milli,
        "ratios": {
            f"{name} / python -c pass": milli[name] / milli["python -c pass"] for name in list(milli)[1:]
        },
    }


def show(report: dict[str, Any], console: Console) -> None:
    host = report["machine"]
    console.print(
        f"{host['cpu']}, {host['cores']} cores, Python {host['python']}, polledger {host['polledger']}"
    )
    codec = report["codec"]
    table(console, f"One step record of {codec['record_bytes']} bytes", "µs", codec["microseconds"])
    table(console, "Starting", "ms", report["start"]["milliseconds"])
    ratios = {name: value for part in ("codec", "start") for name, value in report[part]["ratios"].items()}
    table(console, "Ratios within this run", "×", ratios)


def table(console: Console, title: str, unit: str, values: dict[str, float]) -> None:
    grid = Table("", unit, title=title)
    for name, value in values.items():
        grid.add_row(name, f"{value:.2f}")
    console.print(grid)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what encoding and starting cost.")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of every comparison (default: 5)")
    parser.add_argument("--out", type=Path, help="keep the figures in this directory")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats is at least 1")
    report = {
        "machine": machine(),
        "method": f"medians of {arguments.repeats} rounds, everything in turn in one process",
        "codec": measure_codec(arguments.repeats),
        "start": measure_start(arguments.repeats),
    }
    show(report, Console())
    if arguments.out is not None:
        write_evidence("records", report, directory=arguments.out)


if __name__ == "__main__":
    main()
