"""Timestamps that are still to come, in words."""

from collections.abc import Sequence

from polledger.core.report import counted
from polledger.core.timesummary import Waiting


def waiting_rows(waiting: Sequence[Waiting]) -> list[tuple[str, str]]:
    """A row for each authority that has not answered all it was asked."""
    by_authority: dict[str, list[Waiting]] = {}
    for one in waiting:
        by_authority.setdefault(one.authority, []).append(one)
    return [("waiting", waiting_of(name, ones)) for name, ones in by_authority.items()]


def waiting_of(authority: str, waiting: Sequence[Waiting]) -> str:
    """What waits for ``authority``, since when, and why."""
    since = min((one.since for one in waiting if one.since is not None), default=None)
    tried = max(waiting, key=lambda one: (bool(one.reason), one.seal))
    why = f": {tried.reason}" if tried.reason else ": not asked yet"
    when = f" since {since}" if since else ""
    return f"{counted(len(waiting), 'seal')} for {authority}{when}{why}"
