"""A report overwrites nothing but a report."""

import json
from pathlib import Path

import pytest

from polledger.errors import Unavailable, UsageError
from polledger.publish.directory import ReportDirectory

SCHEMA = "polledger.verify/1"
VALUE = {"schema": SCHEMA, "verdict": "VERIFIED"}


def place(path: Path, schema: str = SCHEMA) -> ReportDirectory:
    return ReportDirectory(path=path, page="report.html", twin="report.json", schema=schema)


def test_a_new_directory_gets_both_files(tmp_path: Path) -> None:
    directory = place(tmp_path / "deep" / "report")
    directory.prepare()
    assert list(directory.path.iterdir()) == []
    directory.write(VALUE, "<p>ä")
    assert json.loads((directory.path / "report.json").read_bytes()) == VALUE
    assert (directory.path / "report.json").read_bytes() == directory.twin_bytes(VALUE)
    assert (directory.path / "report.html").read_text("utf-8") == "<p>ä"
    assert sorted(path.name for path in directory.path.iterdir()) == ["report.html", "report.json"]


def test_an_earlier_report_is_replaced_and_what_lies_beside_it_stays(tmp_path: Path) -> None:
    place(tmp_path).write(VALUE, "old")
    (tmp_path / "notes.txt").write_text("mine")
    place(tmp_path).prepare()
    place(tmp_path).write(VALUE | {"verdict": "REFUTED"}, "new")
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "REFUTED"
    assert (tmp_path / "report.html").read_text() == "new"
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("report.html", "somebody's"),
        ("notes.txt", "somebody's"),
        ("report.json", "{}"),
        ("report.json", ""),
        ("report.json", '{"schema": "polledger.redteam/1"}'),
        ("report.json", "x" * 100_000),
        ("report.json", None),
    ],
)
def test_what_is_somebody_elses_is_refused_and_left_alone(
    tmp_path: Path, name: str, content: str | None
) -> None:
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match="name a new directory"):
        place(tmp_path).prepare()
    assert content is None or (tmp_path / name).read_text() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_a_report_of_another_command_is_somebody_elses(tmp_path: Path) -> None:
    place(tmp_path).write(VALUE, "page")
    with pytest.raises(UsageError):
        place(tmp_path, schema="polledger.redteam/1").prepare()


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_a_link_in_place_of_a_file_is_no_report(tmp_path: Path, name: str) -> None:
    other = tmp_path / "other"
    place(tmp_path / "dir").prepare()
    place(tmp_path / "dir").write(VALUE, "page")
    (tmp_path / "dir" / name).replace(other)
    (tmp_path / "dir" / name).symlink_to(other)
    with pytest.raises(UsageError):
        place(tmp_path / "dir").prepare()


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "file/deeper", "/proc/nowhere"):
        with pytest.raises(Unavailable, match="cannot write the report"):
            place(tmp_path / name).prepare()
