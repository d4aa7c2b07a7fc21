"""A prover's refusal: when ``open`` writes one, and what ``verify`` makes of it. PROTOCOL section 11."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polledger.core.challenge import Challenge, Refusal
    from polledger.core.report import Report
    from polledger.verify.answering import Answer
    from polledger.verify.request import Request


def reason_to_refuse(answer: "Answer", now: datetime, most: int | None) -> str:
    """Why the challenge is not answered; empty where nothing speaks against it."""
    from msgspec import UNSET

    from polledger.core.moment import utc_text

    challenge, terms = answer.asked.challenge, answer.readable.genesis.terms
    if challenge.deadline is not UNSET and now.timestamp() > challenge.deadline:
        return f"the deadline was {utc_text(datetime.fromtimestamp(challenge.deadline, UTC))}"
    if terms is not UNSET and terms.policy not in (UNSET, challenge.policy):
        return "the challenge is under another policy than the one that was fixed before training"
    if most is not None and len(answer.opened) > most:
        return f"{len(answer.opened)} intervals would be opened, and no more than {most} are"
    return ""


def write_refusal(challenge: "Challenge", digest: bytes, reason: str, out: Path, key: Path | None) -> None:
    """Write a refusal of ``challenge``, signed if there is a key. Raises UsageError if ``out`` exists."""
    from polledger.cli.challenge import write_new
    from polledger.core.challenge import Refusal, sign_refusal
    from polledger.core.encoding import encode
    from polledger.keys import load_key

    made = int(datetime.now(UTC).timestamp())
    refusal = Refusal(v=1, run=challenge.run, challenge=digest, reason=reason, made=made)
    if key is not None:
        refusal = sign_refusal(refusal, load_key(key.expanduser()))
    write_new(out, encode(refusal))


def read_refusal(path: Path) -> "Refusal | None":
    """The refusal in the file at ``path``; None if it holds none."""
    from polledger.core.challenge import CHALLENGE_LIMITS, parse_refusal
    from polledger.errors import MalformedError
    from polledger.files import read_bounded

    if not path.is_file() or path.stat().st_size > CHALLENGE_LIMITS.size:
        return None
    try:
        return parse_refusal(bytes(read_bounded(path.resolve(), limit=CHALLENGE_LIMITS.size)))
    except MalformedError:
        return None


def refused(refusal: "Refusal", challenge: Path | None, request: "Request") -> "Report":
    """The report over a refusal: nothing was shown, by whom and why. It is no evidence against anybody."""
    from polledger import __version__
    from polledger.cli.presented import read_challenge
    from polledger.core.moment import utc_text
    from polledger.core.report import Finding, Report

    asked = None if challenge is None else read_challenge(challenge)
    at = utc_text(datetime.fromtimestamp(refusal.made, UTC))
    detail = f"the prover refused {at}: {refusal.reason} ({_signer(refusal, asked[0] if asked else None)})"
    if asked is not None and asked[1] != refusal.challenge:
        made = utc_text(datetime.fromtimestamp(asked[0].made, UTC))
        detail = f"this refuses another challenge; yours, made {made}, is unanswered"
    remedy = "a run that is not opened is not shown: withholding cannot be told from loss"
    finding = Finding(step=6, name="challenge.refused", outcome="unverifiable", detail=detail, remedy=remedy)
    policy = request.policy.digest().hex()
    return Report(
        run=refusal.run.hex(),
        head=None,
        findings=(finding,),
        policy=policy,
        at=utc_text(request.now.replace(microsecond=0)),
        version=__version__,
    )


def _signer(refusal: "Refusal", challenge: "Challenge | None") -> str:
    """Who signed it, as far as the head in the challenge tells."""
    from msgspec import UNSET

    from polledger.core.head import open_note
    from polledger.errors import MalformedError

    if refusal.key is UNSET:
        return "not signed"
    try:
        if challenge is not None:
            open_note(challenge.note, key=refusal.key)
            return "signed by the key of the run"
    except MalformedError:
        return f"signed by {refusal.key.hex()}, which is not the key of the run"
    return f"signed by {refusal.key.hex()}"
