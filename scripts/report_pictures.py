#!/usr/bin/env python3
"""Take the pictures of docs/report.md: reports of a run that is VERIFIED, REFUTED and UNVERIFIABLE, light and dark.

    scripts/report_pictures.py [--keep DIR]       needs Chromium and the extras examples and figures

Seals ``digits`` with the embedded authority, verifies it as recorded, verifies a bent copy (scripts/bend.py) as a
machine with one thread would, and verifies a copy that has lost a stored state. Nonces are fixed, keys are not:
numbers in the pictures differ from one making to the next. ``--keep`` leaves runs and reports in DIR.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bend import bend
from PIL import Image

from polledger.core.records import Checkpoint
from polledger.redteam.rewrite import read_records
from polledger.store.run import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

TASK = "polledger.examples.digits"
SETTINGS = ("--steps", "200", "--every", "5", "--warm", "5", "--keep", "1", "--seal-every", "6")
NONCE = "5e" * 32
PAGE = (1180, 2900)
"""Pixels: what a reader sees first, down to the trajectory."""

ELSEWHERE = "[replay]\nthreads = 1\n"
COLOURS = 96
"""Of a picture: there are few on a page, and pictures stay small."""


def command(place: Path, *words: object) -> int:
    """Run ``polledger`` with ``words`` in ``place``, which is its home too; its exit code."""
    environment = {**os.environ, "POLLEDGER_HOME": str(place)}
    return subprocess.run(
        [sys.executable, "-m", "polledger.cli.app", *map(str, words)], env=environment, cwd=place, check=False
    ).returncode


def runs(place: Path) -> dict[str, tuple[Path, tuple[str, ...], int]]:
    """By verdict: a run, what ``verify`` gets besides it, and the exit code that it has to give."""
    honest, bent, lost = place / "run", place / "bent", place / "lost"
    policy = place / "elsewhere.toml"
    policy.write_text(ELSEWHERE)
    if command(place, "seal", TASK, "--run", honest, *SETTINGS) != 0:
        raise SystemExit("the run was not sealed")
    bend(honest, bent, place / "key.pem")
    shutil.copytree(honest, lost)
    copy = RunDirectory.open(lost)
    checkpoints = [
        record for record in read_records(copy) if isinstance(record, Checkpoint) and record.stored
    ]
    copy.objects.path(checkpoints[len(checkpoints) // 2].root).unlink()
    return {
        "verified": (honest, (), 0),
        "refuted": (bent, ("--policy", str(policy)), 1),
        "unverifiable": (lost, (), 3),
    }


def picture(chromium: str, page: Path, target: Path, *, dark: bool) -> None:
    """Take the picture of ``page``, as a reader with that theme sees it."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                *(["--force-dark-mode"] if dark else []),
                f"--user-data-dir={profile}",
                f"--window-size={PAGE[0]},{PAGE[1]}",
                f"--screenshot={target}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )
    image = Image.open(target).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(target, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", type=Path, help="leave runs and reports in this new directory")
    parser.add_argument("--chromium", default="chromium", help="the browser (default: chromium)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.keep or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        for name, (run, words, code) in runs(place.resolve()).items():
            report = place.resolve() / f"report-{name}"
            # By its name alone: pictures show no path of whoever took them.
            found = command(place, "verify", run.name, "--nonce", NONCE, *words, "--report", report)
            if found != code:
                raise SystemExit(f"{name}: verify ended with {found}, not {code}")
            for dark in (False, True):
                target = DOCS / f"report-{name}{'-dark' if dark else ''}.png"
                picture(arguments.chromium, report / "report.html", target, dark=dark)


if __name__ == "__main__":
    main()
