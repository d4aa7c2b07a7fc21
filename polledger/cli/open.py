"""``polledger open``: the prover's answer to a challenge, in one file. PROTOCOL section 11."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polledger.cli.options import JsonOption, NewFileOption
from polledger.cli.output import output

if TYPE_CHECKING:
    from polledger.cli.code import CodeOptions
    from polledger.core.challenge import Challenge
    from polledger.core.records import Genesis
    from polledger.store.run import RunDirectory
    from polledger.verify.answering import Readable
    from polledger.verify.replaytask import Engines

EXAMPLES = "Examples: `polledger open R c.challenge -o r.polproof`; with data elsewhere `--input data=DIR`."


def run(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of your run.", show_default=False)],
    challenge_file: Annotated[
        Path, typer.Argument(metavar="CHALLENGE", help="The verifier's challenge.", show_default=False)
    ],
    out: NewFileOption,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact",
            help="Leaf hashes in place of the records that are not opened: less is shown and checked.",
        ),
    ] = False,
    most: Annotated[
        int | None,
        typer.Option("--most", metavar="N", min=1, help="Refuse if more intervals would be opened."),
    ] = None,
    refuse: Annotated[
        str | None,
        typer.Option("--refuse", metavar="REASON", help="Open nothing: write a refusal that says why."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Your key (PEM): signs a refusal.")
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=PATH", help="Where the data lies now.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Open what CHALLENGE asks for, and nothing else: states, examples and salts of its sample, heads and tokens."""
    from datetime import UTC, datetime

    from polledger.cli.presented import read_challenge
    from polledger.cli.refusing import reason_to_refuse, write_refusal
    from polledger.errors import EXIT_OK
    from polledger.files import write_atomic
    from polledger.store.bundle import write_proof
    from polledger.store.run import RunDirectory
    from polledger.training.overrides import parse_inputs
    from polledger.verify.answering import Answer, check_asked, read_run
    from polledger.verify.asking import Asked

    challenge, digest = read_challenge(challenge_file)
    directory = RunDirectory.open(path)
    readable = read_run(directory)
    check_asked(readable, challenge)
    _check_free(out)
    answer = Answer(
        readable=readable,
        asked=Asked(challenge=challenge, digest=digest, own=True, arrived=datetime.now(UTC)),
        engines=_engines(directory, readable.genesis, parse_inputs(inputs or [])),
        compact=compact,
        sketches=b"" if refuse else _sketches(readable, challenge),
    )
    reason = refuse or reason_to_refuse(answer, datetime.now(UTC), most)
    if reason:
        write_refusal(challenge, digest, reason, out, key)
        return _refused(out, challenge, reason, asked=refuse is not None)
    output.note(f"opening {len(answer.opened)} of {len(readable.lineage.intervals)} intervals")
    write_atomic(out, write_proof(answer.contents()))
    _report(challenge, answer.opened, out)
    return EXIT_OK


def _refused(out: Path, challenge: "Challenge", reason: str, *, asked: bool) -> int:
    """Say that nothing was opened; that is done only where the prover asked for it."""
    from polledger.errors import EXIT_CANNOT_PROCEED, EXIT_OK

    code = EXIT_OK if asked else EXIT_CANNOT_PROCEED
    output.result(
        {
            "schema": "polledger.open/1",
            "exit_code": code,
            "file": str(out),
            "run": challenge.run.hex(),
            "refused": reason,
        }
    )
    output.sentence(f"refused: {reason}; {out} says so to the verifier")
    return code


def _sketches(readable: "Readable", challenge: "Challenge") -> bytes:
    from msgspec import UNSET

    from polledger.verify.sketched import sketches_for

    if challenge.seed is UNSET:
        return b""
    output.note("sketching every stored checkpoint under the verifier's seed")
    return sketches_for(readable.run, readable.lineage, challenge)


def _check_free(out: Path) -> None:
    from polledger.errors import UsageError

    if out.exists():
        raise UsageError(f"{out} exists, and is never overwritten: choose another name")


def _engines(run: "RunDirectory", genesis: "Genesis", inputs: dict[str, str]) -> "Engines":
    """The committed code as the run holds it: it gives the examples, kept apart from everything else."""
    from polledger.cli.code import load_code
    from polledger.errors import Unavailable
    from polledger.verify.policy import Policy

    code = load_code(run, genesis, _own_code(run, genesis, inputs), Policy())
    if code.engines is None:
        problem = code.finding.detail if code.finding is not None else "its code cannot run here"
        raise Unavailable(f"the run cannot be opened: {problem}")
    return code.engines


def _own_code(run: "RunDirectory", genesis: "Genesis", inputs: dict[str, str]) -> "CodeOptions":
    """The prover vouches for the code of its own run; data lie where they did unless told otherwise."""
    from polledger.cli.code import CodeOptions, is_own, read_source

    hints = run.read_hints().get("inputs")
    known = hints if isinstance(hints, dict) else {}
    trusted = () if is_own(read_source(run, genesis.task)) else (genesis.task.hex(),)
    return CodeOptions(trusted=trusted, inputs={**known, **inputs})


def _report(challenge: "Challenge", opened: tuple[int, ...], out: Path) -> None:
    from polledger.core.report import counted

    size = out.stat().st_size
    output.result(
        {
            "schema": "polledger.open/1",
            "exit_code": 0,
            "file": str(out),
            "run": challenge.run.hex(),
            "opened": list(opened),
            "bytes": size,
        }
    )
    if not challenge.asks_sample:
        output.text(f"polledger challenge {out.name} --challenge FILE --sample N -o FILE")
        output.sentence(f"{out} has sketches of the stored checkpoints in {size} bytes, and opens nothing")
        return
    output.text(f"polledger verify {out.name} --challenge FILE")
    output.sentence(
        f"{out} opens {counted(len(opened), 'interval')} in {size} bytes, and nothing else of the run"
    )
