"""How much an authority serves, and how fast: counted by its threads, told in one line."""

import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was served in ``seconds``. ``busy`` and ``slowest`` are seconds from a query read to its answer sent."""

    seconds: float = 0.0
    granted: int = 0
    rejected: int = 0
    """Queries answered with a PKIFailureInfo."""
    refused: int = 0
    """Requests that HTTP refused, connections turned away among them."""
    busy: float = 0.0
    slowest: float = 0.0

    @property
    def answered(self) -> int:
        return self.granted + self.rejected

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def __add__(self, later: "Figures") -> "Figures":
        return Figures(
            seconds=self.seconds + later.seconds,
            granted=self.granted + later.granted,
            rejected=self.rejected + later.rejected,
            refused=self.refused + later.refused,
            busy=self.busy + later.busy,
            slowest=max(self.slowest, later.slowest),
        )

    def sentence(self) -> str:
        mean = 1e3 * self.busy / self.answered if self.answered else 0.0
        return (
            f"{self.granted} tokens, {self.rejected} rejections, {self.refused} HTTP refusals in "
            f"{self.seconds:.0f} s: {self.rate:.1f} answers/s, {mean:.2f} ms each, the slowest "
            f"{1e3 * self.slowest:.2f} ms"
        )


class Counter:
    """Counts for several threads, stretch by stretch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Figures()
        self._begin()

    def _begin(self) -> None:
        self._since = time.monotonic()
        self._granted = self._rejected = self._refused = 0
        self._busy = self._slowest = 0.0

    def answered(self, seconds: float, *, granted: bool) -> None:
        with self._lock:
            self._granted += granted
            self._rejected += not granted
            self._busy += seconds
            self._slowest = max(self._slowest, seconds)

    def refused(self) -> None:
        with self._lock:
            self._refused += 1

    def take(self) -> Figures:
        """The stretch since the last call, or since the start; a new one begins."""
        with self._lock:
            stretch = Figures(
                seconds=time.monotonic() - self._since,
                granted=self._granted,
                rejected=self._rejected,
                refused=self._refused,
                busy=self._busy,
                slowest=self._slowest,
            )
            self._begin()
            self._total += stretch
            return stretch

    def total(self) -> Figures:
        """All stretches that were taken."""
        return self._total
