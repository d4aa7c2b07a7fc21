"""Authorities by name: the user's own ``trust.toml``, then the list that polledger ships. PROTOCOL section 14.

Where to ask, and how often; whom to believe is the verifier's trust file alone.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from polledger.errors import Unavailable, UsageError
from polledger.timestamp.trust import TrustEntry, load_trust

SHIPPED: Final = Path(__file__).with_name("authorities.toml")
TRUST_NAME: Final = "trust.toml"
"""File in the user's directory whose authorities can be asked by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """Authorities that can be asked; the user's own first, so that they win over shipped ones of the same name."""

    entries: tuple[TrustEntry, ...]

    def find(self, name: str) -> TrustEntry:
        """The authority called ``name``. Raises UsageError, with near names, if none of that name has a URL."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        names = sorted({entry.name for entry in self.entries})
        near = difflib.get_close_matches(name, names, n=3) or names
        raise UsageError(
            f"no authority is called {name!r}; near: {', '.join(near)}; a URL can be given as well"
        )

    def intervals(self) -> dict[str, timedelta]:
        """Least time between two requests by URL, where an entry states one; the first that does."""
        return {entry.url: entry.interval for entry in reversed(self.entries) if entry.interval is not None}


def load_directory(home: Path) -> Directory:
    """The authorities of ``home``/trust.toml, if it exists, and the shipped ones.

    Raises UsageError for mistakes in the user's file, Unavailable if it cannot be read.
    """
    own = home / TRUST_NAME
    entries = load_trust(own).entries if own.exists() else ()
    return Directory(entries=tuple(_asked([*entries, *load_trust(SHIPPED).entries])))


def known_intervals(home: Callable[[], Path]) -> dict[str, timedelta]:
    """:meth:`Directory.intervals`; where there is no home, or no file in it that can be used, of the shipped ones.

    Waiting is no mistake: a run on a machine without a home directory asks the authorities that it was given.
    """
    try:
        return load_directory(home()).intervals()
    except (UsageError, Unavailable):
        return Directory(entries=load_trust(SHIPPED).entries).intervals()


def _asked(entries: Iterable[TrustEntry]) -> Iterable[TrustEntry]:
    return (entry for entry in entries if entry.url)
