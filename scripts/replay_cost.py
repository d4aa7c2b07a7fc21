#!/usr/bin/env python3
"""Measures what a verification costs beside the training it replays, on the `chars` example.

    scripts/replay_cost.py [--width 256] [--steps 60] [--every 10] [--sample 8]

Seals a run whose steps are long enough to measure, verifies a sample of it with the command line, and prints one
Markdown row: seconds per recorded step, steps replayed, seconds of the whole verification, and that time over
the time the replayed steps took in training. Bits have to be equal, else there is nothing to compare and it fails.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FIXED_SECONDS = 15.0
"""Start of processes, reading and hashing: what a verification may take besides 3 times the replayed steps."""


def run(words: list[str], home: Path) -> tuple[dict[str, Any], float]:
    """The JSON object a command prints, and its wall-clock seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "polledger.cli.app", *words, "--json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "POLLEDGER_HOME": str(home)},
        check=True,
    )
    value: dict[str, Any] = json.loads(done.stdout)
    return value, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a verification costs.")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--sample", type=int, default=8)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        text = place / "text"
        text.write_text(
            "".join(f"{i} green bottles hanging on the wall, {i} green bottles.\n" for i in range(4000))
        )
        data = ["--input", f"text={text}"]
        size = ["--set", f"width={wanted.width}", "--steps", str(wanted.steps), "--every", str(wanted.every)]
        sealed, _ = run(
            ["seal", "polledger.examples.chars", "--run", str(place / "run"), *size, *data], place / "home"
        )
        report, wall = run(
            ["verify", str(place / "run"), "--sample", str(wanted.sample), *data], place / "home"
        )
    if report["comparison"] != "bitwise":
        sys.exit("bits differ: nothing to compare")
    step = sealed["seconds"] / sealed["trained"]
    replayed = sum(last - first for first, last in (item["steps"] for item in report["intervals"]))
    bound = 3 * replayed * step + FIXED_SECONDS
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", file=sys.stderr
    )
    print("| s a step | steps replayed | verify, s | verify / training of these steps | bound 3x + 15 s |")
    print("|---|---|---|---|---|")
    print(f"| {step:.3f} | {replayed} | {wall:.1f} | {wall / (replayed * step):.2f} | {bound:.1f} |")
    if wall > bound:
        sys.exit("above the bound")


if __name__ == "__main__":
    main()
