"""How often one authority is asked: its interval, and pauses that grow while it does not answer. PROTOCOL section 8."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

SPACING: Final = timedelta(seconds=1)
"""Time between two requests to an authority that publishes no interval: nobody notices, and no server is flooded."""

FIRST_REST: Final = timedelta(seconds=5)
LONGEST_REST: Final = timedelta(minutes=10)
"""Pauses after failures to reach an authority double from the first to the longest: a restart takes seconds, and after
hours of outage tokens are wanted soon; a request in ten minutes burdens nobody."""


class Pace:
    """When one authority may be asked again, in seconds of ``timer``. For one thread at a time."""

    def __init__(self, interval: timedelta, timer: Callable[[], float]) -> None:
        self._interval = interval.total_seconds()
        self._timer = timer
        self._spaced = self._rested = timer()
        self._failures = 0

    def asked(self, *, ago: float = 0.0) -> None:
        """A request was made, or ended, ``ago`` seconds before now: the next one keeps the interval to it."""
        self._spaced = max(self._spaced, self._timer() + self._interval - ago)

    def answered(self) -> None:
        """It answered, whatever it said."""
        self._failures = 0
        self._rested = self._timer()

    def failed(self) -> None:
        """It could not be reached: the longer that goes on, the longer it is left in peace."""
        # Bounded before shifting: an outage may last for months.
        rest = min(FIRST_REST * (1 << min(self._failures, 16)), LONGEST_REST)
        self._rested = self._timer() + rest.total_seconds()
        self._failures += 1

    def hurry(self) -> None:
        """End the pause after a failure; the interval stays."""
        self._rested = self._timer()

    @property
    def is_down(self) -> bool:
        """Whether the last attempt failed to reach it."""
        return self._failures > 0

    def spacing(self) -> float:
        """Seconds until the interval is over."""
        return max(0.0, self._spaced - self._timer())

    def rest(self) -> float:
        """Seconds until the pause after a failure is over."""
        return max(0.0, self._rested - self._timer())
