"""What a thief has of an honest run: task, public settings and the published model, read from its directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polledger.core.config import decode_config
from polledger.core.records import Checkpoint, Final, Genesis
from polledger.errors import UsageError
from polledger.redteam.forge import part_of
from polledger.redteam.rewrite import read_records
from polledger.redteam.spoof import Target
from polledger.store.run import RunDirectory
from polledger.training.location import load_task_class, resolve_task
from polledger.verify.states import load_state


def target_of(path: Path, *, task: str, inputs: Mapping[str, str] | None = None) -> Target:
    """The published model of the finished run at ``path`` and what is public about how it was trained.

    Of the run's states only the model object of the last one is kept. Raises UsageError for a run that is not
    finished, Unavailable if its last state is not there.
    """
    run = RunDirectory.open(path)
    records = read_records(run)
    genesis, final = (records[0], records[-1]) if records else (None, None)
    if not isinstance(genesis, Genesis) or not isinstance(final, Final):
        raise UsageError(f"{path} is not finished: there is no published model to steal")
    last = next((record for record in records if record.index == final.checkpoint), None)
    if not isinstance(last, Checkpoint):
        raise UsageError(f"{path}: record {final.checkpoint} is no checkpoint")
    return Target(
        task=task,
        settings=settings_of(decode_config(genesis.config), load_task_class(resolve_task(task)).config),
        inputs=dict(inputs or {}),
        weights=part_of(load_state(run.objects, last.root).flat, final.object),
        steps=genesis.steps,
        every=genesis.every,
        warm=genesis.warm,
    )


def settings_of(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[str, ...]:
    """``--set`` arguments that turn ``defaults`` into ``config``."""
    return tuple(f"{key}={to_toml(value)}" for key, value in config.items() if defaults.get(key) != value)


def to_toml(value: Any) -> str:
    """A config value as TOML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {to_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)
