"""What ``polledger seal`` says at its end: how the run ended, and the command for what comes next."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from polledger.cli.output import output
from polledger.cli.sealing import describe_metrics
from polledger.core.text import one_line
from polledger.errors import EXIT_INTERRUPTED, EXIT_OK
from polledger.store.run import RunDirectory, hinted_origin

if TYPE_CHECKING:
    from polledger.training.plan import SealOptions, SealResult

NOTABLE = 0.01
"""Share of the time that training waits for sealing from which on it is said."""


def resume_command(options: "SealOptions") -> str:
    """The command line that continues the run."""
    from polledger.training.stamping import shown

    words = ["polledger", "seal", options.task, "--run", str(options.run)]
    words += ["--key", str(options.key)] if options.key is not None else []
    words += [word for name, path in options.inputs.items() for word in ("--input", f"{name}={path}")]
    # A URL with credentials is not shown; the run remembers what it was begun with.
    words += [word for name in options.authorities if shown(name) == name for word in ("--tsa", name)]
    words += [word for name in options.witnesses if "://" not in name for word in ("--witness", name)]
    words += ["--device", options.device] if options.device is not None else []
    return shlex.join([*words, "--resume"])


def verify_command(options: "SealOptions", inputs: Mapping[str, str]) -> str:
    """The command line that verifies the run, its task's code allowed to run and its data at hand."""
    words = ["polledger", "verify", str(options.run)]
    if not options.task.startswith("polledger."):
        words += ["--task", options.task]
    words += [word for name, path in inputs.items() for word in ("--input", f"{name}={path}")]
    words += ["--parent", str(options.parent)] if options.parent is not None else []
    words += ["--external", str(options.external)] if options.external is not None else []
    return shlex.join(words)


def report(options: "SealOptions", result: "SealResult", warnings: list[str]) -> int:
    code = EXIT_INTERRUPTED if result.interrupted else EXIT_OK
    # A resumed run is not told again what it starts from; where a parent lies verify knows by itself.
    external = options.external or hinted_origin(RunDirectory.open(result.run), "external")
    verify = verify_command(replace(options, external=external), result.inputs)
    again = resume_command(options) if result.interrupted else None
    output.result(
        {
            "schema": "polledger.seal/1",
            "exit_code": code,
            "run": result.run_id.hex(),
            "directory": str(result.run),
            "kind": result.kind,
            "steps": result.steps,
            "total": result.total,
            "trained": result.trained,
            "finished": not result.interrupted,
            "model_root": None if result.model_root is None else result.model_root.hex(),
            "metrics": {
                name: value if math.isfinite(value) else None for name, value in result.metrics.items()
            },
            "timestamps_waiting": result.waiting,
            "timestamps_pending": [one.to_json() for one in result.pending],
            "witnesses_pending": [one.to_json() for one in result.unwitnessed],
            "seconds_waited": round(result.blocked, 3),
            "seconds": round(result.seconds, 3),
            "warnings": warnings,
            "verify": verify,
            "resume": again,
        }
    )
    if result.blocked > max(1.0, NOTABLE * result.seconds):
        output.note(
            f"training waited {result.blocked:.1f} of {result.seconds:.1f} s for sealing, which was slower: a larger "
            "--every or --keep costs less"
        )
    _note_waiting(result)
    output.text(again if again is not None else verify)
    output.sentence(_sentence(result))
    return code


def _note_waiting(result: "SealResult") -> None:
    """Which authorities have not answered, since when and why, and what asks again."""
    from polledger.core.report import counted
    from polledger.core.reportwords import waiting_rows

    if not result.pending and not result.unwitnessed:
        return
    for _, said in waiting_rows(result.pending):
        output.note(one_line(f"no token yet: {said}"))
    for _, said in waiting_rows(result.unwitnessed):
        output.note(one_line(f"not cosigned yet: {said}"))
    retry = shlex.join(["polledger", "timestamp", "retry", str(result.run)])
    left = [counted(result.waiting, "timestamp")] if result.pending else []
    left += [counted(len(result.unwitnessed), "cosignature")] if result.unwitnessed else []
    output.note(f"{' and '.join(left)} to come: `{retry}` asks again")


def _sentence(result: "SealResult") -> str:
    """The end of the run in words. The command for what comes next is the line above, except with ``--json``."""
    if result.interrupted:
        done = f"interrupted after step {result.steps} of {result.total}; everything so far is sealed"
        return f"{done}{_pointer('continues it')}"
    if not result.trained:
        done = f"{result.run} is finished: all {result.total} steps were sealed before"
        return f"{done}{_pointer('verifies it')}"
    metrics = describe_metrics(result.metrics)
    ended = f", ending at {metrics}" if metrics else ""
    return f"sealed {result.total} steps in {result.run}{ended}{_pointer('verifies the run')}"


def _pointer(does: str) -> str:
    return "" if output.json else f"; the line above {does}"
