"""What ``polledger inspect`` says about the files that two parties exchange. Nothing is verified."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polledger.core.challenge import Challenge, Refusal


def describe_file(path: Path, now: datetime) -> dict[str, Any]:
    """Fields of ``inspect --json`` for a challenge, a refusal or a proof. Raises UsageError for any other file."""
    from polledger.cli.presented import read_challenge
    from polledger.cli.refusing import read_refusal
    from polledger.errors import UsageError
    from polledger.store.unpack import is_proof

    if is_proof(path.resolve()):
        return _proof(path, now)
    refusal = read_refusal(path)
    if refusal is not None:
        return _refusal(refusal)
    try:
        challenge, digest = read_challenge(path)
    except UsageError:
        raise UsageError(f"{path} is no run directory, challenge, refusal or proof") from None
    return _challenge(challenge, digest, now)


def _challenge(challenge: "Challenge", digest: bytes, now: datetime) -> dict[str, Any]:
    from msgspec import UNSET

    from polledger.cli.challenge import asks

    made = _moment(challenge.made)
    due = None if challenge.deadline is UNSET else _moment(challenge.deadline)
    return {
        "kind": "challenge",
        "digest": digest.hex(),
        "run": challenge.run.hex(),
        "asks": asks(challenge),
        "records": challenge.head.size,
        "head": challenge.head.digest().hex(),
        "policy": challenge.policy.hex(),
        "made": _text(made),
        "age": _span(now - made),
        "deadline": None if due is None else _text(due),
        "overdue": _span(now - due) if due is not None and now > due else None,
        "signed": None if challenge.key is UNSET else challenge.key.hex(),
    }


def _refusal(refusal: "Refusal") -> dict[str, Any]:
    from msgspec import UNSET

    return {
        "kind": "refusal",
        "run": refusal.run.hex(),
        "challenge": refusal.challenge.hex(),
        "reason": refusal.reason,
        "made": _text(_moment(refusal.made)),
        "signed": None if refusal.key is UNSET else refusal.key.hex(),
    }


def _proof(path: Path, now: datetime) -> dict[str, Any]:
    import tempfile

    from msgspec import UNSET

    from polledger.cli.challenge import asks
    from polledger.store.unpack import read_proof

    with tempfile.TemporaryDirectory(prefix="polledger-") as directory:
        proof = read_proof(path.resolve(), Path(directory))
        return {
            "kind": "proof",
            "run": proof.header.run.hex(),
            "mode": proof.header.mode,
            "challenge": proof.header.challenge.hex(),
            "asks": asks(proof.challenge),
            "made": _text(_moment(proof.challenge.made)),
            "seals": len(proof.run.seals()),
            "examples": len(proof.examples()),
            "sketches": None if proof.header.sketches is UNSET else proof.header.sketches.hex(),
            "bytes": path.stat().st_size,
        }


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _text(moment: datetime) -> str:
    from polledger.core.moment import utc_text

    return utc_text(moment)


def _span(time: timedelta) -> str:
    """``3 days 4 h``, ``5 h 10 min``: as exactly as anybody wants to know."""
    minutes = max(0, int(time.total_seconds()) // 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days} days {hours} h" if days else f"{hours} h {minutes % 60} min"
