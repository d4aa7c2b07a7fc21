"""``polledger compare``: two rivals side by side, facts first. PROTOCOL sections 13 and 14."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polledger.cli.options import InputOption, JsonOption, PolicyOption
from polledger.cli.output import output

if TYPE_CHECKING:
    from polledger.cli.code import CodeOptions
    from polledger.publish.compare import Question
    from polledger.publish.directory import ReportDirectory
    from polledger.publish.side import Side
    from polledger.verify.request import Request

EXAMPLES = (
    "Examples: `polledger compare mine theirs --trust trust.toml`; "
    "`polledger compare A B --task a.py --task b.py --input data=DIR --json`."
)


def run(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="A", help="Directory of a run, a proof of one, or a claim.", show_default=False
        ),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="Its rival, likewise.", show_default=False)],
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample", metavar="N|99%", help="Intervals of each to replay; as for verify. Default: 99%."
        ),
    ] = None,
    nonce: Annotated[
        str | None,
        typer.Option(
            "--nonce", metavar="HEX", help="Your own nonce (hex) for both samples. Default: random."
        ),
    ] = None,
    policy: PolicyOption = None,
    trust: Annotated[
        Path | None,
        typer.Option(
            "--trust",
            metavar="FILE",
            help="TOML file with the authorities you trust: only they order A and B.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="Your copy of the task of either; repeatable."),
    ] = None,
    trust_code: Annotated[
        list[str] | None,
        typer.Option(
            "--trust-code", metavar="DIGEST", help="Digest (hex) of committed code that may run; repeatable."
        ),
    ] = None,
    inputs: InputOption = None,
    parent: Annotated[
        list[Path] | None,
        typer.Option("--parent", metavar="RUN", help="Run that either starts from; repeatable."),
    ] = None,
    external: Annotated[
        Path | None, typer.Option("--external", metavar="FILE", help="File that either starts from.")
    ] = None,
    no_replay: Annotated[
        bool, typer.Option("--no-replay", help="Compare what the files say; no verdicts.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="DIR", help="Directory to write a page into (index.html, compare.json)."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Set A and B side by side: models, times, coverage, verdicts under one nonce, and who starts from whom."""
    from polledger.publish.compare import compare_sides
    from polledger.publish.comparepage import compare_page
    from polledger.training.overrides import parse_inputs

    request = _request(sample, nonce, policy, trust, external)
    target = None if report is None else _report_directory(report)
    options = _options(task or [], trust_code or [], parse_inputs(inputs or []))
    # A run that starts from its rival has its parent at hand.
    runs = [*(parent or ()), *(path for path in (a, b) if path.is_dir())]
    with contextlib.ExitStack() as stack:
        sides = [_side(path, stack, request, options, runs, replay=not no_replay) for path in (a, b)]
        output.note("comparing models and checkpoints")
        found = compare_sides(sides[0], sides[1], _question(request, replay=not no_replay))
    if target is not None:
        target.write(found, compare_page(found))
    output.result({**found})
    if not output.json and not output.quiet:
        from polledger.cli.comparing import comparison_text

        output.styled(comparison_text(found, output.console()))
    output.sentence(found["sentence"])
    return found["exit_code"]


def _report_directory(path: Path) -> "ReportDirectory":
    """Where the page goes, once files can be made there."""
    from polledger.publish.compare import SCHEMA
    from polledger.publish.directory import ReportDirectory

    directory = ReportDirectory(path=path.expanduser(), page="index.html", twin="compare.json", schema=SCHEMA)
    directory.prepare()
    return directory


def _question(request: "Request", *, replay: bool) -> "Question":
    from polledger.publish.compare import Question

    return Question(
        policy=request.policy,
        nonce=request.nonce,
        trusted=request.trust is not None,
        now=request.now,
        replayed=replay,
    )


def _request(
    sample: str | None, nonce: str | None, policy: Path | None, trust: Path | None, external: Path | None
) -> "Request":
    from dataclasses import replace

    from polledger.cli.verify import existing_file, verify_request

    request = verify_request(sample=sample, nonce=nonce, policy=policy, trust=trust, model=None)
    return replace(request, external=existing_file(external, "--external"))


def _options(tasks: list[str], trust_code: list[str], inputs: dict[str, str]) -> "CodeOptions":
    from dataclasses import replace

    from polledger.cli.verify import code_options

    # What does not fit one of the two is meant for the other.
    return replace(code_options(tasks, trust_code, inputs), chain=True)


def _side(
    path: Path,
    stack: contextlib.ExitStack,
    request: "Request",
    options: "CodeOptions",
    runs: list[Path],
    *,
    replay: bool,
) -> "Side":
    """What lies at ``path``, and its verdict under the request. What has to be unpacked stays as long as ``stack``."""
    from polledger.cli.claimed import is_claim
    from polledger.cli.presented import shown
    from polledger.cli.verify import verify_shown
    from polledger.publish.side import claimed_side, read_side
    from polledger.store.claimfiles import ClaimFiles

    if is_claim(path):
        return claimed_side(str(path), ClaimFiles(path=path), request, verdict=replay)
    found = stack.enter_context(shown(path, request.now))
    side = read_side(str(path), found.evidence, trust=request.trust, policy=request.policy, now=request.now)
    if replay:
        output.note(f"verifying {path}")
        side.report = verify_shown(path, found, None, request, options, runs)
        if found.evidence.presented is not None:
            side.missing.append("a proof was opened on a challenge of its own, not on the common nonce")
    return side
