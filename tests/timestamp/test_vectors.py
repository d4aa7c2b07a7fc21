"""Every vector, shared or our own, gives what it says, through the library and through the command."""

import filecmp
import subprocess
import sys
from pathlib import Path

import pytest

from polledger.timestamp.token import TokenRejected, verify_response
from tests.timestamp.cases import OWN, SHARED, VECTORS, Case
from tests.timestamp.conftest import Command
from tests.timestamp.defects.clauses import CLAUSES, clause_of

ROOT = Path(__file__).resolve().parents[2]
GIVEN = ROOT.parent / "shared" / "vectors" / "timestamp"

every_case = pytest.mark.parametrize("case", [*SHARED, *OWN], ids=lambda case: case.name)


@every_case
def test_library_gives_the_expected_outcome(case: Case) -> None:
    if case.valid:
        timestamp = verify_response(case.response(), **case.arguments())
        assert timestamp.imprint.hex() == case.fields["digest"]
        assert timestamp.nonce == case.fields["nonce"]
        assert timestamp.policy == case.fields["policy"]
    else:
        with pytest.raises(TokenRejected) as rejected:
            verify_response(case.response(), **case.arguments())
        assert case.fields.get("error", "") in str(rejected.value)


@every_case
def test_command_gives_the_expected_outcome(case: Case, command: Command) -> None:
    done = command("timestamp", "verify", *case.words(), "--json")
    result = done.json()
    assert done.code == result["exit_code"] == (0 if case.valid else 1)
    assert result["schema"] == "polledger.timestamp-verify/1"
    assert result["valid"] is case.valid
    if case.valid:
        assert result["digest"] == case.fields["digest"]
        assert int(result["nonce"], 16) == case.fields["nonce"]
    else:
        assert case.fields.get("error", "") in result["error"]
    assert done.err.count("\n") == 1


def test_there_are_cases_of_both_kinds() -> None:
    for cases in (SHARED, OWN):
        assert {case.valid for case in cases} == {True, False}


def test_every_case_has_its_clause_and_no_clause_is_left_over() -> None:
    assert all(case.fields["clause"] == clause_of(case.fields["name"]) for case in OWN)
    decided = [clause_of(case.fields["name"]) for case in (*SHARED, *OWN)]
    assert set(decided) == set(CLAUSES.values())


@pytest.mark.skipif(not GIVEN.is_dir(), reason="../shared/vectors/timestamp is not on this machine")
def test_shared_vectors_are_copied_unchanged() -> None:
    names = sorted(path.name for path in GIVEN.iterdir())
    assert filecmp.cmpfiles(GIVEN, VECTORS / "shared", names, shallow=False)[0] == names


def test_own_vectors_are_what_the_generator_makes() -> None:
    script = ROOT / "scripts" / "make_timestamp_vectors.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
