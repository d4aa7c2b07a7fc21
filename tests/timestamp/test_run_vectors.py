"""Every run of the vectors gives the time that it says."""

import json
from base64 import b64decode
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from polledger.store.run import RunDirectory
from polledger.timestamp.trust import load_trust
from polledger.verify.evidence import read_evidence
from polledger.verify.heads import match_heads, parse_records
from polledger.verify.policy import load_policy
from polledger.verify.time import Times, step_time
from tests.timestamp.cases import VECTORS

CASES = [json.loads(path.read_text()) for path in sorted((VECTORS / "runs").glob("*.json"))]

every_run = pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])


def unpack(case: dict[str, Any], directory: Path) -> None:
    for name, data in case["files"].items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b64decode(data))


def judged(case: dict[str, Any], directory: Path) -> Times:
    evidence = read_evidence(RunDirectory.open(directory / "run"))
    heads = match_heads(evidence, parse_records(evidence))
    return step_time(
        heads,
        evidence.objects,
        trust=load_trust(directory / "trust.toml"),
        policy=load_policy(directory / "policy.toml"),
        now=datetime.fromisoformat(case["now"]),
        renewals=evidence.renewals,
    )


@every_run
def test_a_run_gives_the_expected_time(case: dict[str, Any], tmp_path: Path) -> None:
    unpack(case, tmp_path)
    found = judged(case, tmp_path)
    summary = found.summary
    assert (summary.assurance, summary.first, summary.last) == (
        case["assurance"],
        case["first"],
        case["last"],
    )
    # What was not checked for revocation is said of all of them.
    said = sorted((one for one in found.findings if one.name != "time.revocation"), key=lambda one: one.name)
    expected = sorted(case["findings"])
    assert [(one.name, one.outcome) for one in said] == [(name, outcome) for name, outcome, _ in expected]
    for one, (_, _, detail) in zip(said, expected, strict=True):
        assert detail in one.detail


def test_there_are_runs_that_are_right_and_others() -> None:
    assert {case["name"].startswith("good-") for case in CASES} == {True, False}
    assert len({case["name"] for case in CASES}) == len(CASES) >= 18
