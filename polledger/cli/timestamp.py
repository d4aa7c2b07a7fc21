"""``polledger timestamp``: verify one RFC 3161 token; fetch what a run still waits for; renew (:mod:`.renew`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from polledger.cli.defaults import Verb, require_verb
from polledger.cli.options import JsonOption
from polledger.cli.output import output
from polledger.core.moment import utc_text
from polledger.core.text import one_line
from polledger.errors import (
    EXIT_CANNOT_PROCEED,
    EXIT_OK,
    MalformedError,
    PolledgerError,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from polledger.store.run import RunDirectory
    from polledger.timestamp.queue import Pending, RequestQueue
    from polledger.timestamp.stamper import Outcome, Stamper, Token
    from polledger.timestamp.token import Timestamp
    from polledger.timestamp.witness import Cosigned

app = typer.Typer(help="Timestamps: verify a token, fetch the ones still missing, renew them all.")

VERIFY_SCHEMA: Final = "polledger.timestamp-verify/1"
RETRY_SCHEMA: Final = "polledger.timestamp-retry/1"

CLOCK_SKEW: Final = timedelta(seconds=60)
"""How far genTime may lie ahead of this machine's clock when no ``--at`` is given: clocks differ a little."""

PEM_BYTES: Final = 1 << 20


@app.callback(invoke_without_command=True)
def _verbs(context: typer.Context) -> None:
    require_verb(context)


@app.command("verify", cls=Verb)
def verify(
    token: Annotated[Path, typer.Argument(help="A TimeStampResp or a bare token, DER.", metavar="TOKEN")],
    digest: Annotated[
        str, typer.Option("--digest", metavar="HEX", help="The digest that was timestamped, in hex.")
    ],
    roots: Annotated[
        list[Path], typer.Option("--roots", metavar="PEM", help="PEM file of the certificates you trust.")
    ],
    hash_name: Annotated[
        str, typer.Option("--hash", metavar="NAME", help="sha256, sha384 or sha512.")
    ] = "sha256",
    intermediates: Annotated[
        list[Path] | None,
        typer.Option("--intermediates", metavar="PEM", help="PEM file of further certificates, not trusted."),
    ] = None,
    nonce: Annotated[
        str | None, typer.Option("--nonce", metavar="INT", help="Nonce of the request; decimal or 0x hex.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", metavar="OID", help="Accepted policy, dotted.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="TIME", help="Latest time genTime may have, ISO 8601 with zone. Default: now."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify one timestamp token strictly, at the time it states, offline.

    Revocation is not checked. Exit code 0: valid; 1: invalid, with the reason; 2: usage.
    """
    from polledger.timestamp.token import verify_response

    with reporting(VERIFY_SCHEMA, verdict=True):
        timestamp = verify_response(
            read_file(token, 1 << 17),
            digest=_hex(digest),
            hash_name=hash_name,
            roots=_certificates(roots),
            intermediates=_certificates(intermediates or []),
            nonce=None if nonce is None else _number(nonce),
            policies=[_policy(one) for one in policy or []],
            at=datetime.now(UTC) + CLOCK_SKEW if at is None else _moment(at),
        )
    fields = fields_of(timestamp)
    output.result({"schema": VERIFY_SCHEMA, "exit_code": EXIT_OK, "valid": True, **fields})
    for name, value in fields.items():
        said = "(not stated)" if value is None else one_line(str(value))
        output.text(f"{name.replace('_', ' '):10} {said}")
    output.sentence(f"valid: the digest existed at {fields['gen_time']}, says {timestamp.tsa}")


@app.command("retry", cls=Verb)
def retry(
    run: Annotated[Path, typer.Argument(help="The run directory.", metavar="RUN")],
    as_json: JsonOption = False,
) -> None:
    """Ask again for every timestamp and cosignature that the run still waits for; add what arrives to its seals.

    The newest seals come first: a token over one covers all before it. Authorities are asked at their own interval.
    Exit code 0: nothing waits any more; 4: some authority still gave no token, or a witness no cosignature.
    """
    from polledger.store.run import RunDirectory

    with reporting(RETRY_SCHEMA):
        again = _ask_again(RunDirectory.open(run))
    outcomes, damaged = again.outcomes, again.damaged
    failed = [outcome for outcome in outcomes if outcome.token is None]
    unsigned = [outcome for outcome in again.witnessed if outcome.token is None]
    code = EXIT_CANNOT_PROCEED if failed or unsigned or damaged else EXIT_OK
    output.result({
        "schema": RETRY_SCHEMA,
        "exit_code": code,
        "obtained": [_obtained(outcome) for outcome in outcomes if outcome.token is not None],
        "pending": [_pending(outcome) for outcome in failed],
        "cosigned": [_cosigned(outcome) for outcome in again.witnessed if outcome.token is not None],
        "unwitnessed": [_unwitnessed(outcome) for outcome in unsigned],
        "damaged": damaged,
    })  # fmt: skip
    output.sentence(_sentence(again, len(failed), len(unsigned)))
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Again:
    """What became of the requests that wait, and the names of files in the queues that hold none."""

    outcomes: "Sequence[Outcome[Token]]" = ()
    witnessed: "Sequence[Outcome[Cosigned]]" = ()
    damaged: Sequence[str] = ()


def _ask_again(directory: "RunDirectory") -> _Again:
    from polledger.timestamp.queue import RequestQueue
    from polledger.training.witnessing import witness_requests

    if not directory.queue_path.exists() and not directory.witness_queue_path.exists():
        # The lock would make private/ in a copy that came without it.
        return _Again()
    with directory.lock():
        queue, heads = RequestQueue(directory.queue_path), RequestQueue(directory.witness_queue_path)
        outcomes: list[Outcome[Token]] = []
        stamper = _stamper(directory, queue)
        for outcome in stamper.retry(stamper.waiting()):
            output.note(_line(outcome))
            outcomes.append(outcome)
        asking = witness_requests(directory, ())
        witnessed: list[Outcome[Cosigned]] = []
        for answer in asking.retry(asking.waiting()):
            output.note(_witness_line(answer))
            witnessed.append(answer)
        damaged = [path.name for path in (*queue.damaged(), *heads.damaged())]
        return _Again(outcomes=outcomes, witnessed=witnessed, damaged=damaged)


def _stamper(directory: "RunDirectory", queue: "RequestQueue") -> "Stamper":
    from polledger.keys import home
    from polledger.timestamp.authority import EmbeddedAuthority
    from polledger.timestamp.directory import known_intervals
    from polledger.timestamp.stamper import EMBEDDED_URL, Embedded, Stamper, keep_token

    local = any(pending.url == EMBEDDED_URL for pending in queue.pending())
    return Stamper(
        authorities=[Embedded(authority=EmbeddedAuthority.open(home() / "tsa"))] if local else [],
        queue=queue,
        clock=lambda: datetime.now(UTC),
        keep=lambda seal, token: keep_token(directory, seal, token),
        intervals=known_intervals(home),
    )


def _line(outcome: "Outcome[Token]") -> str:
    where = f"seal {outcome.pending.seal}, {outcome.pending.authority}"
    if outcome.token is None:
        return f"{where}: {outcome.reason}"
    return f"{where}: token of {utc_text(outcome.token.timestamp.gen_time)}"


def _witness_line(outcome: "Outcome[Cosigned]") -> str:
    where = f"seal {outcome.pending.seal}, witness {outcome.pending.authority}"
    if outcome.token is None:
        return f"{where}: {outcome.reason}"
    return f"{where}: cosigned at {utc_text(outcome.token.cosignature.time)}"


def _obtained(outcome: "Outcome[Token]") -> dict[str, Any]:
    pending = outcome.pending
    stated = {} if outcome.token is None else fields_of(outcome.token.timestamp)
    return {"seal": pending.seal, "authority": pending.authority, **stated}


def _pending(outcome: "Outcome[Token]") -> dict[str, Any]:
    pending: Pending = outcome.pending
    return {
        "seal": pending.seal,
        "authority": pending.authority,
        "attempts": pending.attempts,
        "reason": outcome.reason,
    }


def _cosigned(outcome: "Outcome[Cosigned]") -> dict[str, Any]:
    pending = outcome.pending
    stated = {} if outcome.token is None else {"time": utc_text(outcome.token.cosignature.time)}
    return {"seal": pending.seal, "witness": pending.authority, **stated}


def _unwitnessed(outcome: "Outcome[Cosigned]") -> dict[str, Any]:
    pending = outcome.pending
    asked = {"seal": pending.seal, "witness": pending.authority, "attempts": pending.attempts}
    return {**asked, "reason": outcome.reason}


def _sentence(again: _Again, failed: int, unsigned: int) -> str:
    from polledger.core.report import counted

    said = _summary(len(again.outcomes), failed, again.damaged)
    if not again.witnessed:
        return said
    total = len(again.witnessed)
    heads = f"{total - unsigned} of {counted(total, 'cosignature')} obtained"
    return f"{said}; {heads}{', the rest stays queued' if unsigned else ''}"


def _summary(total: int, failed: int, damaged: Sequence[str]) -> str:
    if damaged:
        return f"{len(damaged)} files in the queue are damaged and were left alone: {', '.join(damaged)}"
    if not total:
        return "no timestamp waits"
    if failed:
        return f"{total - failed} of {total} timestamps obtained; the rest stays queued"
    return f"{total} timestamps obtained; none waits any more"


@contextmanager
def reporting(schema: str, *, verdict: bool = False) -> Iterator[None]:
    """Print the JSON object of this command when its work fails; the error goes on to be printed as a line."""
    try:
        yield
    except PolledgerError as error:
        invalid = {"valid": False} if verdict and isinstance(error, MalformedError) else {}
        output.result({"schema": schema, "exit_code": error.exit_code, **invalid, "error": str(error)})
        raise


def fields_of(timestamp: "Timestamp") -> dict[str, Any]:
    accuracy = timestamp.accuracy
    return {
        "gen_time": utc_text(timestamp.gen_time),
        "accuracy": None if accuracy is None else accuracy.total_seconds(),
        "policy": timestamp.policy,
        "serial": f"{timestamp.serial:x}",
        "nonce": None if timestamp.nonce is None else f"{timestamp.nonce:x}",
        "hash": timestamp.hash_name,
        "digest": timestamp.imprint.hex(),
        "ordering": timestamp.ordering,
        "tsa": timestamp.tsa,
    }


def read_file(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, not a file") from None
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror or error}") from None


def _certificates(paths: Sequence[Path]) -> "list[Certificate]":
    from polledger.timestamp.certificates import read_pem

    found = []
    for path in paths:
        try:
            found += read_pem(read_file(path, PEM_BYTES))
        except MalformedError as error:
            raise UsageError(f"{path}: {error}") from None
    return found


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"--digest is not hex: {text[:80]!r}") from None


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"--nonce is not a whole number: {text[:80]!r}") from None


def _policy(text: str) -> str:
    from polledger.timestamp import der

    der.oid(text)
    return text


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at is not a time like 2026-11-22T06:13:21Z: {text[:80]!r}") from None
    if moment.tzinfo is None:
        raise UsageError(f"--at needs a time zone, for example {text}Z")
    return moment
