"""Where options that the command line leaves out come from: the environment, and pyproject.toml.

What decides a verdict never comes from a file that happens to lie here, and whatever else does is said aloud.
docs/decisions/0014.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from typer.core import TyperCommand

from polledger.cli.output import output
from polledger.errors import Unavailable, UsageError
from polledger.files import read_bounded

FILE: Final = "pyproject.toml"

_FILE_BYTES: Final = 1 << 20
"""Most that is read of the file: it may be another's."""

GLOBAL: Final = ("quiet", "verbose")
"""Options of the whole command line that the environment and the file may set."""

DECIDING: Final = {
    "challenge": frozenset({"policy", "sample"}),
    "verify": frozenset({"challenge", "model", "nonce", "policy", "sample", "task", "trust", "trust-code"}),
}
"""Options by verb that choose the sample, the bounds, the code or the model: whoever wrote a file near by must not."""

_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on"})
"""What switches a flag on from the environment, as the command-line parser has it."""


def name_variables(command: Any, prefix: str = "POLLEDGER") -> Any:
    """Let the environment name options as the command line does: ``--set`` of seal is ``POLLEDGER_SEAL_SET``."""
    for verb, inner in getattr(command, "commands", {}).items():
        name_variables(inner, f"{prefix}_{verb}".upper())
    top = prefix == "POLLEDGER"
    for name, parameter in _spelled(command).items():
        if not top or name in GLOBAL:
            parameter.envvar = f"{prefix}_{name}".upper().replace("-", "_")
            parameter.show_envvar = False
    return command


def verb_of(words: Sequence[str]) -> list[str]:
    """The verb that ``words`` name, with its second word where it has one; empty where they name none."""
    named = [word for word in words if not word.startswith("-")]
    return named[: 2 if named[:1] in (["timestamp"], ["tsa"]) else 1]


def wants_json(words: Sequence[str]) -> bool:
    """Whether the command line or the environment asks for JSON, which must be known before anything can fail."""
    end = words.index("--") if "--" in words else len(words)
    variable = "_".join(["POLLEDGER", *verb_of(words), "JSON"]).upper()
    return "--json" in words[:end] or os.environ.get(variable, "").strip().lower() in _TRUE


def read_defaults(command: Any, directory: Path) -> dict[str, Any]:
    """Defaults from ``[tool.polledger]`` and ``[tool.polledger.<verb>]`` of the pyproject.toml in ``directory``.

    Raises UsageError for a verb or an option that does not exist, a value of another kind, and an option that
    decides a verdict; Unavailable if the file cannot be read or is longer than 1 MiB.
    """
    path = directory / FILE
    if not path.is_file():
        return {}
    try:
        text = bytes(read_bounded(path, limit=_FILE_BYTES)).decode()
        tables = tomllib.loads(text).get("tool", {}).get("polledger", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{FILE} is not valid TOML: {error}") from None
    if not isinstance(tables, dict):
        raise UsageError(f"[tool.polledger] in {FILE} is not a table")
    switches = {name: value for name, value in tables.items() if name in GLOBAL}
    verbs = {name: value for name, value in tables.items() if name not in GLOBAL}
    options = {name: option for name, option in _spelled(command).items() if name in GLOBAL}
    return {
        **_values(options, f"[tool.polledger] in {FILE}", switches),
        **{verb: _verb_defaults(command, verb, table) for verb, table in verbs.items()},
    }


def _verb_defaults(command: Any, verb: str, table: Any) -> dict[str, Any]:
    if verb not in command.commands or not isinstance(table, dict):
        raise UsageError(f"[tool.polledger] in {FILE}: {verb} is not a table for a verb")
    where = f"[tool.polledger.{verb}] in {FILE}"
    deciding = sorted(set(table) & DECIDING.get(verb, frozenset()))
    if deciding:
        raise UsageError(f"{where}: --{deciding[0]} decides a verdict: give it on the command line")
    return _values(_spelled(command.commands[verb]), where, table)


def _values(options: Mapping[str, Any], where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """``table`` by the names that the parser has for the options."""
    unknown = sorted(set(table) - set(options))
    if unknown:
        raise UsageError(f"{where}: there is no option --{unknown[0]}")
    for name, value in table.items():
        kinds, wanted = _kinds(options[name])
        if type(value) not in kinds:
            raise UsageError(f"{where}: {name} takes {wanted}")
    return {options[name].name: value for name, value in table.items()}


def _kinds(option: Any) -> tuple[tuple[type, ...], str]:
    """TOML values that an option takes, and how to call them."""
    if option.is_flag:
        return (bool,), "true or false"
    if option.multiple:
        return (list,), "a list"
    return (str, int, float), "a string or a number"


def _spelled(command: Any) -> dict[str, Any]:
    """Parameters of one command by the name of their long option."""
    found = {}
    for parameter in command.params:
        long = [option[2:] for option in parameter.opts if option.startswith("--")]
        if long:
            found[long[0]] = parameter
    return found


def require_verb(context: Any) -> None:
    """Where the command line names no verb: print the help, and raise UsageError."""
    if context.invoked_subcommand is None:
        output.text(context.get_help().rstrip())
        raise UsageError("no command was given")


class Verb(TyperCommand):
    """A command that says which of its options a file set, and that ends in a result or an error, never by exiting."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. Raises Unavailable where what it runs exits or writes into a pipe that nobody reads."""
        _announce(ctx)
        try:
            return super().invoke(ctx)
        except SystemExit as ended:
            raise Unavailable(f"the command was ended from within, with {ended.code!r}") from ended
        except BrokenPipeError as error:
            # Typer would take it for our own reader that went away, and exit with the code of REFUTED.
            raise Unavailable("a process that this command talks to went away") from error


def _announce(context: Any) -> None:
    """Say what pyproject.toml set, unless the user asked for quiet: the file itself cannot."""
    root = context.find_root()
    quiet = output.quiet
    output.quiet = quiet and "quiet" not in _from_file(root)
    for words in [*_from_file(root).values(), *_from_file(context).values()]:
        output.note(f"{FILE} sets {words}")
    output.quiet = quiet


def _from_file(context: Any) -> dict[str, str]:
    """Options that the file set, as they would stand on the command line, by name."""
    found = {}
    for name, parameter in _spelled(context.command).items():
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name == "DEFAULT_MAP":
            found[name] = _as_words(name, context.params[parameter.name])
    return found


def _as_words(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--{name} to false"
    if isinstance(value, list | tuple):
        return " ".join(f"--{name} {item}" for item in value)
    return f"--{name} {value}"
