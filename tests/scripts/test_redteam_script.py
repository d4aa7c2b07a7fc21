"""The red team's table: what was tried is kept and read again, and nothing is tried twice."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module("redteam")
    sys.modules.pop("redteam", None)


def attempt(**values: Any) -> dict[str, Any]:
    plain = {
        "task": "polledger.examples.mlp",
        "kind": "mlp",
        "spoof": "9",
        "seed": 0,
        "code": "0",
        "verdict": "REFUTED",
        "step": 9,
        "finding": "replay",
        "detail": "too far",
        "cost": 1.0,
        "reference": None,
        "shipped": None,
        "sample": 20,
        "intervals": 1000,
        "opened": 23,
        "bogus": 1,
        "odds": 0.02,
        "flagged": 2,
        "every": 1,
        "worst_e_u": "inf",
        "parameters_e_u": 1.0,
        "reached": {"wt": 0.5},
        "note": "",
    }
    return {**plain, **values}


def test_what_was_tried_is_read_again_in_the_order_of_the_catalogue(script: Any, tmp_path: Path) -> None:
    tried = [attempt(seed=1), attempt(spoof="1", seed=0), attempt(seed=0), attempt(spoof="gone")]
    script.save(tried, tmp_path)
    found = script.read_attempts(tmp_path)
    assert [(item["spoof"], item["seed"]) for item in found] == [("1", 0), ("9", 0), ("9", 1)]
    value = json.loads((tmp_path / "redteam.json").read_text())
    assert {"method", "machine", "kinds", "spoofs", "attempts"} <= set(value)
    (one, nine) = script.lines_of(script.rows_of(found))
    assert (one.trials, nine.trials, nine.detected, nine.smallest) == (1, 2, 2, float("inf"))


def test_nothing_is_tried_twice_unless_other_code_was(script: Any, tmp_path: Path) -> None:
    done = [attempt(spoof=name, code=script.code()) for name in ("0", *script.QUICK)]
    script.save(done, tmp_path)
    options = script.parse(["--quick", "--out", str(tmp_path)])
    assert script.due(options, tmp_path, {script.key_of(item): item for item in done}) == []
    old = {script.key_of(item): {**item, "code": "older"} for item in done}
    assert script.due(options, tmp_path, old) == []
    again = script.parse(["--quick", "--again", "--out", str(tmp_path)])
    assert [job.spoof for job in script.due(again, tmp_path, old)] == ["0", *script.QUICK]


def test_every_thief_tries_everything_before_the_next_one(script: Any, tmp_path: Path) -> None:
    options = script.parse(["--tasks", "mlp", "conv", "--spoofs", "1", "--out", str(tmp_path)])
    jobs = [(job.seed, job.kind, job.spoof) for job in script.jobs_of(options, tmp_path)]
    assert jobs[:4] == [(0, "mlp", "0"), (0, "mlp", "1"), (0, "conv", "0"), (0, "conv", "1")]
    assert jobs[-1] == (19, "mlp", "1")
    assert len(jobs) == 2 * (20 + 3)


def test_a_verified_spoof_stands_under_its_table(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free = {"verdict": "VERIFIED", "step": None, "finding": "", "worst_e_u": None, "parameters_e_u": None}
    script.print_tables([attempt(), attempt(spoof="7", **free), attempt(spoof="0", **free)])
    printed = capsys.readouterr().out
    assert "VERIFIED without being a stated limit: 7\n" in printed
    assert (
        "| 9 | one jump | 1 REFUTED | step 9 (replay) | 1.00 [0.03, 1.00] | 20 of 1000, 1 | 0.02 |" in printed
    )
    assert "3 of 3 trials were made by other code than this" in printed


@pytest.mark.slow
def test_quick_tries_a_few_and_the_control_verifies(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--quick", "--out", str(tmp_path)]) == 0
    verdicts = {item["spoof"]: item["verdict"] for item in script.read_attempts(tmp_path)}
    assert verdicts == {
        "0": "VERIFIED",
        "1": "REFUTED",
        "13+2": "REFUTED",
        "14+fork": "REFUTED",
        "18+deep": "UNVERIFIABLE",
    }
    assert "VERIFIED without being a stated limit: none" in capsys.readouterr().out
