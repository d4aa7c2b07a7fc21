"""What reaches a terminal, and what happens where nobody reads any more."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from polledger.cli.defaults import Verb
from polledger.cli.output import Output
from polledger.core.text import json_text
from polledger.errors import Unavailable
from tests.verify.build import Built

MODULE = [sys.executable, "-m", "polledger.cli.app"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def piped(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run ``polledger``, standard output to the descriptor given; returns exit code and standard error."""

    def run(*words: object, stdout: int, stderr: int = subprocess.PIPE) -> tuple[int, str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLLEDGER_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [*MODULE, *map(str, words)], env=environment, stdout=stdout, stderr=stderr, text=True, check=False
        )
        return done.returncode, done.stderr or ""

    return run


@pytest.fixture
def unread() -> Iterator[int]:
    """The writing end of a pipe whose reader went away."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_reader_that_goes_away_changes_no_verdict(
    piped: Callable[..., tuple[int, str]], sealed: Built, unread: int, words: list[str]
) -> None:
    code, said = piped("verify", sealed.run.path, *words, stdout=unread)
    assert code == 3
    assert said.splitlines()[-1].startswith("UNVERIFIABLE: ")


def test_nobody_who_reads_at_all_changes_no_verdict(
    piped: Callable[..., tuple[int, str]], sealed: Built, unread: int
) -> None:
    assert piped("verify", sealed.run.path, stdout=unread, stderr=unread)[0] == 3
    assert piped("inspect", sealed.run.path, stdout=unread, stderr=unread)[0] == 0
    assert piped("inspect", "nowhere", stdout=unread, stderr=unread)[0] == 2
    words = ("--verbose", "verify", sealed.run.path, "--model", "x" * 300)
    assert piped(*words, stdout=unread, stderr=unread)[0] == 4


def test_a_full_disk_is_said_and_changes_no_verdict(
    piped: Callable[..., tuple[int, str]], sealed: Built
) -> None:
    with open("/dev/full", "w") as full:
        code, said = piped("verify", sealed.run.path, stdout=full.fileno())
    assert code == 3
    assert "standard output cannot be written: No space left on device" in said
    assert said.splitlines()[-1].startswith("UNVERIFIABLE: ")


def test_help_that_nobody_reads_does_not_end_with_the_code_of_refuted(
    piped: Callable[..., tuple[int, str]], unread: int
) -> None:
    code, said = piped("verify", "--help", stdout=unread)
    assert code == 4
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "named"),
    [(SystemExit(1), "from within"), (SystemExit(0), "from within"), (BrokenPipeError(32, "x"), "went away")],
)
def test_a_verb_cannot_exit_on_its_own(error: BaseException, named: str) -> None:
    app = typer.Typer()

    @app.command(cls=Verb)
    def ends() -> None:
        raise error

    with pytest.raises(Unavailable, match=named):
        typer.main.get_command(app)([], standalone_mode=False)


def test_streams_that_the_caller_closed_take_nothing(sealed: Built, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLLEDGER_HOME": str(tmp_path / "home")}
    words = " ".join([*MODULE, "inspect", str(sealed.run.path), "--json"])
    for closed in ("2>&-", "<&-", "<&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f"{words} {closed}"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0
        assert done.stdout.startswith("{")
        assert done.stdout.endswith("}\n")
    done = subprocess.run(
        ["sh", "-c", f"{words} >&-"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_a_narrow_encoding_takes_any_text(sealed: Built, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "POLLEDGER_HOME": str(tmp_path / "home"),
        "PYTHONIOENCODING": "ascii",
    }
    place = tmp_path / "größe"
    place.mkdir()
    for words in (["keygen", "-o", place / "k.pem"], ["verify", sealed.run.path, "--model", place]):
        done = subprocess.run(
            [*MODULE, *map(str, words)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 2)
        assert "gr\\xf6\\xdfe" in done.stderr
    done = subprocess.run(
        [*MODULE, "verify", str(sealed.run.path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "\\u2026" in done.stdout


def test_results_hold_line_feeds_and_no_other_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    Output().text("first\x1b[2J\r\x9b\nsecond\x07\u202e größe ν")
    assert capsys.readouterr().out == "first\\x1b[2J\\r\\x9b\nsecond\\x07\\u202e größe ν\n"


def test_json_is_printable_ascii() -> None:
    text = json_text({"a": "".join(map(chr, range(0x250)))})
    assert text.replace("\n", "").isprintable()
    assert text.isascii()


def test_the_progress_display_takes_names_as_they_are() -> None:
    progress = Output().progress()
    progress.add_task("[b]loading", total=None, note="[/] [red]loss 3")
    shown = " ".join(str(column.render(progress.tasks[0])) for column in progress.columns)
    assert "[b]loading" in shown
    assert "[/] [red]loss 3" in shown
