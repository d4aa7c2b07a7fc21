"""What the command line changes in a task: ``--set NAME=VALUE`` and ``--input NAME=PATH``. PROTOCOL 9."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polledger.core.encoding import INT_MAX
from polledger.core.optimizers import OPTIMIZERS
from polledger.core.schedule import DEFAULTS, SHAPES
from polledger.errors import UsageError
from polledger.training.location import nearest

_MISSING = object()


def apply_settings(
    config: Mapping[str, Any], settings: Sequence[str], *, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``config`` with every ``NAME=VALUE`` of ``settings`` applied.

    A value is TOML and has the type of its default (an integer will do for a float, a bare word for a
    string). ``known`` holds keys with their defaults that may be set although the task does not list them.
    Raises UsageError for an unknown name, naming near ones, and for a value of another type.
    """
    defaults = {**(known or {}), **config}
    changed = dict(config)
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"--set takes NAME=VALUE, not {setting!r}")
        if name not in defaults:
            listed = nearest(name, defaults) or f" (it has {', '.join(sorted(config)) or 'none'})"
            raise UsageError(f"the task's config has no {name!r}{listed}")
        changed[name] = _typed(name, _parse(text), text, defaults[name])
    return changed


def recipe_settings(config: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Keys that a recipe understands, with their defaults, for the optimizer and schedule that will be used.

    These may be set although the task's config leaves them out.
    """
    chosen = {key: config.get(key, "") for key in ("optimizer", "schedule")}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name.strip() in chosen:
            chosen[name.strip()] = text.strip().strip("\"'")
    _, shape = SHAPES.get(chosen["schedule"], (None, {}))
    return {**DEFAULTS, **shape, **OPTIMIZERS.get(chosen["optimizer"], {})}


def parse_inputs(pairs: Iterable[str]) -> dict[str, str]:
    """``NAME=PATH`` of ``--input`` as a mapping to absolute paths.

    Raises UsageError for another form, a name given twice, or a path that does not exist.
    """
    inputs: dict[str, str] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or not name or not path:
            raise UsageError(f"--input takes NAME=PATH, not {pair!r}")
        if name in inputs:
            raise UsageError(f"--input {name} is given twice")
        found = Path(path).expanduser()
        if not found.exists():
            raise UsageError(f"--input {name}: no such file or directory: {path}")
        inputs[name] = str(found.absolute())
    return inputs


def step_count(config: Mapping[str, Any]) -> int:
    """How many steps ``config`` asks for. Raises UsageError unless ``steps`` is an integer of at least 1."""
    steps = config.get("steps")
    if type(steps) is not int or steps < 1:
        found = "nothing" if steps is None else repr(steps)
        raise UsageError(f"the task's config needs 'steps', an integer of at least 1, found {found}")
    return steps


def _parse(text: str) -> Any:
    """The TOML value ``text`` stands for, or _MISSING. A line break would start a second key."""
    if "\n" in text or "\r" in text:
        return _MISSING
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return _MISSING


def _typed(name: str, value: Any, text: str, default: Any) -> Any:
    kind = list if isinstance(default, tuple) else type(default)
    if kind is str:
        return value if isinstance(value, str) else text
    if kind is float and type(value) is int and abs(value) <= INT_MAX:
        return float(value)
    if type(value) is not kind:
        raise UsageError(f"--set {name}={text}: expected a value of type {kind.__name__}, like {default!r}")
    return value
