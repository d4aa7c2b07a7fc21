"""``polledger verify``: check a run by its records and by replaying a sample of it. PROTOCOL sections 10 and 14."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polledger.cli.options import InputOption, JsonOption, PolicyOption
from polledger.cli.output import output
from polledger.cli.reportfiles import OBJECT, PAGE, SIGNED

if TYPE_CHECKING:
    from polledger.cli.code import CodeOptions
    from polledger.cli.presented import Shown
    from polledger.core.opened import IntervalResult
    from polledger.core.report import Report
    from polledger.store.run import RunDirectory
    from polledger.verify.request import Request

EXAMPLES = (
    "Examples: `polledger verify R`; `polledger verify R --task train.py --input data=DIR --sample 20`; "
    "`polledger verify R --model model.safetensors --json`."
)

NONCE_BYTES = 32

_LEAST_NONCE = 16
"""Bytes of a nonce given by hand, at least: what nobody can guess or try out."""


def run(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|PROOF|CLAIM",
            help="Directory of a run, a proof that opens a sample of it, or a claim about one.",
            show_default=False,
        ),
    ],
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample",
            metavar="N|99%",
            help="Intervals to replay: a number, or odds like 99% against 10% bogus intervals. "
            "Default: 99%, capped at about 5 minutes of replay.",
        ),
    ] = None,
    nonce: Annotated[
        str | None,
        typer.Option("--nonce", metavar="HEX", help="Your own nonce (hex) for the sample. Default: random."),
    ] = None,
    challenge: Annotated[
        Path | None,
        typer.Option("--challenge", metavar="FILE", help="Your challenge, which says what is opened."),
    ] = None,
    policy: PolicyOption = None,
    trust: Annotated[
        Path | None,
        typer.Option(
            "--trust", metavar="FILE", help="TOML file with the authorities and witnesses you trust."
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", metavar="TASK", help="Your copy of the task; it must have the committed digest."
        ),
    ] = None,
    trust_code: Annotated[
        list[str] | None,
        typer.Option(
            "--trust-code", metavar="DIGEST", help="Digest (hex) of committed code that may run here."
        ),
    ] = None,
    inputs: InputOption = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FILE", help="Model file that must be the one this run ends with."),
    ] = None,
    parent: Annotated[
        list[Path] | None,
        typer.Option(
            "--parent",
            metavar="RUN",
            help="Run that this one starts from, or one of its parents. Default: where run.toml says.",
        ),
    ] = None,
    external: Annotated[
        Path | None,
        typer.Option(
            "--external", metavar="FILE", help="File that this run, or its first parent, starts from."
        ),
    ] = None,
    run_of: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN|PROOF", help="The run that a CLAIM is held against, if it is at hand."
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="ENGINE", help="Where replays run: local.")
    ] = "local",
    no_replay: Annotated[
        bool, typer.Option("--no-replay", help="Check the records only; at best UNVERIFIABLE.")
    ] = False,
    no_scan: Annotated[
        bool,
        typer.Option("--no-scan", help="Do not look at checkpoints beyond the sample; at best UNVERIFIABLE."),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="DIR",
            help=f"Directory for {PAGE} and {OBJECT}: new, or one that holds a report.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", help=f"Your key (PEM): signs the report, as {SIGNED} in --report."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check a run: records, heads, times, structure, and a random sample of intervals replayed bit for bit."""
    from dataclasses import replace

    from polledger.cli.claimed import verify_claimed
    from polledger.cli.presented import shown
    from polledger.cli.refusing import read_refusal, refused
    from polledger.cli.reportfiles import report_directory, report_signer, write_report
    from polledger.core.proof import ProofRejected
    from polledger.training.overrides import parse_inputs

    # Options first: what is wrong with them is wrong with any run.
    _check_engine(engine)
    request = verify_request(sample=sample, nonce=nonce, policy=policy, trust=trust, model=model)
    code = code_options(task or [], trust_code or [], parse_inputs(inputs or []))
    _check_asking(sample, nonce, challenge)
    request = replace(request, replay=not no_replay, scan=not no_scan)
    request = replace(request, external=existing_file(external, "--external"))
    signer = report_signer(key, report)
    place = report_directory(report) if report is not None else None

    def verified(path: Path, request: "Request") -> "Report":
        refusal = read_refusal(path)
        if refusal is not None:
            return refused(refusal, challenge, request)
        try:
            with shown(path, request.now) as found:
                return verify_shown(path, found, challenge, request, code, parent or [])
        except ProofRejected as error:
            return rejected(error, request)

    result = verify_claimed(path, run_of, request, verified)
    _print(result)
    if place is not None:
        write_report(result, place, signer)
    return result.exit_code


def _check_asking(sample: str | None, nonce: str | None, challenge: Path | None) -> None:
    from polledger.errors import UsageError

    if challenge is not None and (sample is not None or nonce is not None):
        raise UsageError(
            "--challenge says what is opened and holds the nonce: leave --sample and --nonce out"
        )


def verify_shown(
    path: Path,
    found: "Shown",
    challenge: Path | None,
    request: "Request",
    options: "CodeOptions",
    parents: Sequence[Path],
) -> "Report":
    """Verify what ``path`` holds, under the challenge that says what is opened if there is one."""
    import shlex
    from dataclasses import replace

    from polledger.cli.presented import read_asked
    from polledger.timestamp.queue import RequestQueue
    from polledger.timestamp.sealtimes import SealTimes, waiting_in

    asked = read_asked(found, challenge)
    made = SealTimes(found.run.seal_times_path).read()
    waiting = waiting_in(RequestQueue(found.run.queue_path), made)
    request = replace(request, waiting=waiting, made=made, asked=asked)
    if asked is not None:
        request = replace(request, nonce=asked.challenge.nonce)
    if found.evidence.presented is not None:
        words = ["polledger", "verify", str(path)]
        words += [] if challenge is None else ["--challenge", str(challenge)]
        options = replace(options, command=shlex.join(words))
    return _verify(found, request, options, parents)


def rejected(error: Exception, request: "Request") -> "Report":
    """The report over a proof that cannot be read: it shows nothing, and nothing against anybody."""
    from polledger import __version__
    from polledger.core.moment import utc_text
    from polledger.core.report import Finding, Report

    remedy = "ask the prover for the file again"
    finding = Finding(step=1, name="parse", outcome="unverifiable", detail=str(error), remedy=remedy)
    return Report(
        run=None,
        head=None,
        findings=(finding,),
        policy=request.policy.digest().hex(),
        at=utc_text(request.now.replace(microsecond=0)),
        version=__version__,
    )


def _check_engine(engine: str) -> None:
    from polledger.errors import UsageError

    if engine != "local":
        raise UsageError(f"--engine {engine}: this version replays on the local machine only (local)")


def verify_request(
    *,
    sample: str | None,
    nonce: str | None,
    policy: Path | None,
    trust: Path | None,
    model: Path | None,
) -> "Request":
    from datetime import UTC, datetime

    from polledger.timestamp.trust import load_trust
    from polledger.verify.policy import load_policy
    from polledger.verify.request import Request
    from polledger.verify.sampling import parse_sample

    return Request(
        policy=load_policy(policy),
        nonce=_nonce(nonce),
        now=datetime.now(UTC),
        sample=parse_sample(sample),
        trust=load_trust(trust) if trust is not None else None,
        model=existing_file(model, "--model"),
        read_model=read_torch_file,
    )


def _nonce(text: str | None) -> bytes:
    import secrets

    from polledger.errors import UsageError

    if text is None:
        return secrets.token_bytes(NONCE_BYTES)
    try:
        nonce = bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"--nonce is hexadecimal, not {text[:80]!r}") from None
    if not _LEAST_NONCE <= len(nonce) <= 64:
        raise UsageError(f"--nonce has {_LEAST_NONCE} to 64 bytes ({2 * _LEAST_NONCE} to 128 hex digits)")
    return nonce


def existing_file(path: Path | None, option: str) -> Path | None:
    from polledger.errors import UsageError

    if path is not None and not path.is_file():
        problem = "is not a regular file" if path.exists() else "there is no such file"
        raise UsageError(f"{option} {path}: {problem}")
    return path


def read_torch_file(path: Path) -> bytes:
    from polledger.training.replay import read_model

    return read_model(path)[1]


def code_options(tasks: list[str], trust_code: list[str], inputs: dict[str, str]) -> "CodeOptions":
    import sys

    from polledger.cli.code import CodeOptions

    interactive = sys.stdin.isatty() and sys.stderr.isatty() and not output.quiet and not output.json
    return CodeOptions(tasks=tuple(tasks), trusted=tuple(trust_code), inputs=inputs, ask=interactive)


def _verify(found: "Shown", request: "Request", options: "CodeOptions", parents: Sequence[Path]) -> "Report":
    import time

    from polledger.cli.code import load_code
    from polledger.cli.parents import Parents
    from polledger.verify.verifier import verify

    with output.progress() as progress:

        def load(run: "RunDirectory", options: "CodeOptions") -> Callable[[Any], Any]:
            return _asking(progress, lambda genesis: load_code(run, genesis, options, request.policy))

        return verify(
            found.evidence,
            request,
            load_code=load(found.run, options),
            clock=time.monotonic,
            watcher=_Watcher(progress),
            find=Parents.given(parents, options, load).of(found.run),
        )


def _asking(progress: Any, load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``load`` with the progress display out of the way, because it may ask a question."""

    def paused(genesis: Any) -> Any:
        progress.stop()
        code = load(genesis)
        progress.start()
        return code

    return paused


class _Watcher:
    """Shows progress on standard error."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task: Any = None
        self._scan: Any = None

    def note(self, text: str) -> None:
        output.note(text)

    def scanned(self, done: int, total: int) -> None:
        if self._scan is None:
            self._scan = self._progress.add_task("screening", total=total, note="stored checkpoints")
        self._progress.update(self._scan, completed=done)

    def opened(self, result: "IntervalResult", done: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task("replaying", total=total, note="")
        self._progress.update(
            self._task, completed=done, note=f"interval {result.interval}: {result.outcome}"
        )
        output.detail(f"interval {result.interval} (steps {result.first} to {result.last}): {result.outcome}")


def _print(report: "Report") -> None:
    from polledger.core.report import sentence

    if output.json:
        output.result(report.to_json())
    elif not output.quiet:
        from polledger.cli.reporting import report_text

        output.styled(report_text(report, output.console()))
    output.sentence(sentence(report))
