"""Replays beside each other with real processes: the report of a run that was recorded with one thread."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import NONCE, Cli

STEPS, EVERY = 96, 4

BESIDE = """
import os, sys
from polledger.verify import beside

beside.WORTH = float(sys.argv.pop(1))
beside.usable_cores = lambda: 2
replay = beside.Beside._replay

def noted(*given):
    done = replay(*given)
    print("beside", file=sys.stderr)
    return done

beside.Beside._replay = noted
from polledger.cli.app import main

main()
"""
"""The command line on two cores, with how many seconds of replaying a process is worth as the first word."""


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    path = tmp_path_factory.mktemp("beside") / "run"
    words = ["polledger.examples.mlp", "--run", path, "--steps", STEPS, "--every", EVERY]
    done = cli("seal", *words, env={"OMP_NUM_THREADS": "1"})
    assert done.code == 0, done.err
    return path


def verify(path: Path, home: Path, *, worth: str) -> tuple[dict[str, Any], int]:
    """The report, and how many intervals were replayed beside others."""
    done = subprocess.run(
        [sys.executable, "-c", BESIDE, worth, "verify", path, "--sample", "5", "--nonce", NONCE, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "POLLEDGER_HOME": str(home)},
        timeout=600,
        check=False,
    )
    assert done.returncode in (0, 1, 3), done.stderr
    value = json.loads(done.stdout)
    for name in ("timing", "verified_at"):
        value.pop(name)
    value["time"].pop("pace", None)
    return value, done.stderr.split().count("beside")


def test_side_by_side_nothing_but_time_is_another(sealed: Path, home: Path) -> None:
    alone, none = verify(sealed, home, worth="1e9")
    together, some = verify(sealed, home, worth="1e-9")
    assert alone == together
    assert alone["verdict"] == "VERIFIED"
    assert alone["comparison"] == "bitwise"
    assert (none, some > 2) == (0, True)
