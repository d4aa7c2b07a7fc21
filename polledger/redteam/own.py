"""The thief's own honest runs, which lies about records, time and files start from.

They cost one honest training each. Within a process they are kept by what was trained, and every spoof works on a
copy: trying twenty lies about one run does not take twenty trainings.
"""

import bisect
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from polledger.redteam.forge import forging, seal_options, thief_key
from polledger.redteam.spoof import Attempt, Target
from polledger.store.run import RunDirectory
from polledger.training.plan import SealOptions
from polledger.training.recording import Cadence

THIEF, VICTIM = "", "victim"
"""Names of keys: the thief's own, and that of somebody whose whole run it has."""

SEAL_EVERY = 4
"""Checkpoints between two seals: a run of a few intervals has several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    options: SealOptions
    key: bytes
    path: Path


_KEPT: list[_Kept] = []
_PLACE = tempfile.TemporaryDirectory(prefix="polledger-redteam-")


def own_run(
    target: Target,
    attempt: Attempt,
    name: str = "run",
    *,
    who: str = THIEF,
    seed: int = 0,
    unbound: bool = False,
) -> RunDirectory:
    """A copy, called ``name`` in the attempt's directory, of an honest run of the target's task.

    It is signed by the key of ``who``; ``seed`` and ``unbound`` are as ``polledger seal`` takes them. Raises
    UsageError or Unavailable as sealing does.
    """
    path = attempt.directory / name
    options = seal_options(target, attempt, run=Path(), seal_every=SEAL_EVERY, seed=seed, unbound=unbound)
    shutil.copytree(_trained(options, attempt, who), path, ignore=shutil.ignore_patterns("lock"))
    return RunDirectory.open(path)


def _trained(options: SealOptions, attempt: Attempt, who: str) -> Path:
    key = thief_key(attempt.seed, who)
    public = key.public_key().public_bytes_raw()
    for kept in _KEPT:
        if (kept.options, kept.key) == (options, public):
            return kept.path
    path = Path(_PLACE.name) / f"{len(_KEPT):04d}"
    attempt.watch("training a run of the thief's own")
    with forging(replace(options, run=path), key) as forge:
        forge.begin()
        forge.train_through(0, forge.steps)
        forge.finish()
    _KEPT.append(_Kept(options=options, key=public, path=path))
    return path


def interval_ends(cadence: Cadence) -> list[int]:
    """The step after which each interval ends, in order: there are as many as intervals."""
    return [step for step in range(1, cadence.steps + 1) if cadence.is_checkpoint(step)]


def intervals_with(cadence: Cadence, steps: Iterable[int]) -> int:
    """How many intervals hold one of ``steps`` (numbered from 0)."""
    ends = interval_ends(cadence)
    return len({bisect.bisect_right(ends, step) for step in steps})
