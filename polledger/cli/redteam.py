"""``polledger redteam``: forge runs of a task in every way this project knows, and see what becomes of them."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polledger.cli.options import JsonOption
from polledger.cli.output import output
from polledger.core.text import one_line
from polledger.errors import (
    EXIT_CANNOT_PROCEED,
    EXIT_OK,
    EXIT_REFUTED,
    PolledgerError,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from polledger.publish.directory import ReportDirectory
    from polledger.redteam.spoof import Outcome, Spoof, Target
    from polledger.redteam.table import Line, Row

SCHEMA = "polledger.redteam/1"

EXAMPLES = (
    "Examples: `polledger redteam R`; `polledger redteam R --spoof 2 --spoof 6+scheduled --seeds 3`; "
    "`polledger redteam R --task train.py --input data=DIR --report OUT --json`. "
    "Exit code 1: a spoof was VERIFIED."
)

PAGE, OBJECT = "redteam.html", "redteam.json"


def run(
    path: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A finished run, whose model is the loot.", show_default=False),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="The task's code, which runs in this process. Needed unless it is polledger's own.",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=PATH", help="Where data lies.")
    ] = None,
    spoofs: Annotated[
        list[str] | None,
        typer.Option(
            "--spoof",
            metavar="NUMBER",
            help="A spoof by number, or by number and variant, like 2+1. Default: all that write few states.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=1, help="Thieves that try each spoof.")
    ] = 1,
    budget: Annotated[
        float,
        typer.Option(
            "--budget",
            metavar="X",
            min=0.0,
            help="What a spoof that optimises may spend, in honest trainings.",
        ),
    ] = 1.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Keep the forged runs in this new directory. Default: none kept."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help=f"Directory for {PAGE} and {OBJECT}.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Steal RUN's model: forge runs that end in it in every known way, and verify each as an auditor would.

    An honest run is forged first in the same way: it has to verify.
    """
    from polledger.redteam.catalogue import chosen
    from polledger.training.overrides import parse_inputs

    wanted = chosen(spoofs or ())
    target = _target(path.expanduser(), task, parse_inputs(inputs or []))
    place = _report_directory(report) if report is not None else None
    with _directory(out) as directory:
        tried = _Trials(target=target, directory=directory, budget=budget, keep=out is not None)
        with output.progress() as progress:
            tried.control(progress)
            tried.run(wanted, seeds, progress)
    return _conclude(tried, path, target, place)


def _target(run: Path, task: str | None, inputs: dict[str, str]) -> "Target":
    from polledger.redteam.target import target_of
    from polledger.store.run import RunDirectory

    hint = RunDirectory.open(run).read_hints().get("task")
    hinted = hint if isinstance(hint, str) else None
    if task is None and not (hinted or "").startswith("polledger."):
        raise UsageError(
            f"forging would run the task's code in this process: give it with --task{_such_as(hinted)}"
        )
    return target_of(run, task=task or hinted or "", inputs=inputs)


def _such_as(hinted: str | None) -> str:
    return f", such as --task {one_line(hinted)}" if hinted else ""


def _report_directory(directory: Path) -> "ReportDirectory":
    from polledger.publish.directory import ReportDirectory

    place = ReportDirectory(path=directory, page=PAGE, twin=OBJECT, schema=SCHEMA)
    place.prepare()
    return place


@contextlib.contextmanager
def _directory(out: Path | None) -> Iterator[Path]:
    """Where forged runs go: ``out``, made new, or a place that is cleared away."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="polledger-redteam-") as name:
            yield Path(name)
        return
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"--out {out} exists: name a new directory") from None
    except OSError as error:
        raise Unavailable(f"cannot make {out}: {error.strerror or error}") from None
    yield out


class _Trials:
    """Tries spoofs one after another and keeps what became of them."""

    def __init__(self, *, target: "Target", directory: Path, budget: float, keep: bool) -> None:
        self.rows: list[Row] = []
        self.skipped: list[dict[str, Any]] = []
        self.crashed = False
        """True if a spoof ended in an error of its own, which says nothing about the verifier."""
        self._target = target
        self._directory = directory
        self._budget = budget
        self._keep = keep

    def control(self, progress: Any) -> None:
        """Forge and verify an honest run: raises UsageError if the task does not fit the loot, Unavailable if the run
        is not VERIFIED here, because verdicts on spoofs would then say nothing.
        """
        from polledger.redteam.control import CONTROL

        bar = progress.add_task("control: an honest run", total=None, note="")
        outcome = self._outcome(CONTROL, 0, lambda text: progress.update(bar, note=text))
        progress.remove_task(bar)
        if outcome.report["verdict"] != "VERIFIED":
            raise Unavailable(
                "an honest run that is forged like a spoof is not VERIFIED here, so that verdicts say nothing: "
                f"{outcome.report['sentence']}"
            )

    def run(self, spoofs: "Sequence[Spoof]", seeds: int, progress: Any) -> None:
        """Every one of ``spoofs`` by every thief."""
        bar = progress.add_task("", total=len(spoofs) * seeds, note="")
        for spoof in spoofs:
            progress.update(bar, description=f"spoof {spoof.name}")
            for seed in range(seeds):
                self._try(spoof, seed, lambda text: progress.update(bar, note=text))
                progress.advance(bar)

    def _try(self, spoof: "Spoof", seed: int, watch: Any) -> None:
        from polledger.redteam.table import row_of

        try:
            row = row_of(spoof, self._outcome(spoof, seed, watch))
        except PolledgerError as error:
            self._skip(spoof, seed, str(error))
        except Exception as error:
            # One spoof that does not fit this task must not cost the others.
            output.trace()
            self.crashed = True
            self._skip(spoof, seed, f"internal error: {type(error).__name__}: {error}")
        else:
            self.rows.append(row)
            output.note(f"spoof {spoof.name}, thief {seed}: {row.verdict} {decided(row.step, row.finding)}")

    def _outcome(self, spoof: "Spoof", seed: int, watch: Any) -> "Outcome":
        from polledger.cli.sealing import prints_to_stderr
        from polledger.redteam.spoof import Attempt
        from polledger.redteam.trial import try_spoof

        place = self._directory / f"{spoof.name}-{seed}"
        place.mkdir()
        attempt = Attempt(directory=place, seed=seed, budget=self._budget, watch=watch)
        try:
            with prints_to_stderr():
                return try_spoof(spoof, self._target, attempt)
        finally:
            if not self._keep:
                shutil.rmtree(place, ignore_errors=True)

    def _skip(self, spoof: "Spoof", seed: int, reason: str) -> None:
        self.skipped.append({"spoof": spoof.name, "seed": seed, "reason": one_line(reason)})
        output.note(f"spoof {spoof.name} could not be tried: {reason}")


def decided(step: int | None, finding: str) -> str:
    """``by step 9 (replay)``, empty where nothing decided."""
    return "" if step is None else f"by step {step} ({finding})"


def _conclude(tried: _Trials, run: Path, target: "Target", report: "ReportDirectory | None") -> int:
    from polledger.redteam.page import redteam_page
    from polledger.redteam.table import lines_of

    lines = lines_of(tried.rows)
    verified = any(line.succeeded for line in lines)
    code = EXIT_REFUTED if verified else EXIT_CANNOT_PROCEED if tried.crashed or not lines else EXIT_OK
    value = {
        "schema": SCHEMA,
        "exit_code": code,
        "target": {
            "run": str(run),
            "task": target.task,
            "settings": list(target.settings),
            "steps": target.steps,
            "every": target.every,
            "warm": target.warm,
        },
        "spoofs": [line.to_json() for line in lines],
        "trials": [row.to_json() for row in tried.rows],
        "skipped": tried.skipped,
    }
    if report is not None:
        report.write(value, redteam_page(value, lines))
    output.result(value)
    if lines and not output.quiet and not output.json:
        output.styled(table_text(lines, output.console()))
    output.sentence(_sentence(lines, tried))
    return code


def _sentence(lines: "Sequence[Line]", tried: _Trials) -> str:
    from polledger.redteam.table import summary_words

    left = {item["spoof"] for item in tried.skipped}
    rest = f"; {len(left)} could not be tried" if left else ""
    return f"{summary_words(lines) if lines else 'no spoof could be tried'}{rest}"


def table_text(lines: "Sequence[Line]", console: Any) -> str:
    """One entry per spoof: what it is, what became of it and why, what it cost, what else would have accepted it."""
    from rich.table import Table
    from rich.text import Text

    from polledger.redteam.table import cost_words, opened_words, reference_words, verdict_words

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        style = "bold red" if line.succeeded else "yellow" if line.verdicts.get("VERIFIED") else "green"
        grid.add_row(Text(line.spoof, style="bold"), Text(one_line(line.title), style="bold"))
        grid.add_row("", Text(verdict_words(line), style=style))
        grid.add_row("", Text(one_line(line.detail or line.note)))
        grid.add_row(
            "", Text(f"{opened_words(line)}; {cost_words(line)}; {reference_words(line)}", style="dim")
        )
        grid.add_row("", "")
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(row.rstrip() for row in captured.get().splitlines())
