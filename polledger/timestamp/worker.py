"""A thread that asks for tokens while training goes on. PROTOCOL section 8: an authority never stalls training."""

import queue
import threading
import time
from datetime import timedelta
from typing import Final

from polledger.timestamp.queue import Pending
from polledger.timestamp.stamper import Stamper

POLL: Final = timedelta(seconds=15)
"""How often queued requests are looked through for one that is due; half the shortest pause between attempts."""


class StampWorker:
    """Runs a :class:`Stamper` beside the caller. Use as a context manager, or call :meth:`close`."""

    def __init__(self, stamper: Stamper, *, poll: timedelta = POLL) -> None:
        self._stamper = stamper
        self._poll = poll.total_seconds()
        self._fresh: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="timestamps", daemon=True)
        self._thread.start()

    def submit(self, seal_index: int, digest: bytes) -> None:
        """Make the requests for a head durable and return; tokens are asked for soon.

        Raises Unavailable when the queue cannot be written, and, with the requests queued, what storing a token
        raised earlier in the thread.
        """
        for pending in self._stamper.enqueue(seal_index, digest):
            self._fresh.put(pending)
        self._raise_failure()

    def close(self, *, timeout: float | None = None) -> None:
        """Finish what was submitted, at most ``timeout`` seconds; what is left stays queued on disk.

        Raises what storing a token raised in the thread.
        """
        self._fresh.put(None)
        self._thread.join(timeout)
        self._raise_failure()

    def __enter__(self) -> "StampWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

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
            for _ in self._stamper.retry(self._stamper.due() if waiting is None else waiting):
                pass
        except Exception as error:
            self._failure = error
