"""docs/rival-claims.md is what its script wrote: every scene with its commands, and nothing of the machine."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from polledger.publish.compare import POSSESSION

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "rival-claims.md").read_text("utf-8")


@pytest.fixture(scope="module")
def script() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("rival_claims")


def test_every_scene_and_every_outcome_is_there(script: Any) -> None:
    headings = re.findall(r"^## (.*)$", DOCUMENT, re.MULTILINE)
    assert headings == [*script.SCENES, "What came of it"]
    for row in script.OUTCOMES:
        assert f"| {' | '.join(row)} |" in DOCUMENT
    assert len(script.SCENES) == len(script.PLAYED)


def test_every_comparison_ends_with_what_it_does_not_prove() -> None:
    sentences = re.findall(r"^compared: .*$", DOCUMENT, re.MULTILINE)
    assert len(sentences) == DOCUMENT.count("$ polledger compare ")
    assert all(sentence.endswith(POSSESSION) for sentence in sentences)


def test_nothing_of_the_machine_is_in_it() -> None:
    assert not re.search(r"/(tmp|work|dev|home|root)/", DOCUMENT)


def test_rows_of_a_table_are_kept_with_what_continues_them(script: Any) -> None:
    lines = [
        " 8 origin    pass    one",
        "                     more",
        " 9 replay    pass    two",
        "      time external",
    ]
    assert script._only(lines, ("8 origin",)) == lines[:2]
    assert script._only(lines, ("time",)) == lines[3:]
    assert script._only(lines, ()) == lines
