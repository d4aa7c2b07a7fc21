"""`polledger redteam`: what it prints, writes and exits with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polledger.cli.redteam import _conclude, _Trials, table_text
from polledger.errors import EXIT_CANNOT_PROCEED, EXIT_OK, EXIT_REFUTED, EXIT_USAGE
from polledger.redteam.spoof import Target
from polledger.redteam.table import lines_of
from tests.redteam.test_table import VERIFIED, row


def polledger(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "polledger.cli.app", *map(str, words)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ),
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="session")
def tried(
    honest: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The command with two spoofs, one of them a stated limit, and where its report and runs are."""
    place = tmp_path_factory.mktemp("redteam")
    words = (
        "--spoof",
        "18+deep",
        "--spoof",
        "16+unbound",
        "--report",
        place / "report",
        "--out",
        place / "runs",
    )
    return polledger("redteam", honest, *words, "--json"), place


def test_it_prints_one_object_of_a_stable_schema(tried: tuple[Any, Path]) -> None:
    done, _ = tried
    assert done.returncode == EXIT_OK, done.stderr
    value = json.loads(done.stdout)
    assert set(value) == {"schema", "exit_code", "target", "spoofs", "trials", "skipped"}
    assert (value["schema"], value["exit_code"], value["skipped"]) == ("polledger.redteam/1", 0, [])
    verdicts = {item["spoof"]: (item["verdicts"], item["limit"]) for item in value["spoofs"]}
    assert verdicts == {"16+unbound": ({"VERIFIED": 1}, True), "18+deep": ({"UNVERIFIABLE": 1}, False)}
    deep = next(item for item in value["trials"] if item["spoof"] == "18+deep")
    assert (deep["step"], deep["finding"], deep["reference"]) == (1, "parse", None)
    assert {
        "cost",
        "sample",
        "intervals",
        "opened",
        "bogus",
        "odds",
        "smallest",
        "parameters",
        "reached",
    } <= set(deep)


def test_the_last_line_says_what_verified_and_that_limits_foretold_it(tried: tuple[Any, Path]) -> None:
    done, _ = tried
    assert done.stderr.strip().splitlines()[-1] == "no spoof of 1 was VERIFIED; 1 verified as the limits say"


def test_it_writes_the_report_and_keeps_the_runs_where_asked(tried: tuple[Any, Path]) -> None:
    done, place = tried
    assert json.loads((place / "report" / "redteam.json").read_text()) == json.loads(done.stdout)
    assert "<!doctype html>" in (place / "report" / "redteam.html").read_text()
    assert sorted(path.name for path in (place / "runs").iterdir()) == ["0-0", "16+unbound-0", "18+deep-0"]


def test_mistakes_are_one_line_and_exit_two(honest: Path, tmp_path: Path) -> None:
    unknown = polledger("redteam", honest, "--spoof", "99")
    assert (unknown.returncode, unknown.stdout) == (EXIT_USAGE, "")
    assert unknown.stderr.startswith("polledger: there is no spoof '99': choose from 1, 2, 3")
    assert unknown.stderr.count("\n") == 1


def test_a_task_that_the_model_does_not_fit_is_said_once(honest: Path) -> None:
    other = polledger("redteam", honest, "--task", "polledger.examples.digits")
    assert (other.returncode, other.stdout) == (EXIT_USAGE, "")
    assert other.stderr.strip().splitlines()[-1].startswith("polledger: ")
    assert "could not be tried" not in other.stderr


def conclude(*rows: Any, crashed: bool = False, target: Target) -> int:
    trials = _Trials(target=target, directory=Path(), budget=1.0, keep=False)
    trials.rows = list(rows)
    trials.crashed = crashed
    return _conclude(trials, Path("R"), target, None)


def test_a_spoof_that_verifies_is_exit_one(target: Target) -> None:
    assert conclude(row(), target=target) == EXIT_OK
    assert conclude(row(), row(seed=1, **VERIFIED), target=target) == EXIT_REFUTED
    assert conclude(row(limit=True, **VERIFIED), target=target) == EXIT_OK


def test_nothing_tried_or_a_spoof_that_crashed_is_no_success(target: Target) -> None:
    assert conclude(target=target) == EXIT_CANNOT_PROCEED
    assert conclude(row(), crashed=True, target=target) == EXIT_CANNOT_PROCEED


def test_the_table_fits_eighty_columns() -> None:
    from rich.console import Console

    rows = [row(title="words " * 30, detail="x" * 200), row(spoof="24+0.05", **VERIFIED)]
    text = table_text(lines_of(rows), Console(width=80))
    assert max(map(len, text.splitlines())) <= 80
    assert "published verifier accepts" in text
