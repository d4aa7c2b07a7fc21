"""Challenges, proofs and what a verifier makes of them, in tests; and proofs taken apart and put together again."""

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from polledger.core.challenge import Challenge
from polledger.core.digest import sha256
from polledger.core.encoding import encode
from polledger.core.head import parse_note
from polledger.core.proof import FRAME, MAGIC, Kind
from polledger.core.report import Report
from polledger.store.bundle import write_proof
from polledger.store.unpack import read_proof
from polledger.verify.ancestry import FindRun, nowhere
from polledger.verify.answering import Answer, read_run
from polledger.verify.asking import Asked
from polledger.verify.evidence import read_evidence, read_presented
from polledger.verify.policy import Policy
from polledger.verify.sketched import sketches_for
from polledger.verify.verifier import verify
from tests.verify.build import NOW, Built
from tests.verify.check import Silent, request

Frame = tuple[int, bytes]


def challenge_of(built: Built, *, seal: int = -1, **changes: Any) -> Challenge:
    """A challenge for two intervals under the newest head, or that of seal number ``seal``."""
    note = built.run.read_seal(built.run.seals()[seal]).note
    values: dict[str, Any] = {
        "v": 1,
        "run": parse_note(note).head.run,
        "note": note,
        "nonce": b"n" * 32,
        "policy": Policy().digest(),
        "made": int(NOW.timestamp()),
        "count": 2,
    }
    return Challenge(**{**values, **changes})


def asked(challenge: Challenge, *, own: bool = True, arrived: datetime = NOW) -> Asked:
    return Asked(challenge=challenge, digest=sha256(encode(challenge)), own=own, arrived=arrived)


def answer(
    built: Built,
    challenge: Challenge,
    *,
    engines: Any = None,
    compact: bool = False,
    sketches: bytes | None = None,
) -> Answer:
    """The answer to ``challenge``, with the run's sketches if it has a seed, or with those given."""
    readable = read_run(built.run)
    if sketches is None and challenge.seed is not msgspec.UNSET:
        sketches = sketches_for(built.run, readable.lineage, challenge)
    return Answer(
        readable=readable,
        asked=asked(challenge),
        engines=engines or built.engines(),
        compact=compact,
        sketches=sketches or b"",
    )


def prove(built: Built, challenge: Challenge, path: Path, **options: Any) -> Path:
    """The proof that answers ``challenge``, written to ``path``."""
    path.write_bytes(b"".join(write_proof(answer(built, challenge, **options).contents())))
    return path


def check_proof(
    built: Built,
    path: Path,
    challenge: Challenge | None,
    *,
    code: Any = None,
    arrived: datetime = NOW,
    **values: Any,
) -> Report:
    """Verify the proof at ``path``; without a challenge under the one that it brings along."""
    with tempfile.TemporaryDirectory() as directory:
        evidence = read_presented(read_proof(path, Path(directory)))
        presented = evidence.presented
        assert presented is not None
        question = (
            asked(challenge, arrived=arrived)
            if challenge is not None
            else asked(presented.challenge, own=False, arrived=arrived)
        )
        return verify(
            evidence,
            request(asked=question, nonce=question.challenge.nonce, **values),
            load_code=code or built.code(),
            clock=time.monotonic,
            watcher=Silent(),
        )


def check_asked(
    built: Built, challenge: Challenge, *, code: Any = None, find: FindRun = nowhere, **values: Any
) -> Report:
    """Verify the run directory under ``challenge``."""
    return verify(
        read_evidence(built.run),
        request(asked=asked(challenge), nonce=challenge.nonce, **values),
        load_code=code or built.code(),
        clock=time.monotonic,
        watcher=Silent(),
        find=find,
    )


def frames_of(data: bytes) -> list[Frame]:
    """Every frame of a proof but the last."""
    assert data.startswith(MAGIC)
    frames, at = [], len(MAGIC)
    while at < len(data):
        kind, length = FRAME.unpack_from(data, at)
        at += FRAME.size
        frames.append((kind, data[at : at + length]))
        at += length
    assert frames[-1][0] == Kind.END
    return frames[:-1]


def join(frames: Sequence[Frame]) -> bytes:
    """A proof of these frames, with the digest that belongs to them: what a forger writes."""
    data = MAGIC + b"".join(FRAME.pack(kind, len(content)) + content for kind, content in frames)
    return data + FRAME.pack(Kind.END, 32) + hashlib.sha256(data).digest()


def change(path: Path, edit: Callable[[list[Frame]], Sequence[Frame]]) -> Path:
    """The proof at ``path`` with its frames edited, and a digest that fits."""
    changed = path.with_suffix(".changed")
    changed.write_bytes(join(edit(frames_of(path.read_bytes()))))
    return changed
