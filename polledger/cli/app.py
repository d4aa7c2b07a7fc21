"""The command line: one Typer application, one module per verb. Parse, call, print, exit.

Errors become one line (``polledger: …``), the exit code of their class and, with ``--json``, one object. Verb
modules import nothing heavy at the top, so that ``--help`` answers at once.
"""

import os
import sys
import tomllib
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from polledger import __version__
from polledger.cli import export, inspect, keygen, seal, timestamp, verify
from polledger.cli.output import one_line, output
from polledger.errors import (
    EXIT_CANNOT_PROCEED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    PolledgerError,
    UsageError,
)

app = typer.Typer(
    name="polledger",
    help="Proof of learning that holds up: seal a training run while it runs, verify it by replaying a sample.",
    epilog=(
        "Exit codes: 0 VERIFIED or done, 1 REFUTED or invalid, 2 usage, 3 UNVERIFIABLE, "
        "4 cannot proceed, 130 interrupted. Defaults of VERB --OPTION: the variable POLLEDGER_VERB_OPTION, or "
        "OPTION = … under [tool.polledger.VERB] in pyproject.toml."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("seal", short_help="Train a task and seal the run while it trains.", epilog=seal.EXAMPLES)(
    seal.run
)
app.command("verify", short_help="Check a run and replay a sample of it.", epilog=verify.EXAMPLES)(verify.run)
app.command("inspect", short_help="Show what a run recorded.")(inspect.run)
app.command("export", short_help="Print the inclusion proof of one record.")(export.run)
app.add_typer(timestamp.app, name="timestamp")
app.command("keygen", short_help="Make an Ed25519 key.")(keygen.run)

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""The command-line parser's own usage error; Typer does not export it under a public name."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"polledger {__version__}")
        raise typer.Exit


@app.callback()
def _options(
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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit the process with its code."""
    words = _hoist(sys.argv[1:] if arguments is None else arguments)
    output.json = "--json" in words
    try:
        command = _named_as_spelled(typer.main.get_command(app))
        defaults = _defaults(command, Path.cwd())
        code = command(words, prog_name="polledger", standalone_mode=False, default_map=defaults)
        if code == EXIT_INTERRUPTED and not output.concluded:
            # Typer turns an interrupt into a silent exit code.
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else EXIT_OK)
    except BrokenPipeError:
        # The reader of standard output went away; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_CANNOT_PROCEED)
    except (KeyboardInterrupt, typer.Abort):
        _report(words, "interrupted", EXIT_INTERRUPTED)
    except PolledgerError as error:
        _report(words, str(error), error.exit_code)
    except _USAGE_ERROR as error:
        _report(words, _usage_line(error), EXIT_USAGE)
    except OSError as error:
        _trace()
        _report(words, _os_line(error), EXIT_CANNOT_PROCEED)
    except Exception as error:
        _trace()
        _report(words, _internal_line(error), EXIT_CANNOT_PROCEED)


def _hoist(words: list[str]) -> list[str]:
    """Let ``--quiet`` and ``--verbose`` stand anywhere on the line, as users write them."""
    end = words.index("--") if "--" in words else len(words)
    globals_ = [word for word in words[:end] if word in ("--quiet", "--verbose")]
    return globals_ + [word for word in words[:end] if word not in globals_] + words[end:]


def _named_as_spelled(command: Any) -> Any:
    """Let the environment name options as the command line does: ``--set`` of seal is ``POLLEDGER_SEAL_SET``."""
    for verb, inner in command.commands.items():
        for name, parameter in _spelled(inner).items():
            parameter.envvar = f"POLLEDGER_{verb}_{name}".upper().replace("-", "_")
            parameter.show_envvar = False
    return command


def _spelled(command: Any) -> dict[str, Any]:
    """Parameters of one verb by the name of their long option."""
    found = {}
    for parameter in command.params:
        long = [option[2:] for option in parameter.opts if option.startswith("--")]
        if long:
            found[long[0]] = parameter
    return found


def _defaults(command: Any, directory: Path) -> dict[str, Any]:
    """Defaults per verb from ``[tool.polledger.<verb>]`` of the pyproject.toml in ``directory``.

    Raises UsageError for a verb or an option that does not exist.
    """
    path = directory / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("polledger", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name} is not valid TOML: {error}") from None
    if not isinstance(tables, dict):
        raise UsageError("[tool.polledger] in pyproject.toml is not a table")
    return {verb: _verb_defaults(command, verb, table) for verb, table in tables.items()}


def _verb_defaults(command: Any, verb: str, table: Any) -> dict[str, Any]:
    if verb not in command.commands or not isinstance(table, dict):
        raise UsageError(f"[tool.polledger] in pyproject.toml: {verb} is not a table for a verb")
    options = _spelled(command.commands[verb])
    unknown = sorted(set(table) - set(options))
    if unknown:
        raise UsageError(f"[tool.polledger.{verb}] in pyproject.toml: there is no option --{unknown[0]}")
    return {options[name].name: value for name, value in table.items()}


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


def _trace() -> None:
    if output.verbose:
        traceback.print_exc()


def _report(words: list[str], message: str, code: int) -> None:
    """Say what went wrong in one line, and as the command's JSON object if none was printed; exit."""
    line = one_line(message)
    named = [word for word in words if not word.startswith("-")]
    verb = "-".join(named[: 2 if named[:1] == ["timestamp"] else 1]) or "polledger"
    output.result({"schema": f"polledger.{verb}/1", "exit_code": code, "error": line})
    print(f"polledger: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
