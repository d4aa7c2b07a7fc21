"""When seals were made, by this machine's clock: from it follow how long a request waits and how late a token came.

A note for the prover, beside the queue: nothing signs it, it decides nothing, and a copy of the run comes without it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import UNSET

from polledger.core.moment import utc_milliseconds
from polledger.core.timesummary import Waiting
from polledger.errors import Unavailable
from polledger.files import PRIVATE_FILE, append, read_bounded
from polledger.timestamp.queue import LAST_MOMENT, RequestQueue

NOTE_BYTES: Final = 1 << 26
"""Largest note read: 20 bytes a seal."""


class SealTimes:
    """The note at ``path``: a line for each seal."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, seal: int, now: datetime) -> None:
        """Add a line. Raises Unavailable if it cannot be written; it need not outlive a crash of the machine."""
        append(self._path, f"{seal} {round(now.timestamp() * 1000)}\n".encode("ascii"), mode=PRIVATE_FILE)

    def read(self) -> dict[int, datetime]:
        """The times by seal, the first where there are several. What cannot be read is left out."""
        try:
            lines = bytes(read_bounded(self._path, limit=NOTE_BYTES)).splitlines()
        except (FileNotFoundError, Unavailable):
            return {}
        found: dict[int, datetime] = {}
        for line in lines:
            numbers = line.split()
            if len(numbers) == 2 and all(number.isdigit() and len(number) <= 15 for number in numbers):
                seal, moment = map(int, numbers)
                if moment <= LAST_MOMENT:
                    found.setdefault(seal, datetime.fromtimestamp(moment / 1000, UTC))
        return found


def waiting_in(queue: RequestQueue, made: Mapping[int, datetime]) -> tuple[Waiting, ...]:
    """The requests that wait, by seal; a queue that cannot be read counts as empty.

    They wait since their seal was made, or, where that is not known, since the first attempt failed.
    """
    try:
        pending = queue.pending()
    except Unavailable:
        return ()
    found = []
    for one in pending:
        failed = None if one.first_failure is UNSET else datetime.fromtimestamp(one.first_failure / 1000, UTC)
        since = made.get(one.seal, failed)
        found.append(
            Waiting(
                seal=one.seal,
                authority=one.authority,
                since=None if since is None else utc_milliseconds(since),
                attempts=one.attempts,
                reason="" if one.reason is UNSET else one.reason,
            )
        )
    return tuple(found)
