"""``polledger seal``: train a task and seal the run while it trains."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from polledger.cli.options import (
    DeviceOption,
    JsonOption,
    SeedOption,
    SettingsOption,
    StepsOption,
    TaskArgument,
    TsaOption,
    WorkersOption,
)
from polledger.cli.output import output
from polledger.cli.sealed import report, resume_command
from polledger.cli.sealing import Display, prints_to_stderr
from polledger.errors import EXIT_INTERRUPTED, PolledgerError, UsageError

if TYPE_CHECKING:
    from polledger.core.records import Terms
    from polledger.training.plan import SealOptions, SealResult

EXAMPLES = (
    "Examples: `polledger seal polledger.examples.digits --run R`; "
    "`polledger seal train.py:Mine --run R --input data=DIR --set lr=0.01 --every 20`; "
    "after an interruption the same with `--resume`."
)


def parse_keep(value: object) -> Any:
    """What ``--keep`` takes: a number, or :class:`polledger.training.keeping.Auto`. Raises UsageError otherwise."""
    from polledger.training import keeping

    return value if isinstance(value, keeping.Auto) else keeping.parse_keep(value)


def run(
    task: TaskArgument,
    run_dir: Annotated[
        Path, typer.Option("--run", metavar="DIR", help="Directory for the run.", show_default=False)
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", help="Ed25519 key (PEM). Default: your own, made on first use."
        ),
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", metavar="K", help="Steps between two checkpoints. Default: 10.")
    ] = None,
    warm: Annotated[
        int | None,
        typer.Option(
            "--warm", metavar="W", help="Steps at the start with a checkpoint after each. Default: 10."
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            metavar="K",
            parser=parse_keep,
            help="Store the state of every K-th checkpoint, commit all. auto: as many as fit into a tenth of the free "
            "disk; auto:50GB: into so much. Default: 1, store all.",
        ),
    ] = None,
    seal_every: Annotated[
        int | None,
        typer.Option(
            "--seal-every",
            metavar="M",
            help="Checkpoints between two seals; at least one a minute. Default: 50.",
        ),
    ] = None,
    steps: StepsOption = None,
    settings: SettingsOption = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=PATH", help="Where data lies; never committed."),
    ] = None,
    seed: SeedOption = None,
    tsa: TsaOption = None,
    witness: Annotated[
        list[str] | None,
        typer.Option(
            "--witness",
            metavar="NAME|URL+VKEY",
            help="Witness that cosigns the heads, by name in trust.toml or by URL and key; repeatable.",
        ),
    ] = None,
    device: DeviceOption = None,
    workers: WorkersOption = 0,
    store_batches: Annotated[
        bool, typer.Option("--store-batches", help="Store every batch, not only its digest.")
    ] = False,
    withhold_metrics: Annotated[
        bool, typer.Option("--withhold-metrics", help="Record no metrics: every reader of the run sees them.")
    ] = False,
    terms: Annotated[
        Path | None,
        typer.Option(
            "--terms", metavar="FILE", help="TOML file with what a verifier fixed: every, nonce, policy."
        ),
    ] = None,
    unbound: Annotated[
        bool,
        typer.Option("--unbound", help="Derive the training from the seed alone, not from the key as well."),
    ] = False,
    parent: Annotated[
        Path | None,
        typer.Option("--parent", metavar="RUN", help="Finished run whose final model this one starts from."),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--continue", help="Take the parent's optimizer and all other state as well."),
    ] = False,
    external: Annotated[
        Path | None,
        typer.Option(
            "--external", metavar="FILE", help="Model file to start from; its SHA-256 is committed."
        ),
    ] = None,
    fresh: Annotated[
        list[str] | None,
        typer.Option(
            "--fresh",
            metavar="NAME",
            help="Tensor (pattern) that is not taken from --parent or --external, such as a new head.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was interrupted.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Train TASK, recording every step, and seal the run with signed, timestamped tree heads."""
    from polledger.training.overrides import parse_inputs
    from polledger.training.plan import SealOptions

    options = SealOptions(
        task=task,
        run=run_dir.expanduser(),
        key=None if key is None else key.expanduser(),
        every=every,
        warm=warm,
        keep=keep,
        seal_every=seal_every,
        seed=seed,
        settings=chosen_settings(settings or [], steps),
        inputs=parse_inputs(inputs or ()),
        authorities=tuple(tsa or ()),
        witnesses=tuple(witness or ()),
        device=device,
        workers=workers,
        unbound=unbound,
        store_batches=store_batches,
        withhold_metrics=withhold_metrics,
        terms=None if terms is None else read_terms(terms),
        resume=resume,
        parent=None if parent is None else parent.expanduser(),
        external=None if external is None else external.expanduser(),
        whole=whole,
        fresh=tuple(fresh or ()),
    )
    return report(options, *_seal(options))


TERMS_BYTES = 1 << 12


def read_terms(path: Path) -> "Terms":
    """The terms in a TOML file: ``every`` (largest k), ``nonce`` and ``policy`` (hex), each of them optional.

    Raises UsageError naming what is wrong.
    """
    import tomllib

    from polledger.core.encoding import encode
    from polledger.core.records import Terms
    from polledger.errors import Unavailable
    from polledger.files import read_bounded

    try:
        table = tomllib.loads(bytes(read_bounded(path, limit=TERMS_BYTES)).decode())
        unknown = sorted(table.keys() - {"every", "nonce", "policy"})
        if unknown or not table:
            raise UsageError(
                f"--terms {path}: it has every, nonce or policy, not {', '.join(unknown) or 'nothing'}"
            )
        values: dict[str, Any] = {
            name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in table.items()
        }
        terms = Terms(**values)
        encode(terms)
    except FileNotFoundError:
        raise UsageError(f"--terms {path}: there is no such file") from None
    except (Unavailable, ValueError, TypeError) as error:
        raise UsageError(f"--terms {path}: {error}") from None
    return terms


def chosen_settings(settings: list[str], steps: int | None) -> tuple[str, ...]:
    """What ``--set`` and ``--steps`` say together. Raises UsageError where both say how many steps."""
    if steps is None:
        return tuple(settings)
    given = next((item for item in settings if item.partition("=")[0].strip() == "steps"), None)
    if given is not None:
        raise UsageError(f"--steps {steps} and --set {given} both say how many steps: give one of them")
    return (*settings, f"steps={steps}")


def _seal(options: "SealOptions") -> "tuple[SealResult, list[str]]":
    from polledger.training.session import seal

    with prints_to_stderr(), output.progress() as progress:
        display = Display(progress)
        try:
            return seal(options, display), display.warnings
        except PolledgerError as error:
            if display.begun and not _is_refusal(error) and goes_on(options.run):
                output.note(f"what was sealed stays; continue with: {resume_command(options)}")
            raise
        except KeyboardInterrupt:
            raise Interrupted(_interruption(options)) from None


def _is_refusal(error: PolledgerError) -> bool:
    """Whether ``error`` says that the user asked for something else than the run, which asking again would repeat."""
    from polledger.training.plan import TaskFailed

    return isinstance(error, UsageError) and not isinstance(error, TaskFailed)


def _interruption(options: "SealOptions") -> str:
    if goes_on(options.run):
        return f"interrupted; continue with: {resume_command(options)}"
    return "interrupted" if _is_begun(options.run) else "interrupted before anything was sealed"


def _is_begun(run: Path) -> bool:
    return (run / "seals" / "000000.msgpack").exists()


def goes_on(run: Path) -> bool:
    """Whether a run is begun at ``run`` whose end is not sealed."""
    from polledger.cli.inspect import describe
    from polledger.store.run import RunDirectory

    if not _is_begun(run):
        return False
    try:
        facts = describe(RunDirectory.open(run))
    except PolledgerError:
        return False
    return not facts["final"] or all(seal["size"] != facts["records"] for seal in facts["seals"])


class Interrupted(PolledgerError):
    """The user stopped the command outside the training's own steps."""

    exit_code: ClassVar[int] = EXIT_INTERRUPTED
