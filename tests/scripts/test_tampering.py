"""What is tampered with is found, and the document tells of all of it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "tampering.py"


@pytest.fixture(scope="module")
def script() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("tampering")


def test_nothing_passes() -> None:
    words = ["--steps", "12", "--only", "page", "answer to a challenge"]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "14 tampered, 0 passed"
    # An empty file is nothing that the command reads.
    assert done.stdout.count("**UNVERIFIABLE**") == 8


@pytest.mark.parametrize(
    "found",
    [
        {"verdict": "VERIFIED", "sentence": "something"},
        {"verdict": "UNVERIFIABLE"},
        {"verdict": "UNVERIFIABLE", "sentence": "something", "page": "What this page can check holds"},
    ],
    ids=["verified", "nothing new", "nothing on the page"],
)
def test_what_nobody_objects_to_has_passed(script: Any, found: dict[str, str]) -> None:
    assert script.Row(kind="claim", change="all", **found).passed
    assert not script.Row(kind="claim", change="all", verdict="REFUTED", sentence="this").passed


def test_the_document_tells_of_everything_that_is_tampered_with(script: Any) -> None:
    rows = json.loads((ROOT / "docs" / "evidence" / "tampering.json").read_text("utf-8"))["rows"]
    cases = zip(
        script.KINDS, (script.CLAIMS, script.PROOFS, script.PAGES, script.ANSWERS, script.MODELS), strict=True
    )
    assert [(row["kind"], row["change"]) for row in rows] == [
        (kind, change) for kind, changes in cases for change in changes
    ]
    assert not [row for row in rows if script.Row(**row).passed]
