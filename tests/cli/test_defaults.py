"""Defaults from the environment and from a pyproject.toml that lies in the working directory. Decision 0014."""

from pathlib import Path

import pytest

from polledger.cli.output import output
from tests.cli.conftest import Command
from tests.verify.build import Built


def write(here: Path, text: str) -> None:
    (here / "pyproject.toml").write_text(text)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("nonce", '"' + "5e" * 32 + '"'),
        ("policy", '"lax.toml"'),
        ("task", '"train.py"'),
        ("sample", "1"),
        ("model", '"other.safetensors"'),
        ("trust", '"mine.toml"'),
        ("trust-code", '"' + "ab" * 32 + '"'),
    ],
)
def test_a_file_near_by_never_decides_a_verdict(
    command: Command, sealed: Built, here: Path, option: str, value: str
) -> None:
    write(here, f"[tool.polledger.verify]\n{option} = {value}\n")
    said = command("verify", sealed.run.path, "--json")
    assert said.code == 2
    assert f"--{option} decides a verdict: give it on the command line" in said.last
    assert said.json["error"] == said.last.removeprefix("polledger: ")


def test_what_a_file_sets_is_said(command: Command, sealed: Built, here: Path) -> None:
    write(here, '[tool.polledger.verify]\nno-scan = true\ninput = ["a=.", "b=."]\n')
    said = command("verify", sealed.run.path, "--sample", 2)
    for words in ("--no-scan", "--input a=. --input b=."):
        assert f"pyproject.toml sets {words}\n" in said.err
    assert "2 of 5 intervals drawn" in said.out


def test_what_the_command_line_says_goes_before_the_file(command: Command, sealed: Built, here: Path) -> None:
    write(here, '[tool.polledger.verify]\nreport = "theirs"\n')
    said = command("verify", sealed.run.path, "--sample", 3, "--report", "mine")
    assert "pyproject.toml" not in said.err
    assert (here / "mine").exists()
    assert not (here / "theirs").exists()


def test_a_file_cannot_silence_what_is_said_about_it(command: Command, sealed: Built, here: Path) -> None:
    write(here, "[tool.polledger]\nquiet = true\n[tool.polledger.verify]\nno-scan = true\n")
    said = command("verify", sealed.run.path, "--no-replay")
    assert said.out == ""
    assert said.err.splitlines()[:2] == ["pyproject.toml sets --quiet", "pyproject.toml sets --no-scan"]
    assert len(said.err.splitlines()) == 3
    assert len(command("verify", sealed.run.path, "--no-replay", "--quiet").err.splitlines()) == 1


def test_a_file_asks_for_json_also_where_the_command_fails(
    command: Command, sealed: Built, here: Path
) -> None:
    write(here, "[tool.polledger.inspect]\njson = true\n")
    assert command("inspect", sealed.run.path).json["exit_code"] == 0
    assert command("inspect", "nowhere").json["exit_code"] == 2
    assert command("inspect").json["exit_code"] == 2


def test_the_environment_asks_for_json_also_where_the_command_fails(
    command: Command, sealed: Built, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLLEDGER_VERIFY_JSON", "1")
    monkeypatch.setenv("POLLEDGER_TIMESTAMP_RETRY_JSON", "yes")
    assert command("verify", sealed.run.path, "--no-replay").json["exit_code"] == 3
    assert command("verify", "nowhere").json["exit_code"] == 2
    assert command("timestamp", "retry", "nowhere").json["schema"] == "polledger.timestamp-retry/1"
    assert command("inspect", "nowhere").out == ""
    write(here, "[tool.polledger\n")
    assert "TOML" in command("verify", sealed.run.path).json["error"]


def test_a_word_behind_two_dashes_is_no_option(command: Command, here: Path) -> None:
    assert command("inspect", "--", "--json").out == ""


@pytest.mark.parametrize("name", ["quiet", "verbose"])
def test_global_options_come_from_environment_and_file_as_well(
    command: Command, sealed: Built, here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    command("inspect", sealed.run.path)
    assert not getattr(output, name)
    with monkeypatch.context() as changed:
        changed.setenv(f"POLLEDGER_{name.upper()}", "1")
        command("inspect", sealed.run.path)
        assert getattr(output, name)
    write(here, f"[tool.polledger]\n{name} = true\n")
    command("inspect", sealed.run.path)
    assert getattr(output, name)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('[tool.polledger]\nquiet = "yes"\n', "quiet takes true or false"),
        ("[tool.polledger]\nversion = true\n", "version is not a table for a verb"),
        ("[tool.polledger.inspect]\njson = 1\n", "json takes true or false"),
        ('[tool.polledger.seal]\nset = "lr=1"\n', "set takes a list"),
        ("[tool.polledger.seal]\nevery = true\n", "every takes a string or a number"),
        ("[tool.polledger.seal]\nevery = [4]\n", "every takes a string or a number"),
    ],
)
def test_values_of_another_kind_are_refused(command: Command, here: Path, text: str, hint: str) -> None:
    write(here, text)
    said = command("inspect", "nowhere")
    assert said.code == 2
    assert hint in said.last


def test_a_file_near_by_is_read_with_a_bound(command: Command, here: Path) -> None:
    write(here, "#" * (1 << 20) + "\n")
    said = command("inspect", "nowhere")
    assert said.code == 4
    assert "at most 1048576 are expected" in said.last


def test_a_file_nested_beyond_reason_is_no_valid_one(command: Command, here: Path) -> None:
    write(here, "a = " + "[" * 100_000 + "\n")
    said = command("inspect", "nowhere")
    assert said.code == 2
    assert "is not valid TOML" in said.last
