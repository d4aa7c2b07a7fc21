"""How many checkpoints a disk has room for: ``--keep auto``. PROTOCOL section 12."""

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from polledger.errors import Unavailable, UsageError
from polledger.training.recording import Cadence

SHARE: Final = 10
"""Without a size given, a run may take one part in so many of what is free."""

_UNITS: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto:
    """``--keep auto``: store as many checkpoints as fit into ``budget`` bytes, or into a tenth of what is free."""

    budget: int | None = None


def parse_keep(value: object) -> int | Auto:
    """What ``--keep`` takes: a number of checkpoints, ``auto``, or ``auto:50GB``. Raises UsageError for all else."""
    text = str(value)
    if text.isdecimal():
        return int(text)
    found = re.fullmatch(r"auto(?::([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([KMGT]?B))?", text, re.IGNORECASE)
    if found is None:
        raise UsageError(
            f"--keep takes a number of checkpoints, auto, or auto with a size like auto:50GB, not {text[:80]!r}"
        )
    number, unit = found.groups()
    return Auto(budget=None if number is None else int(float(number) * _UNITS[unit.upper()]))


def resolve(cadence: Cadence, keep: Auto, *, state_bytes: int, directory: Path) -> Cadence:
    """``cadence`` with the smallest ``keep`` whose states, of ``state_bytes`` each, fit.

    Raises Unavailable if not even those fit that are always stored.
    """
    budget = keep.budget
    if budget is None:
        budget = shutil.disk_usage(directory).free // SHARE
    room = budget // max(1, state_bytes)
    least, most = 1, max(1, cadence.steps // cadence.every + 1)
    if stored_count(replace(cadence, keep=most)) > room:
        raise Unavailable(
            f"{stored_count(replace(cadence, keep=most))} states of {in_words(state_bytes)} are stored at least, and "
            f"--keep auto has {in_words(budget)} for them: give it more, like --keep auto:50GB, or fewer --warm"
        )
    while least < most:
        middle = (least + most) // 2
        if stored_count(replace(cadence, keep=middle)) > room:
            least = middle + 1
        else:
            most = middle
    return replace(cadence, keep=least)


def stored_count(cadence: Cadence) -> int:
    """How many states a run stores."""
    stride = cadence.every * cadence.keep
    warm = min(cadence.warm, cadence.steps)
    later = cadence.steps // stride - warm // stride
    ends_apart = cadence.steps > warm and cadence.steps % stride != 0
    return warm + 1 + later + ends_apart


def in_words(size: float) -> str:
    """``size`` bytes in a decimal unit, three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
