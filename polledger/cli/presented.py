"""What ``polledger verify`` is given: a run directory, or a proof that is unpacked for the time of one command."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polledger.core.challenge import Challenge
    from polledger.store.run import RunDirectory
    from polledger.verify.asking import Asked
    from polledger.verify.evidence import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Evidence and the directory that holds its objects. ``arrived``: when it came to be on this machine."""

    run: "RunDirectory"
    evidence: "Evidence"
    arrived: datetime


@contextlib.contextmanager
def shown(path: Path, now: datetime) -> Iterator[Shown]:
    """What ``path`` holds. Raises UsageError if that is nothing to verify, ProofRejected for a damaged proof."""
    from polledger.errors import UsageError
    from polledger.store.run import RunDirectory
    from polledger.store.unpack import is_proof
    from polledger.verify.evidence import read_evidence

    if path.is_file():
        if not is_proof(path.resolve()):
            raise UsageError(f"{path} is neither the directory of a run nor a proof")
        with _unpacked(path, now) as found:
            yield found
        return
    run = RunDirectory.open(path)
    yield Shown(run=run, evidence=read_evidence(run), arrived=now)


@contextlib.contextmanager
def _unpacked(path: Path, now: datetime) -> Iterator[Shown]:
    import tempfile

    from polledger.store.unpack import read_proof
    from polledger.verify.evidence import read_presented

    with tempfile.TemporaryDirectory(prefix="polledger-") as directory:
        proof = read_proof(path.resolve(), Path(directory))
        yield Shown(run=proof.run, evidence=read_presented(proof), arrived=_arrival(path, now))


def _arrival(path: Path, now: datetime) -> datetime:
    """When this machine's own record of the file last changed: unlike its other times nobody sets that by hand."""
    from datetime import UTC

    return min(now, datetime.fromtimestamp(path.stat().st_ctime, UTC))


def read_asked(shown: Shown, challenge: Path | None) -> "Asked | None":
    """The challenge that says what is opened: the verifier's, or the one in the proof; none for a run without one.

    Raises UsageError for a file that is no challenge.
    """
    from polledger.verify.asking import Asked

    if challenge is not None:
        found, digest = read_challenge(challenge)
        return Asked(challenge=found, digest=digest, own=True, arrived=shown.arrived)
    presented = shown.evidence.presented
    if presented is None:
        return None
    return Asked(challenge=presented.challenge, digest=presented.digest, own=False, arrived=shown.arrived)


def read_challenge(path: Path) -> "tuple[Challenge, bytes]":
    """The challenge in a file, and the digest of that. Raises UsageError if it holds none, Unavailable."""
    from polledger.core.challenge import CHALLENGE_LIMITS, parse_challenge
    from polledger.core.digest import sha256
    from polledger.errors import MalformedError, UsageError
    from polledger.files import read_bounded

    try:
        data = bytes(read_bounded(path.resolve(), limit=CHALLENGE_LIMITS.size))
        return parse_challenge(data), sha256(data)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: give the file of a challenge") from None
    except MalformedError as error:
        raise UsageError(f"{path} is no challenge: {error}") from None
