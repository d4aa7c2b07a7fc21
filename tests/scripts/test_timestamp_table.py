"""The table of verifiers is what its evidence says, and what the tools say that are here in the same versions."""

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("timestamp_table")


@pytest.fixture
def evidence(script: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((script.EVIDENCE / f"{script.NAME}.json").read_text())
    return found


def test_document_and_evidence_are_what_the_tools_say() -> None:
    words = [sys.executable, ROOT / "scripts" / "timestamp_table.py", "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_tool_of_another_version_is_not_held_against_the_evidence(
    script: Any, evidence: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "versions", lambda: {"polledger": evidence["versions"]["polledger"]})
    assert script.stale(evidence) == []
    bent = copy.deepcopy(evidence)
    for outcomes in bent["cases"].values():
        outcomes["openssl ts"] = "accepts"
    assert script.stale(bent) == ["timestamp-table.md is not what the evidence says"]


def test_what_polledger_says_is_always_held_against_it(
    script: Any, evidence: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "versions", dict)
    bent = copy.deepcopy(evidence)
    bent["cases"]["own/good-p256"]["polledger"] = "refuses"
    bent["cases"]["own/nonce-gone"] = bent["cases"].pop("own/nonce-other")
    assert script.stale(bent) == [
        "own/good-p256: polledger accepts, the evidence says refuses",
        "own/nonce-gone is gone",
        "own/nonce-other is not in the evidence",
        "timestamp-table.md is not what the evidence says",
    ]


def test_polledger_is_never_wrong_and_every_token_is_asked_about(
    script: Any, evidence: dict[str, Any]
) -> None:
    for name, outcomes in evidence["cases"].items():
        assert set(outcomes) == {"expect", *script.TOOLS}, name
        assert outcomes["polledger"] == ("accepts" if outcomes["expect"] == "valid" else "refuses"), name


def test_the_documents_count_the_tokens_as_the_table_does(evidence: dict[str, Any]) -> None:
    words = f"say to each of {len(evidence['cases'])} tokens"
    assert words in (ROOT / "docs" / "time.md").read_text(encoding="utf-8")
