"""The command line: one Typer application, one module per verb. Parse, call, print, exit.

Errors become one line (``polledger: …``), the exit code of their class and, with ``--json``, one object. Verb
modules import nothing heavy at the top, so that ``--help`` answers at once.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from polledger import __version__
from polledger.cli import (
    challenge,
    claim,
    compare,
    doctor,
    export,
    inspect,
    keygen,
    publish,
    redteam,
    renew,
    seal,
    timestamp,
    tsa,
    verify,
)
from polledger.cli import open as answering
from polledger.cli.defaults import Verb, name_variables, read_defaults, require_verb, verb_of, wants_json
from polledger.cli.output import open_streams, output, silence
from polledger.core.text import one_line
from polledger.errors import (
    EXIT_CANNOT_PROCEED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    PolledgerError,
    Unavailable,
)

app = typer.Typer(
    name="polledger",
    help="Proof of learning that holds up: seal a training run while it runs, verify it by replaying a sample.",
    epilog=(
        "Exit codes: 0 VERIFIED or done, 1 REFUTED or invalid, 2 usage, 3 UNVERIFIABLE, "
        "4 cannot proceed, 130 interrupted. Defaults of VERB --OPTION: the variable POLLEDGER_VERB_OPTION, or "
        "OPTION = … under [tool.polledger.VERB] in pyproject.toml, but for what decides a verdict."
    ),
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(
    "seal", cls=Verb, short_help="Train a task and seal the run while it trains.", epilog=seal.EXAMPLES
)(seal.run)
app.command(
    "doctor",
    cls=Verb,
    short_help="Try out whether a task replays, on its first steps.",
    epilog=doctor.EXAMPLES,
)(doctor.run)
app.command("verify", cls=Verb, short_help="Check a run and replay a sample of it.", epilog=verify.EXAMPLES)(
    verify.run
)
app.command(
    "challenge",
    cls=Verb,
    short_help="Ask a prover to open a sample of a run that you do not have.",
    epilog=challenge.EXAMPLES,
)(challenge.run)
app.command("open", cls=Verb, short_help="Answer a challenge with one file.", epilog=answering.EXAMPLES)(
    answering.run
)
app.command("compare", cls=Verb, short_help="Set two rival runs side by side.", epilog=compare.EXAMPLES)(
    compare.run
)
app.command("inspect", cls=Verb, short_help="Show what a run recorded.")(inspect.run)
app.command("claim", cls=Verb, short_help="Claim the model that a run ends with.", epilog=claim.EXAMPLES)(
    claim.run
)
app.command(
    "publish", cls=Verb, short_help="Put a claim where anyone can check it.", epilog=publish.EXAMPLES
)(publish.run)
app.command("export", cls=Verb, short_help="Print the inclusion proof of one record.")(export.run)
app.add_typer(timestamp.app, name="timestamp")
timestamp.app.command("renew", cls=Verb, epilog=renew.EXAMPLES)(renew.run)
app.add_typer(tsa.app, name="tsa")
app.command(
    "redteam",
    cls=Verb,
    short_help="Forge runs of a task in every known way, and verify each.",
    epilog=redteam.EXAMPLES,
)(redteam.run)
app.command("keygen", cls=Verb, short_help="Make an Ed25519 key.")(keygen.run)

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""The command-line parser's own usage error; Typer does not export it under a public name."""


def _print_version(wanted: bool) -> None:
    if wanted:
        output.text(f"polledger {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Only results, errors and the last sentence.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="More detail; tracebacks on internal errors.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    output.quiet = quiet
    output.verbose = verbose
    require_verb(context)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit the process with its code."""
    open_streams()
    words = _hoist(sys.argv[1:] if arguments is None else arguments)
    output.json = wants_json(words)
    with _terminable():
        code = _run(words)
    sys.exit(code)


def _run(words: list[str]) -> int:
    """The exit code of the command that ``words`` make; whatever stopped it has been said."""
    try:
        return _dispatch(words)
    except (KeyboardInterrupt, typer.Abort):
        return _report(words, "interrupted", EXIT_INTERRUPTED)
    except PolledgerError as error:
        return _report(words, str(error), error.exit_code)
    except _USAGE_ERROR as error:
        return _report(words, _usage_line(error), EXIT_USAGE)
    except OSError as error:
        output.trace()
        return _report(words, _os_line(error), EXIT_CANNOT_PROCEED)
    except Exception as error:
        output.trace()
        return _report(words, _internal_line(error), EXIT_CANNOT_PROCEED)


def _dispatch(words: list[str]) -> int:
    command = name_variables(typer.main.get_command(app))
    defaults = read_defaults(command, Path.cwd())
    for verb in verb_of(words)[:1]:
        output.json = output.json or bool(defaults.get(verb, {}).get("as_json"))
    try:
        code = command(words, prog_name="polledger", standalone_mode=False, default_map=defaults)
    except SystemExit as ended:
        # Typer leaves so after completion, with 0, and when the reader of its help went away, with 1: REFUTED's.
        if not ended.code:
            return EXIT_OK
        silence(sys.__stdout__ or sys.stdout)
        raise Unavailable("nothing more could be written: the reader went away") from ended
    if code == EXIT_INTERRUPTED and not output.concluded:
        # Typer turns an interrupt into a silent exit code.
        raise KeyboardInterrupt
    return code if isinstance(code, int) else EXIT_OK


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: with a sentence, and everything temporary removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _hoist(words: list[str]) -> list[str]:
    """Let ``--quiet`` and ``--verbose`` stand anywhere on the line, as users write them."""
    end = words.index("--") if "--" in words else len(words)
    globals_ = [word for word in words[:end] if word in ("--quiet", "--verbose")]
    return globals_ + [word for word in words[:end] if word not in globals_] + words[end:]


def _usage_line(error: Any) -> str:
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    return f"{error.format_message().rstrip('.')}{hint}"


def _os_line(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _internal_line(error: Exception) -> str:
    hint = "" if output.verbose else "; --verbose shows where"
    return f"internal error: {type(error).__name__}: {error}{hint}"


def _report(words: list[str], message: str, code: int) -> int:
    """Say what went wrong in one line, and as the command's JSON object if none was printed; the exit code again."""
    line = one_line(message)
    verb = "-".join(verb_of(words)) or "polledger"
    output.result({"schema": f"polledger.{verb}/1", "exit_code": code, "error": line})
    output.sentence(f"polledger: {line}")
    return code


if __name__ == "__main__":
    main()
