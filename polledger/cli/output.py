"""How a command speaks: people on standard error, results on standard output, one JSON object where asked.

A verb gets the process's :data:`output`. With ``--json`` standard output carries exactly one object, printed by
:meth:`Output.result` or, on failure, by :func:`polledger.cli.app.main`.
"""

import json
import math
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def one_line(text: str) -> str:
    """``text`` as one line that a terminal shows as it is: what evidence says may hold line feeds and escapes."""
    return "".join(
        part if part.isprintable() else part.encode("unicode_escape").decode()
        for part in " ".join(text.split())
    )


def json_text(value: dict[str, Any]) -> str:
    """``value`` as strict JSON in ASCII, readable: any text survives any terminal, any reader takes any number."""
    return json.dumps(_plain(value), allow_nan=False, indent=2)


def _plain(value: Any) -> Any:
    """``value`` with the floats that JSON has no number for as their names."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


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
            print(one_line(text), file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Like :meth:`note`, only when verbose."""
        if self.verbose:
            self.note(text)

    def text(self, text: str) -> None:
        """A result for people, on standard output; silent with ``--json``."""
        if not self.json:
            print(text, flush=True)

    def result(self, value: dict[str, Any]) -> None:
        """The one JSON object of this command, when ``--json`` was given."""
        if self.json and not self.emitted:
            self.emitted = True
            print(json_text(value), flush=True)

    def sentence(self, text: str) -> None:
        """The last line on standard error: one sentence, printed even when quiet."""
        self.concluded = True
        print(one_line(text), file=sys.stderr, flush=True)

    def console(self) -> "Console":
        """A rich console on standard output for reports."""
        from rich.console import Console

        return Console(soft_wrap=False, highlight=False)

    def progress(self) -> "Progress":
        """A progress display on standard error; hidden when quiet or when that is no terminal."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        return Progress(
            *columns, console=console, transient=True, disable=self.quiet or not console.is_terminal
        )


output = Output()
"""The output of this process; :func:`polledger.cli.app.main` sets its switches before the verb runs."""
