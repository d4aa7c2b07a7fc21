"""Every spoof that this red team has, in the order of their numbers.

A module that makes spoofs lists them as ``SPOOFS`` and is named here. What is known to verify all the same, and is
stated among the limits in ``docs/soundness.md``, it lists as ``LIMITS``.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from polledger.errors import UsageError
from polledger.redteam import (
    ancestry,
    backdating,
    blindfold,
    buffers,
    drift,
    flooding,
    foreign,
    forged_init,
    grinding,
    history,
    hostile,
    infinitesimal,
    interpolation,
    peeking,
    planted,
    presenter,
    republication,
    smuggling,
    steering,
    stolen_start,
    synthetic,
    tampering,
    tolerance_drift,
    walking,
)
from polledger.redteam.spoof import Spoof

_MODULES = (
    interpolation,
    forged_init,
    synthetic,
    infinitesimal,
    blindfold,
    planted,
    walking,
    buffers,
    tampering,
    drift,
    stolen_start,
    history,
    backdating,
    republication,
    grinding,
    hostile,
    smuggling,
    peeking,
    foreign,
    steering,
    presenter,
    tolerance_drift,
    flooding,
    ancestry,
)


def catalogue() -> tuple[Spoof, ...]:
    """All entries, by number and then in the order in which their module lists them; stated limits say so."""
    spoofs = [spoof for module in _MODULES for spoof in module.SPOOFS]
    limits = [replace(spoof, limit=True) for module in _MODULES for spoof in getattr(module, "LIMITS", ())]
    return tuple(sorted([*spoofs, *limits], key=_number))


def _number(spoof: Spoof) -> int:
    return spoof.number


def chosen(names: Iterable[str], spoofs: Iterable[Spoof] | None = None) -> tuple[Spoof, ...]:
    """The entries that ``names`` ask for: ``9`` all of that number, ``2+1`` that one; without names all quick ones.

    Raises UsageError for a name that no entry has.
    """
    known = tuple(catalogue() if spoofs is None else spoofs)
    wanted = list(names)
    for name in wanted:
        if not any(_matches(spoof, name) for spoof in known):
            numbers = ", ".join(str(number) for number in sorted({spoof.number for spoof in known}))
            near = ", ".join(spoof.name for spoof in known if name.startswith(f"{spoof.number}+"))
            raise UsageError(f"there is no spoof {name!r}: choose from {near or numbers}")
    if not wanted:
        return tuple(spoof for spoof in known if not spoof.slow)
    return tuple(spoof for spoof in known if any(_matches(spoof, name) for name in wanted))


def _matches(spoof: Spoof, name: str) -> bool:
    return spoof.name == name or (re.fullmatch(r"[0-9]+", name) is not None and spoof.number == int(name))
