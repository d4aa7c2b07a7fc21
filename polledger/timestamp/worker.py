"""Threads that ask for tokens while training goes on. PROTOCOL section 8: an authority never stalls training."""

import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from polledger.timestamp.queue import Pending
from polledger.timestamp.stamper import Requests

POLL: Final = timedelta(seconds=15)
"""How often queued requests are looked through for one that is due; half the shortest pause between attempts."""


class StampWorker:
    """Runs a :class:`Stamper`, or other requests, beside the caller. Use as a context manager, or call :meth:`close`.

    Each authority is asked by a thread of its own: one that hangs holds up no other.
    """

    def __init__(self, stamper: Requests[Any], *, poll: timedelta = POLL) -> None:
        self._stamper = stamper
        known = frozenset(stamper.urls)
        self._lanes = {url: _Lane(stamper, poll, takes=url.__eq__) for url in stamper.urls}
        # What an earlier process asked of other authorities waits in the queue as well.
        self._others = _Lane(stamper, poll, takes=lambda url: url not in known)

    def submit(self, seal_index: int, digest: bytes) -> None:
        """Make the requests for a head durable and return; tokens are asked for soon.

        Raises Unavailable when the queue cannot be written, and, with the requests queued, what storing a token
        raised earlier in a thread.
        """
        for pending in self._stamper.enqueue(seal_index, digest):
            self._lanes[pending.url].put(pending)
        self._raise_failure()

    def close(self, *, timeout: float | None = None) -> None:
        """Finish what was submitted, at most ``timeout`` seconds; what is left stays queued on disk.

        Nothing is written once this returns, not even by a thread that still waits for an authority. Raises what
        storing a token raised in a thread.
        """
        lanes = self._all()
        for lane in lanes:
            lane.put(None)
        deadline = None if timeout is None else time.monotonic() + timeout
        for lane in lanes:
            lane.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._stamper.stop()
        self._raise_failure()

    def __enter__(self) -> "StampWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all(self) -> list["_Lane"]:
        return [*self._lanes.values(), self._others]

    def _raise_failure(self) -> None:
        failures = [lane.take_failure() for lane in self._all()]
        failure = next((found for found in failures if found is not None), None)
        if failure is not None:
            raise failure


class _Lane:
    """The thread that asks the authorities whose URL it ``takes``."""

    def __init__(self, stamper: Requests[Any], poll: timedelta, *, takes: Callable[[str], bool]) -> None:
        self._stamper = stamper
        self._poll = poll.total_seconds()
        self._takes = takes
        self._fresh: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="timestamps", daemon=True)
        self._thread.start()

    def put(self, pending: Pending | None) -> None:
        """Ask for this one soon; None: nothing more will come."""
        self._fresh.put(pending)

    def join(self, timeout: float | None) -> None:
        """Wait for the end of the thread, at most ``timeout`` seconds."""
        self._thread.join(timeout)

    def take_failure(self) -> Exception | None:
        """What storing a token raised since the last call."""
        failure, self._failure = self._failure, None
        return failure

    def _run(self) -> None:
        looked = time.monotonic()
        while True:
            fresh, last = self._collect()
            if fresh:
                self._guarded(fresh)
            if last:
                return
            if time.monotonic() - looked >= self._poll:
                looked = time.monotonic()
                self._guarded(None)

    def _collect(self) -> tuple[list[Pending], bool]:
        """What was submitted since, after waiting for it; and whether nothing more will come.

        Taken together, so that an authority which does not answer costs its time limit once for all of them.
        """
        fresh: list[Pending] = []
        try:
            item = self._fresh.get(timeout=self._poll)
            while item is not None:
                fresh.append(item)
                item = self._fresh.get_nowait()
            return fresh, True
        except queue.Empty:
            return fresh, False

    def _guarded(self, waiting: list[Pending] | None) -> None:
        """Attempt ``waiting``, or what is due. The caller, not this thread, must hear of a full disk."""
        try:
            for _ in self._stamper.retry(self._due() if waiting is None else waiting):
                pass
        except Exception as error:
            self._failure = error

    def _due(self) -> list[Pending]:
        return [pending for pending in self._stamper.due() if self._takes(pending.url)]
