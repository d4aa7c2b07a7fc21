"""``polledger challenge``: ask a prover to open a sample of a run that is not here. PROTOCOL section 11."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polledger.cli.output import output

if TYPE_CHECKING:
    from datetime import datetime

    from polledger.core.challenge import Challenge
    from polledger.verify.policy import Policy
    from polledger.verify.sampling import SampleRequest

EXAMPLES = (
    "Examples: `polledger challenge seals/000007.msgpack --sample 20 -o c.challenge`; "
    "`polledger challenge head.note --sample 99% --deadline 7d --key me.pem -o c.challenge`."
)

SUFFIX = "seals/NNNNNN.msgpack or the note in it"


def run(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|HEAD",
            help=f"The prover's newest head: {SUFFIX}; or the directory of a run.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--output", help="File to write; one that exists is never overwritten.")
    ],
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample",
            metavar="N|99%",
            help="Intervals to open: a number, or odds like 99% against 10% bogus intervals. Default: 99%.",
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="TOML file with your bounds.")
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            "--deadline", metavar="TIME", help="When the proof must be here: 7d, 12h, or an ISO time."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Your Ed25519 key (PEM): signs the challenge."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> int:
    """Write a challenge with a fresh nonce under the given head. Keep the file: only whoever has it can verify."""
    from datetime import UTC, datetime

    from polledger.core.challenge import sign_challenge
    from polledger.core.encoding import encode
    from polledger.errors import EXIT_OK
    from polledger.keys import load_key
    from polledger.verify.policy import load_policy
    from polledger.verify.sampling import parse_sample

    now = datetime.now(UTC)
    note, intervals = read_head(source)
    challenge = make(
        note,
        parse_sample(sample),
        load_policy(policy),
        now=now,
        deadline=None if deadline is None else parse_deadline(deadline, now),
        intervals=intervals,
    )
    if key is not None:
        challenge = sign_challenge(challenge, load_key(key.expanduser()))
    data = encode(challenge)
    write_new(out, data)
    _report(challenge, data, out)
    return EXIT_OK


def read_head(source: Path) -> tuple[bytes, int | None]:
    """The signed note that ``source`` holds, and how many intervals its run has, where that can be told.

    Raises UsageError if it holds none.
    """
    from polledger.core.encoding import SEAL_LIMITS
    from polledger.core.records import NOTE_BYTES, parse_seal
    from polledger.errors import MalformedError, UsageError
    from polledger.files import read_bounded
    from polledger.store.run import RunDirectory
    from polledger.verify.asking import newest_note

    if source.is_dir():
        return newest_note(RunDirectory.open(source))
    try:
        data = bytes(read_bounded(source.resolve(), limit=max(SEAL_LIMITS.size, NOTE_BYTES)))
    except FileNotFoundError:
        raise UsageError(f"{source} does not exist: give {SUFFIX}, or the directory of a run") from None
    try:
        note = parse_seal(data).note
    except MalformedError:
        note = data
    return _checked(note, source), None


def _checked(note: bytes, source: Path) -> bytes:
    from polledger.core.head import parse_note
    from polledger.errors import MalformedError, UsageError

    try:
        parse_note(note)
    except MalformedError as error:
        raise UsageError(f"{source} holds no head ({error}): give {SUFFIX}") from None
    return note


def make(
    note: bytes,
    sample: "SampleRequest",
    policy: "Policy",
    *,
    now: "datetime",
    deadline: "datetime | None",
    intervals: int | None,
) -> "Challenge":
    """A challenge for a sample under the head of ``note``."""
    import secrets

    from msgspec import UNSET

    from polledger.core.challenge import Challenge
    from polledger.core.encoding import real
    from polledger.core.head import parse_note

    odds = policy.sample.odds if sample.odds is None else sample.odds
    return Challenge(
        v=1,
        run=parse_note(note).head.run,
        note=note,
        nonce=secrets.token_bytes(32),
        policy=policy.digest(),
        made=int(now.timestamp()),
        deadline=UNSET if deadline is None else int(deadline.timestamp()),
        count=UNSET if sample.count is None else sample.count,
        odds=real(odds) if sample.count is None else UNSET,
        bogus=real(policy.sample.bogus) if sample.count is None else UNSET,
        intervals=intervals or UNSET,
    )


def parse_deadline(text: str, now: "datetime") -> "datetime":
    """``7d``, ``12h`` or an ISO time (UTC where it names no zone). Raises UsageError; it has to lie ahead."""
    import re
    from datetime import UTC, datetime, timedelta

    from polledger.errors import UsageError

    match = re.fullmatch(r"(\d{1,5})([dh])", text.strip())
    try:
        if match:
            moment = now + timedelta(hours=int(match[1]) * (24 if match[2] == "d" else 1))
        else:
            moment = datetime.fromisoformat(text.strip())
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"--deadline is 7d, 12h or a time like 2027-01-31T12:00Z, not {text!r}") from None
    if moment <= now:
        raise UsageError(f"--deadline {text} is in the past")
    return moment


def write_new(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, where no file may be. Raises UsageError if there is one, Unavailable."""
    from polledger.errors import UsageError
    from polledger.files import PUBLIC_FILE, write_once

    try:
        write_once(path, data, mode=PUBLIC_FILE)
    except FileExistsError:
        raise UsageError(f"{path} exists, and is never overwritten: choose another name") from None


def asks(challenge: "Challenge") -> str:
    """What a challenge asks for, in words."""
    from msgspec import UNSET

    from polledger.core.encoding import from_real
    from polledger.core.report import counted

    if challenge.count is not UNSET:
        return counted(challenge.count, "interval")
    if challenge.odds is not UNSET and challenge.bogus is not UNSET:
        odds, bogus = from_real(challenge.odds), from_real(challenge.bogus)
        return f"as many intervals as find {bogus:.0%} bogus ones with probability {odds:g}"
    return "sketches of every stored checkpoint"


def _report(challenge: "Challenge", data: bytes, out: Path) -> None:
    from msgspec import UNSET

    from polledger.core.digest import sha256

    head = challenge.head
    output.result(
        {
            "schema": "polledger.challenge/1",
            "exit_code": 0,
            "file": str(out),
            "digest": sha256(data).hex(),
            "run": challenge.run.hex(),
            "head": {"size": head.size, "root": head.root.hex(), "digest": head.digest().hex()},
            "asks": asks(challenge),
            "deadline": None if challenge.deadline is UNSET else challenge.deadline,
        }
    )
    output.text(f"polledger open RUN {out.name} -o FILE")
    output.sentence(
        f"{out} asks for {asks(challenge)} under the head over {head.size} records; keep it, and send the prover a copy"
    )
