"""How a command speaks: people on standard error, results on standard output, one JSON object where asked.

A verb gets the process's :data:`output`. With ``--json`` standard output carries exactly one object, printed by
:meth:`Output.result` or, on failure, by :func:`polledger.cli.app.main`. Whoever reads may go away: a stream that
takes nothing more is silenced, and the command ends with the exit code it would have had.
"""

import errno
import io
import os
import sys
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from polledger.core.text import json_text, one_line, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def _lines(text: str) -> str:
    return "\n".join(shown(line) for line in text.split("\n"))


def open_streams() -> None:
    """Make the standard streams fit for any text, and put /dev/null where the caller closed one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            # In this order each takes its own number, so that no file of the run does.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Output:
    """Where a command writes. ``quiet`` silences everything but results, errors and the last sentence."""

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = False
        self.json = False
        self.emitted = False
        """True once a JSON object was printed: there is never a second one."""
        self.concluded = False
        """True once the last sentence was said."""

    def note(self, text: str) -> None:
        """One line of progress for people, on standard error; silent when quiet."""
        if not self.quiet:
            _write(sys.stderr, one_line(text))

    def detail(self, text: str) -> None:
        """Like :meth:`note`, only when verbose."""
        if self.verbose:
            self.note(text)

    def trace(self) -> None:
        """Where the error that is being handled came from, on standard error, when verbose."""
        if self.verbose:
            _write(sys.stderr, _lines(traceback.format_exc().rstrip()))

    def text(self, text: str) -> None:
        """A result for people, on standard output; silent with ``--json``. Line feeds are kept, nothing else acts."""
        if not self.json:
            _write(sys.stdout, _lines(text))

    def styled(self, text: str) -> None:
        """A result laid out for :meth:`console`, colours included: its values have been through :func:`one_line`."""
        if not self.json:
            _write(sys.stdout, text)

    def result(self, value: Mapping[str, object]) -> None:
        """The one JSON object of this command, when ``--json`` was given."""
        if self.json and not self.emitted:
            self.emitted = True
            _write(sys.stdout, json_text(value))

    def sentence(self, text: str) -> None:
        """The last line on standard error: one sentence, printed even when quiet."""
        self.concluded = True
        _write(sys.stderr, one_line(text))

    def ask(self, question: str) -> str:
        """The line that the user answers on the terminal; empty where none comes."""
        try:
            _write(sys.stderr, one_line(question), end=" ")
            return sys.stdin.readline()
        except KeyboardInterrupt:
            # The cursor stands behind the question.
            _write(sys.stderr, "")
            raise

    def console(self) -> "Console":
        """A rich console as wide and colourful as standard output, to lay out what :meth:`styled` prints."""
        from rich.console import Console

        # Laid out in memory: rich writes to its file even what it captures.
        terminal = sys.stdout.isatty() or None
        return Console(file=io.StringIO(), force_terminal=terminal, soft_wrap=False, highlight=False)

    def progress(self) -> "Progress":
        """A progress display on standard error; hidden when quiet or when that is no terminal."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
        )
        return Progress(
            *columns, console=console, transient=True, disable=self.quiet or not console.is_terminal
        )


def _write(stream: TextIO, text: str, *, end: str = "\n") -> None:
    """Write at once. A stream that takes nothing more takes /dev/null's place: the exit code is not its to decide."""
    try:
        print(text, end=end, file=stream, flush=True)
    except OSError as error:
        silence(stream)
        if error.errno != errno.EPIPE and stream is not sys.stderr:
            _write(sys.stderr, f"standard output cannot be written: {error.strerror}")


def silence(stream: TextIO) -> None:
    """Let ``stream`` lead nowhere, what it still holds included."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


output = Output()
"""The output of this process; :func:`polledger.cli.app.main` sets its switches before the verb runs."""
