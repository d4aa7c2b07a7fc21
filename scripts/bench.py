#!/usr/bin/env python3
"""Measures what recording costs, and whether it stays flat as a run grows.

    scripts/bench.py [--records 1000000] [--repeats 5] [--out DIR]

Prints a table and writes everything as JSON. Every figure is of this machine; what travels are the ratios, each taken
between two things measured in turn in this one process: polledger's codec against plain ``msgpack`` and ``json``, the
last records of a long run against the first, start-up against a bare interpreter.
"""

import argparse
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from polledger import __version__
from polledger.core.encoding import encode, real
from polledger.core.records import GroupValues, Step, parse_record
from polledger.store.run import RunDirectory
from polledger.training.sealer import Sealer, encode_record

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


def resident_kib() -> int:
    """Resident memory of this process now, in KiB; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def measure_growth(records: int, directory: Path) -> dict[str, Any]:
    """What one more step record costs as a run grows: encode, hash, both trees, append; and what a seal costs.

    At 1e3, 1e4 … ``records`` the last tenth of the records (at least 500) is timed, a seal over all of them is
    made, and memory is read.
    """
    marks = [10**exponent for exponent in range(3, int(math.log10(records)) + 1)]
    marks += [records] if records not in marks else []
    run = RunDirectory.create(directory / "run")
    sealer = Sealer.create(run, RUN, Ed25519PrivateKey.generate())
    rows = []
    index = 1
    gc.collect()
    for mark in marks:
        window = max(500, mark // 10)
        index = record_until(mark - window, index, sealer)
        start = time.perf_counter()
        index = record_until(mark, index, sealer)
        recorded = time.perf_counter()
        sealer.seal()
        rows.append(
            {
                "records": mark,
                "microseconds_per_record": (recorded - start) / window * 1e6,
                "milliseconds_per_seal": (time.perf_counter() - recorded) * 1e3,
                "resident_kib": resident_kib(),
            }
        )
    sealer.close()
    first, last = rows[0], rows[-1]
    span = f"{last['records']:.0e} / {first['records']:.0e} records"
    return {
        "rows": rows,
        "bytes_per_record": run.ledger_path.stat().st_size / (index - 1),
        "ratios": {
            f"time, {span}": last["microseconds_per_record"] / first["microseconds_per_record"],
            f"memory, {span}": last["resident_kib"] / max(1, first["resident_kib"]),
        },
    }


def record_until(end: int, index: int, sealer: Sealer) -> int:
    while index <= end:
        sealer.append(encode_record(step_record(index)))
        index += 1
    return index


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


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "polledger": __version__,
    }


def show(report: dict[str, Any], console: Console) -> None:
    host = report["machine"]
    console.print(
        f"{host['cpu']}, {host['cores']} cores, Python {host['python']}, polledger {host['polledger']}"
    )
    codec = report["codec"]
    table(console, f"One step record of {codec['record_bytes']} bytes", "µs", codec["microseconds"])
    growth = Table("records", "µs each", "ms a seal", "resident MiB", title="Recording steps, and sealing")
    for row in report["growth"]["rows"]:
        figures = (row["microseconds_per_record"], row["milliseconds_per_seal"], row["resident_kib"] / 1024)
        growth.add_row(f"{row['records']:,}", *(f"{figure:.1f}" for figure in figures))
    console.print(growth)
    table(console, "Starting", "ms", report["start"]["milliseconds"])
    ratios = {
        name: value for part in ("codec", "growth", "start") for name, value in report[part]["ratios"].items()
    }
    table(console, "Ratios within this run", "×", ratios)


def table(console: Console, title: str, unit: str, values: dict[str, float]) -> None:
    grid = Table("", unit, title=title)
    for name, value in values.items():
        grid.add_row(name, f"{value:.2f}")
    console.print(grid)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what recording costs.")
    parser.add_argument(
        "--records", type=int, default=1_000_000, help="length of the ledger (default: 1,000,000)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds of every comparison (default: 5)")
    parser.add_argument(
        "--out", type=Path, default=None, help="file for the JSON report (default: standard output)"
    )
    arguments = parser.parse_args()
    if arguments.records < 1000 or arguments.repeats < 1:
        parser.error("--records is at least 1000 and --repeats at least 1")
    with tempfile.TemporaryDirectory(prefix="polledger-bench-") as directory:
        report = {
            "schema": "polledger.bench/1",
            "machine": machine(),
            "method": f"medians of {arguments.repeats} rounds, everything in turn in one process; growth in one pass",
            "codec": measure_codec(arguments.repeats),
            "growth": measure_growth(arguments.records, Path(directory)),
            "start": measure_start(arguments.repeats),
        }
    show(report, Console(stderr=True))
    text = json.dumps(report, indent=2) + "\n"
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
