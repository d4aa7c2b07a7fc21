"""``polledger challenge``: ask a prover to open a sample of a run that is not here. PROTOCOL section 11."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polledger.cli.options import JsonOption, NewFileOption, PolicyOption
from polledger.cli.output import output

if TYPE_CHECKING:
    from datetime import datetime

    from polledger.core.challenge import Challenge
    from polledger.verify.policy import Policy
    from polledger.verify.sampling import SampleRequest

EXAMPLES = (
    "Examples: `polledger challenge seals/000007.msgpack --sample 20 -o c.challenge`; in two rounds, so that the whole "
    "run is screened: `polledger challenge head.note --sketch -o c1`, and with the answer "
    "`polledger challenge s1 --challenge c1 --sample 99% --deadline 7d -o c2`."
)

SUFFIX = "seals/NNNNNN.msgpack or the note in it"


def run(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|HEAD|SKETCHES",
            help=f"The prover's newest head: {SUFFIX}; the directory of a run; or the sketches that you asked for.",
            show_default=False,
        ),
    ],
    out: NewFileOption,
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample",
            metavar="N|99%",
            help="Intervals to open: a number, or odds like 99% against 10% bogus intervals. Default: 99%.",
        ),
    ] = None,
    sketch: Annotated[
        bool, typer.Option("--sketch", help="Ask for sketches first; draw the sample when they are here.")
    ] = False,
    challenge: Annotated[
        Path | None,
        typer.Option("--challenge", metavar="FILE", help="Your challenge that SKETCHES answers."),
    ] = None,
    policy: PolicyOption = None,
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
    as_json: JsonOption = False,
) -> int:
    """Write a challenge with a fresh nonce under the given head. Keep the file: only whoever has it can verify."""
    from datetime import UTC, datetime

    from msgspec import UNSET
    from msgspec.structs import replace

    from polledger.core.challenge import sign_challenge
    from polledger.core.encoding import encode
    from polledger.errors import EXIT_OK, UsageError
    from polledger.keys import load_key
    from polledger.verify.policy import load_policy
    from polledger.verify.sampling import parse_sample

    now = datetime.now(UTC)
    bounds = load_policy(policy)
    limit = UNSET if deadline is None else int(parse_deadline(deadline, now).timestamp())
    if is_answer(source):
        made = after_sketches(source, challenge, parse_sample(sample), bounds, now=now)
    elif challenge is not None:
        raise UsageError(f"--challenge belongs to the sketches that answer it, and {source} is none")
    elif sketch and sample is not None:
        raise UsageError("--sketch asks for sketches alone: leave --sample out until they are here")
    else:
        note, intervals = read_head(source)
        made = make(note, None if sketch else parse_sample(sample), bounds, now=now, intervals=intervals)
    made = replace(made, deadline=limit)
    if key is not None:
        made = sign_challenge(made, load_key(key.expanduser()))
    data = encode(made)
    write_new(out, data)
    _report(made, data, out)
    return EXIT_OK


def is_answer(source: Path) -> bool:
    """Whether ``source`` is a proof, as a prover answers with."""
    from polledger.store.unpack import is_proof

    return source.is_file() and is_proof(source.resolve())


def after_sketches(
    source: Path, first: Path | None, sample: "SampleRequest", policy: "Policy", *, now: "datetime"
) -> "Challenge":
    """The second challenge: the same head, a fresh nonce, and what screening of the sketches has opened besides.

    Raises UsageError without the first challenge, ProofRejected if this is no answer to it.
    """
    from polledger.cli.presented import read_challenge, shown
    from polledger.errors import UsageError
    from polledger.verify.sketched import after_answer

    if first is None:
        raise UsageError(f"{source} answers a challenge: give yours with --challenge")
    before, digest = read_challenge(first)
    made = make(before.note, sample, policy, now=now, intervals=None)
    with shown(source, now) as found:
        return after_answer(found.evidence, before, digest, made, policy=policy)


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
    note: bytes, sample: "SampleRequest | None", policy: "Policy", *, now: "datetime", intervals: int | None
) -> "Challenge":
    """A challenge for a sample under the head of ``note``; without ``sample`` one for sketches."""
    import secrets

    from msgspec import UNSET

    from polledger.core.challenge import Challenge
    from polledger.core.encoding import real
    from polledger.core.head import parse_note

    count = None if sample is None else sample.count
    by_odds = sample is not None and count is None
    odds = policy.sample.odds if sample is None or sample.odds is None else sample.odds
    return Challenge(
        v=1,
        run=parse_note(note).head.run,
        note=note,
        nonce=secrets.token_bytes(32),
        policy=policy.digest(),
        made=int(now.timestamp()),
        count=UNSET if count is None else count,
        odds=real(odds) if by_odds else UNSET,
        bogus=real(policy.sample.bogus) if by_odds else UNSET,
        intervals=intervals or UNSET,
        seed=secrets.token_bytes(32) if sample is None else UNSET,
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

    besides = f" and {len(challenge.added)} that the sketches single out" if challenge.added else ""
    if challenge.count is not UNSET:
        return f"{counted(challenge.count, 'interval')}{besides}"
    if challenge.odds is not UNSET and challenge.bogus is not UNSET:
        odds, bogus = from_real(challenge.odds), from_real(challenge.bogus)
        return f"as many intervals as find {bogus:.0%} bogus ones with probability {odds:g}{besides}"
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
