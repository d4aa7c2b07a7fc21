"""``polledger compare``: two rivals in text and JSON."""

import json
from pathlib import Path

from polledger.publish.compare import POSSESSION
from tests.cli.conftest import Command
from tests.verify.build import Built, Spec, make_run


def test_text_has_both_sides_and_what_it_does_not_show(
    command: Command, sealed: Built, tmp_path: Path
) -> None:
    other = make_run(tmp_path / "other", Spec(seed=9))
    said = command("compare", sealed.run.path, other.run.path, "--no-replay")
    assert said.code == 0
    words = " ".join(said.out.split())
    for part in (
        "A B",
        "not replayed",
        "Between them",
        "apart: l2 distance",
        "What this does not show",
        "w float32",
    ):
        assert part in words
    assert POSSESSION.capitalize() in words
    assert said.last.startswith("compared: ")
    assert said.last.endswith(POSSESSION)


def test_json_is_one_object_with_the_exit_code(command: Command, sealed: Built) -> None:
    # Neither side's code is at hand: that is said, and is the exit code.
    said = command("compare", sealed.run.path, sealed.run.path, "--json", "--nonce", "5e" * 16)
    found = said.json
    assert (said.code, found["exit_code"], found["schema"]) == (3, 3, "polledger.compare/1")
    assert found["nonce"] == "5e" * 16
    assert [text[:23] for text in found["missing"]] == ["A: nothing was replayed", "B: nothing was replayed"]
    assert found["binding"]["relation"] == "exact"


def test_what_is_no_run_is_a_usage_error(command: Command, sealed: Built, tmp_path: Path) -> None:
    said = command("compare", sealed.run.path, tmp_path / "nowhere", "--json")
    assert said.code == 2
    assert said.json["schema"] == "polledger.compare/1"
    assert "does not exist" in said.json["error"]


def test_a_report_is_a_page_and_its_twin_in_a_directory_of_its_own(
    command: Command, sealed: Built, tmp_path: Path
) -> None:
    target = tmp_path / "report"
    words = ("compare", sealed.run.path, sealed.run.path, "--no-replay", "--nonce", "5e" * 16)
    said = command(*words, "--report", target, "--json")
    assert said.code == 0
    assert json.loads((target / "compare.json").read_text()) == said.json
    assert "Two rivals compared" in (target / "index.html").read_text()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("x")
    refused = command(*words, "--report", tmp_path / "theirs")
    assert refused.code == 2
    assert "is not empty" in refused.last
