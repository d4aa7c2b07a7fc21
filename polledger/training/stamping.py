"""Timestamps of a run that is being sealed: which authorities, and threads that ask them. PROTOCOL section 8."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from polledger.core.head import Head
from polledger.errors import PolledgerError, UsageError
from polledger.keys import home
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.queue import RequestQueue
from polledger.timestamp.stamper import Authority, Embedded, Http, Stamper, keep_token
from polledger.timestamp.worker import StampWorker

EMBEDDED = "embedded"

CLOSE_SECONDS = 15.0
"""How long the end of a run waits for authorities: one time limit of a request, and some to store what came."""


def choose_authorities(names: Sequence[str]) -> list[Authority]:
    """The authorities that ``--tsa`` names: URLs, or ``embedded``, which is the default.

    Raises UsageError for anything else, Unavailable when the embedded authority cannot be opened.
    """
    return [_authority(name) for name in dict.fromkeys(names or [EMBEDDED])]


def _authority(name: str) -> Authority:
    if name == EMBEDDED:
        return Embedded(authority=EmbeddedAuthority.open(home() / "tsa"))
    if "://" not in name:
        raise UsageError(f"--tsa takes a URL or 'embedded', not {name!r}")
    return Http(url=name)


class Stamping:
    """Asks for tokens over every head it is told, beside the training. Nothing that fails here stops a run."""

    def __init__(
        self, run: RunDirectory, authorities: Sequence[Authority], *, warn: Callable[[str], None]
    ) -> None:
        # Its own view of the run: what these threads write and sync is none of the training thread's business.
        self._run = RunDirectory.open(run.path)
        self._queue = RequestQueue(run.queue_path)
        stamper = Stamper(
            authorities=authorities,
            queue=self._queue,
            clock=lambda: datetime.now(UTC),
            keep=lambda index, token: keep_token(self._run, index, token),
        )
        self._worker = StampWorker(stamper)
        self._warn = warn

    def stamp(self, seal: int, head: Head) -> None:
        """Queue a request for the head of ``seal`` and return at once."""
        try:
            self._worker.submit(seal, head.digest())
        except PolledgerError as error:
            self._warn(f"seal {seal} is durable, but: {error}")

    def catch_up(self, seal: int, head: Head) -> None:
        """Queue a request unless the seal has a token or one waits: the process may have ended in between."""
        waiting = {pending.seal for pending in self._queue.pending()}
        if seal not in waiting and not self._run.read_seal(seal).tokens:
            self.stamp(seal, head)

    def close(self) -> int:
        """Wait a while for what was submitted; how many requests go on waiting in the queue.

        Nothing here touches the run any more afterwards, so that its lock can be given back.
        """
        try:
            self._worker.close(timeout=CLOSE_SECONDS)
        except PolledgerError as error:
            self._warn(f"a timestamp could not be kept: {error}")
        return len(self._queue.pending())
