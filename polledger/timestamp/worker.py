"""Threads that ask for tokens while training goes on. PROTOCOL section 8: an authority never stalls training."""

import math
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, TypeAlias

from msgspec import UNSET

from polledger.errors import Unavailable
from polledger.timestamp.queue import Pending
from polledger.timestamp.stamper import Outcome, Requests

POLL: Final = timedelta(seconds=15)
"""Longest time between two looks at what waits: half the shortest pause between attempts."""


_Identity: TypeAlias = tuple[int, str, bytes]
"""Seal, authority and request: what makes two entries of the queue one."""


class StampWorker:
    """Runs a :class:`Stamper`, or other requests, beside the caller. Use as a context manager, or call :meth:`close`.

    Each authority is asked by a thread of its own: one that hangs holds up no other. What waits in the queue from
    before is asked for as well, also where authorities are asked that the stamper does not know.
    """

    def __init__(self, stamper: Requests[Any], *, poll: timedelta = POLL) -> None:
        self._stamper = stamper
        self._failure: Exception | None = None
        left = self._left()
        urls = dict.fromkeys([*stamper.urls, *(pending.url for pending in left)])
        self._lanes = {
            url: _Lane(stamper, url, poll, [pending for pending in left if pending.url == url])
            for url in urls
        }

    def submit(self, seal_index: int, digest: bytes) -> None:
        """Make the requests for a head durable and return; tokens are asked for soon.

        Raises Unavailable when the queue cannot be written, and, with the requests queued, what storing a token
        raised earlier in a thread.
        """
        for pending in self._stamper.enqueue(seal_index, digest):
            self._lanes[pending.url].put(pending)
        self._raise_failure()

    def close(self, *, timeout: float | None = None) -> None:
        """Ask for what nobody was asked for yet, within ``timeout`` seconds; what is left stays queued on disk.

        An authority that did not answer lately is tried once more. Nothing is written once this returns, not even by a
        thread that still waits for an authority. Raises what storing a token raised in a thread.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        for lane in self._lanes.values():
            lane.close(deadline)
        for lane in self._lanes.values():
            lane.join(deadline)
        self._stamper.stop()
        self._raise_failure()

    def __enter__(self) -> "StampWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _left(self) -> list[Pending]:
        try:
            return self._stamper.waiting()
        except Unavailable as error:
            # Said with the next seal: what waited before must not keep a run from beginning.
            self._failure = error
            return []

    def _raise_failure(self) -> None:
        failures = [self._failure, *(lane.take_failure() for lane in self._lanes.values())]
        self._failure = None
        failure = next((found for found in failures if found is not None), None)
        if failure is not None:
            raise failure


class _Lane:
    """The thread that asks at one URL: newest seal first, because a token over it covers the earlier ones."""

    def __init__(self, requests: Requests[Any], url: str, poll: timedelta, left: Iterable[Pending]) -> None:
        self._requests = requests
        self._pace = requests.pace(url)
        self._poll = poll.total_seconds()
        self._waiting = {_identity(pending): pending for pending in left}
        # What failed while nobody answered there need not sit out its own pause once somebody does.
        self._overdue: set[_Identity] = set()
        self._wake = threading.Condition()
        self._deadline: float | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="timestamps", daemon=True)
        self._thread.start()

    def put(self, pending: Pending) -> None:
        """Ask for this one soon."""
        with self._wake:
            self._waiting[_identity(pending)] = pending
            self._wake.notify()

    def close(self, deadline: float) -> None:
        """Nothing more will come: end by ``deadline`` (of time.monotonic), sooner if everything was asked for once."""
        with self._wake:
            self._pace.hurry()
            self._deadline = deadline
            self._wake.notify()

    def join(self, deadline: float) -> None:
        """Wait for the end of the thread, at most until ``deadline``."""
        self._thread.join(None if deadline == math.inf else max(0.0, deadline - time.monotonic()))

    def take_failure(self) -> Exception | None:
        """What storing a token raised since the last call."""
        failure, self._failure = self._failure, None
        return failure

    def _run(self) -> None:
        while (pending := self._next()) is not None:
            was_down = self._pace.is_down
            try:
                outcome = self._requests.attempt(pending)
            except Exception as error:
                # The caller, not this thread, must hear of a full disk.
                self._failure = error
            else:
                self._note(pending, outcome, was_down=was_down)

    def _next(self) -> Pending | None:
        """What to ask for now, after waiting for it; None: the end."""
        with self._wake:
            while True:
                if self._deadline is not None:
                    return self._last(self._deadline)
                pause = max(self._pace.spacing(), self._pace.rest())
                chosen = None if pause > 0 else _newest(filter(self._is_due, self._waiting.values()))
                if chosen is not None:
                    return chosen
                self._wake.wait(min(pause, self._poll) if pause > 0 else self._poll)

    def _last(self, deadline: float) -> Pending | None:
        """At the end: what nobody was asked for yet, as far as interval and deadline allow."""
        chosen = _newest(pending for pending in self._waiting.values() if pending.last_failure is UNSET)
        pause = self._pace.spacing()
        if chosen is None or self._pace.rest() > 0 or pause > deadline - time.monotonic():
            return None
        self._wake.wait_for(lambda: False, timeout=pause)
        return chosen

    def _is_due(self, pending: Pending) -> bool:
        fresh = pending.last_failure is UNSET
        return fresh or _identity(pending) in self._overdue or self._requests.is_due(pending)

    def _note(self, pending: Pending, outcome: Outcome[Any], *, was_down: bool) -> None:
        key = _identity(pending)
        with self._wake:
            if outcome.gone or outcome.token is not None:
                self._waiting.pop(key, None)
            else:
                self._waiting[key] = outcome.pending
            if not outcome.unreachable and not outcome.gone:
                self._overdue = set(self._waiting) if was_down else self._overdue
                self._overdue.discard(key)


def _identity(pending: Pending) -> _Identity:
    return pending.seal, pending.authority, pending.request


def _newest(waiting: Iterable[Pending]) -> Pending | None:
    return max(waiting, key=lambda pending: pending.seal, default=None)
