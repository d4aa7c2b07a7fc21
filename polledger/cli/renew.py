"""``polledger timestamp renew``: one token over all tokens of a run, before they fall. PROTOCOL section 8."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from polledger.cli.options import JsonOption
from polledger.cli.output import output
from polledger.cli.timestamp import fields_of, read_file, reporting
from polledger.core.moment import utc_text
from polledger.errors import EXIT_CANNOT_PROCEED, EXIT_OK, MalformedError, UsageError

if TYPE_CHECKING:
    from polledger.store.run import RunDirectory
    from polledger.timestamp.renewal import Answer, Made, Survey
    from polledger.timestamp.stamper import Authority

SCHEMA: Final = "polledger.timestamp-renew/1"

EXAMPLES: Final = (
    "Examples: `polledger timestamp renew R --tsa digicert --tsa https://tsa.example/`; "
    "`polledger timestamp renew R --revocation tsa.crl`. Once a year is enough for most authorities; "
    "nothing is done while nothing is due."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What was done. ``made``: the newest renewal afterwards, None if there is none; ``new``: it was made just now."""

    survey: "Survey"
    made: "Made | None"
    new: bool
    answers: "Sequence[Answer]"
    ends: datetime | None

    @property
    def failed(self) -> "list[Answer]":
        return [answer for answer in self.answers if answer.token is None]


def run(
    path: Annotated[Path, typer.Argument(help="The run directory, or a copy of it.", metavar="RUN")],
    tsa: Annotated[
        list[str] | None,
        typer.Option(
            "--tsa",
            metavar="NAME|URL",
            help="Authority to ask, as for seal; repeatable. Default: those that the run's newest tokens name.",
        ),
    ] = None,
    revocation: Annotated[
        list[Path] | None,
        typer.Option(
            "--revocation",
            metavar="FILE",
            help="CRL (DER or PEM) or OCSP response (DER) of the authorities so far, to be kept and stamped as well.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for one token over every head and token of the run, so that they outlive their certificates.

    A new renewal is made where a head, token or FILE is not covered yet, or the newest renewal has passed two thirds
    of its own life. Otherwise authorities that have not stamped the newest renewal are asked to. Exit code 0: all of
    that is done; 4: an authority gave no token, or something could not be read.
    """
    from polledger.store.run import RunDirectory

    with reporting(SCHEMA):
        done = _renew(RunDirectory.open(path), tsa or [], [_revocation(file) for file in revocation or []])
    code = EXIT_CANNOT_PROCEED if done.failed or done.survey.problems else EXIT_OK
    output.result({"schema": SCHEMA, "exit_code": code, **_fields(done)})
    for problem in done.survey.problems:
        output.note(problem)
    output.sentence(_sentence(done))
    raise typer.Exit(code)


def _revocation(file: Path) -> list[bytes]:
    from polledger.timestamp.revocation import encoded
    from polledger.timestamp.trust import REVOCATION_BYTES

    try:
        return encoded(read_file(file, REVOCATION_BYTES + 1))
    except MalformedError as error:
        raise UsageError(f"--revocation {file}: {error}") from None


def _renew(directory: "RunDirectory", names: Sequence[str], files: Sequence[list[bytes]]) -> _Done:
    from polledger.timestamp.renewal import Renewer, aged, ends, read_made, survey

    with directory.lock_evidence():
        found = survey(directory)
        authorities = _authorities(names, found.authorities)
        data = [directory.objects.put(piece) for file in files for piece in file]
        newest = found.newest
        if newest is None or found.uncovered(data) or aged(directory, newest, now=datetime.now(UTC)):
            statement, entries = found.statement(data)
            renewer = Renewer(directory, statement, entries)
            index = statement.index
        else:
            renewer = Renewer(directory, newest.statement)
            index = newest.statement.index
            stamped = {token.authority for token in newest.renewal.tokens}
            authorities = [authority for authority in authorities if authority.name not in stamped]
        answers = [_ask(renewer, authority) for authority in authorities]
        kept = any(answer.token is not None for answer in answers)
        made = read_made(directory, index, run=found.run) if kept else newest
        return _Done(
            survey=found,
            made=made,
            new=kept and (newest is None or index > newest.statement.index),
            answers=answers,
            ends=ends(directory, made) if made else None,
        )


def _authorities(names: Sequence[str], labels: Sequence[str]) -> "list[Authority]":
    """The authorities of ``--tsa``; without any, those that the run's tokens name, as far as the user knows them."""
    from polledger.training.stamping import choose_authorities

    for label in () if names else labels:
        # A name in a run is a label that nothing signs: it must not decide where this machine connects to.
        if "://" in label:
            raise UsageError(f"the run's tokens are of {label}: name whom to ask, for example --tsa {label}")
    return choose_authorities(names or labels)


def _ask(renewer: Any, authority: "Authority") -> "Answer":
    answer: Answer = renewer.ask(authority, now=datetime.now(UTC))
    said = f"token of {utc_text(answer.token.timestamp.gen_time)}" if answer.token else answer.reason
    output.note(f"{answer.authority}: {said}")
    return answer


def _fields(done: _Done) -> dict[str, Any]:
    made = done.made
    obtained = [(answer.authority, answer.token) for answer in done.answers if answer.token is not None]
    return {
        "renewal": None if made is None else made.statement.index,
        "new": done.new,
        "heads": done.survey.heads,
        "entries": None if made is None else made.statement.size,
        "obtained": [{"authority": name, **fields_of(token.timestamp)} for name, token in obtained],
        "failed": [{"authority": answer.authority, "reason": answer.reason} for answer in done.failed],
        "problems": list(done.survey.problems),
        "until": None if done.ends is None else utc_text(done.ends),
    }


def _sentence(done: _Done) -> str:
    if done.survey.problems:
        count = len(done.survey.problems)
        more = f" and {count - 1} more" if count > 1 else ""
        return f"not everything is covered or whole: {done.survey.problems[0]}{more}; restore it from a copy"
    if done.made is None:
        return (
            f"no authority gave a token, nothing was renewed: {done.failed[0].reason}; run the command again"
        )
    said = f"renewal {done.made.statement.index}"
    again = f"renew again before {utc_text(done.ends)}" if done.ends else ""
    if done.failed:
        given = len(done.answers) - len(done.failed)
        return f"{said}: {given} of {len(done.answers)} authorities gave a token; run the command again for the rest"
    if not done.answers:
        return f"nothing is due: {said} covers everything; {again}"
    return f"{said} covers {done.survey.heads} heads and all their tokens; {again}"
