"""``polledger doctor``: does a task replay? Tried out on its first steps."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polledger.cli.options import (
    DeviceOption,
    InputOption,
    JsonOption,
    SeedOption,
    SettingsOption,
    StepsOption,
    TaskArgument,
    WorkersOption,
)
from polledger.cli.output import output
from polledger.core.text import one_line

if TYPE_CHECKING:
    from polledger.core.replay import IsolationReport
    from polledger.training.trial import Trial

EXAMPLES = (
    "Examples: `polledger doctor train.py`; `polledger doctor train.py:Mine --input data=DIR --every 20`."
)


def run(
    task: TaskArgument,
    every: Annotated[
        int | None,
        typer.Option("--every", metavar="K", help="Steps of each of the two intervals tried. Default: 10."),
    ] = None,
    steps: StepsOption = None,
    settings: SettingsOption = None,
    inputs: InputOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = 0,
    as_json: JsonOption = False,
) -> int:
    """Train the first steps of TASK and replay them in fresh processes, as a verifier would."""
    from polledger.cli.seal import chosen_settings
    from polledger.cli.sealing import Display, prints_to_stderr
    from polledger.errors import EXIT_CANNOT_PROCEED, EXIT_OK, EXIT_UNVERIFIABLE
    from polledger.training.overrides import parse_inputs
    from polledger.training.plan import SealOptions
    from polledger.training.trial import try_task

    with tempfile.TemporaryDirectory(prefix="polledger-doctor-") as place:
        options = SealOptions(
            task=task,
            run=Path(place) / "run",
            every=every,
            seed=seed,
            settings=chosen_settings(settings or [], steps),
            inputs=parse_inputs(inputs or ()),
            device=device,
            workers=workers,
        )
        with prints_to_stderr(), output.progress() as progress:
            display = Display(progress)
            trial = try_task(options, display)
    code = EXIT_UNVERIFIABLE if trial.found else EXIT_CANNOT_PROCEED if trial.skipped else EXIT_OK
    output.result(_fields(trial, display.warnings, code))
    for name, text in _rows(trial):
        output.text(f"{name:>9}  {one_line(text)}")
    output.sentence(_sentence(task, trial, display.warnings))
    return code


def _sentence(task: str, trial: "Trial", warnings: list[str]) -> str:
    if trial.found is not None:
        return f"a run of {task} could not be verified: {trial.found}"
    if trial.skipped is not None:
        return f"nothing is known of whether a run of {task} could be verified: {trial.skipped}"
    but = f", but: {warnings[0]}" if warnings else ""
    return f"the first steps of {task} replay bit for bit; polledger seal takes the same options{but}"


def _fields(trial: "Trial", warnings: list[str], code: int) -> dict[str, Any]:
    rehearsal = trial.rehearsal
    return {
        "schema": "polledger.doctor/1",
        "exit_code": code,
        "task": rehearsal.class_name,
        "kind": rehearsal.kind,
        "code_files": trial.code_files,
        "code_bytes": trial.code_bytes,
        "distributions": {item.name: item.version for item in rehearsal.distributions},
        "examples": trial.examples,
        "reading_seconds": _reading_seconds(trial),
        "state_bytes": rehearsal.state_bytes,
        "stored_bytes": _stored(trial) * rehearsal.state_bytes,
        "total_steps": trial.cadence.steps,
        "steps": trial.steps,
        "step_seconds": trial.step_seconds,
        "replay": "different" if trial.found else "skipped" if trial.skipped else "equal",
        "detail": trial.found or trial.skipped,
        "isolation": None if trial.isolation is None else asdict(trial.isolation),
        "warnings": warnings,
    }


def _rows(trial: "Trial") -> list[tuple[str, str]]:
    from polledger.core.report import counted
    from polledger.training.keeping import in_words

    rehearsal, cadence = trial.rehearsal, trial.cadence
    state, stored = rehearsal.state_bytes, _stored(trial)
    rows = [
        ("task", f"{rehearsal.class_name} ({rehearsal.kind}), {counted(cadence.steps, 'step')}"),
        ("code", f"{counted(trial.code_files, 'file')} of {in_words(trial.code_bytes)} would be committed"),
        ("data", _data(trial)),
        ("state", f"{in_words(state)}; a run would store {stored}, {in_words(stored * state)} in all"),
    ]
    if trial.step_seconds is not None:
        pace = trial.step_seconds
        rows.append(
            ("time", f"{_in_time(pace)} a step, {_in_time(pace * cadence.every)} for {cadence.every}")
        )
    rows.append(("replay", _replay(trial)))
    if trial.isolation is not None:
        rows.append(("isolation", _isolation(trial.isolation)))
    return rows


def _data(trial: "Trial") -> str:
    if trial.examples is None:
        return "the task's own batches: no verification can say which examples they were made of"
    seconds = _in_time(_reading_seconds(trial) or 0.0)
    return f"{trial.examples:,} examples, a few read twice alike; reading all takes about {seconds}"


def _replay(trial: "Trial") -> str:
    if trial.found is not None:
        return f"differs: {trial.found}"
    if trial.skipped is not None:
        return f"unknown: {trial.skipped}"
    return f"{trial.steps} steps in fresh processes, every bit the same"


def _isolation(taken: "IsolationReport") -> str:
    kept = {"files here": taken.files, "the network and other processes": taken.network}
    lacking = [name for name, is_kept in kept.items() if not is_kept]
    return (
        f"replays are not kept from {' and '.join(lacking)} here"
        if lacking
        else "replays see nothing else here"
    )


def _reading_seconds(trial: "Trial") -> float | None:
    return None if trial.examples is None else trial.examples * trial.rehearsal.seconds_per_example


def _stored(trial: "Trial") -> int:
    from polledger.training.keeping import stored_count

    return stored_count(trial.cadence)


def _in_time(seconds: float) -> str:
    """``seconds`` in three digits."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
