"""Timestamps of a run that is being sealed: which authorities, and threads that ask them. PROTOCOL section 8."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from polledger.core.head import Head
from polledger.core.timesummary import Waiting
from polledger.errors import PolledgerError, Unavailable, UsageError
from polledger.keys import home
from polledger.store.run import RunDirectory
from polledger.timestamp.address import public_url
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.directory import Directory, known_intervals, load_directory
from polledger.timestamp.queue import RequestQueue
from polledger.timestamp.sealtimes import SealTimes, waiting_in
from polledger.timestamp.stamper import Authority, Embedded, Http, Stamper, keep_token
from polledger.timestamp.witness import Witness, is_cosigned
from polledger.timestamp.worker import StampWorker
from polledger.training.witnessing import witness_requests

EMBEDDED = "embedded"

CLOSE_SECONDS = 15.0
"""How long the end of a run waits for authorities: one time limit of a request, and some to store what came."""

LONGEST_WAIT = timedelta(minutes=1)
"""How much longer it waits where an authority's interval has to pass before the last seal can be stamped."""


def choose_authorities(names: Sequence[str]) -> list[Authority]:
    """The authorities that ``--tsa`` names: URLs, names of the directory, or ``embedded``, which is the default.

    All of them are asked for every seal. Raises UsageError for anything else, also for a mistake in the user's
    ``trust.toml``; Unavailable when the embedded authority cannot be opened.
    """
    chosen = list(dict.fromkeys(names or [EMBEDDED]))
    named = any(name != EMBEDDED and "://" not in name for name in chosen)
    directory = load_directory(home()) if named else Directory(entries=())
    found = [_authority(name, directory) for name in chosen]
    urls = [authority.url for authority in found]
    for number, url in enumerate(urls):
        if url in urls[:number]:
            first = chosen[urls.index(url)]
            raise UsageError(
                f"--tsa names one authority twice, as {shown(first)} and {shown(chosen[number])}"
            )
    return found


def shown(name: str) -> str:
    """What ``--tsa`` was given, fit for a message: a URL may carry credentials."""
    return public_url(name) if "://" in name else name


def _authority(name: str, directory: Directory) -> Authority:
    if name == EMBEDDED:
        return _embedded()
    if "://" in name:
        return Http(url=name)
    entry = directory.find(name)
    return Http(url=entry.url, name=entry.name)


def _embedded() -> Authority:
    return Embedded(authority=EmbeddedAuthority.open(home() / "tsa"))


class Stamping:
    """Asks for tokens and cosignatures over every head it is told, beside the training.

    Nothing that fails here stops a run.
    """

    def __init__(
        self,
        run: RunDirectory,
        authorities: Sequence[Authority],
        *,
        witnesses: Sequence[Witness] = (),
        warn: Callable[[str], None],
    ) -> None:
        # Its own view of the run: what these threads write and sync is none of the training thread's business.
        self._run = RunDirectory.open(run.path)
        self._queue = RequestQueue(run.queue_path)
        self._witness_queue = RequestQueue(run.witness_queue_path)
        self._times = SealTimes(run.seal_times_path)
        storing = threading.Lock()
        intervals = known_intervals(home)
        asked = [intervals.get(authority.url, timedelta(0)) for authority in authorities]
        self._patience = CLOSE_SECONDS + min(max(asked, default=timedelta(0)), LONGEST_WAIT).total_seconds()
        stamper = Stamper(
            authorities=authorities,
            queue=self._queue,
            clock=lambda: datetime.now(UTC),
            keep=lambda index, token: keep_token(self._run, index, token),
            storing=storing,
            intervals=intervals,
        )
        self._authorities = {authority.name for authority in authorities}
        self._witnesses = tuple(witnesses)
        self._tokens = StampWorker(stamper)
        self._cosignatures = StampWorker(witness_requests(self._run, witnesses, storing=storing))
        self._warn = warn

    def stamp(self, seal: int, head: Head) -> None:
        """Queue the requests for the head of ``seal`` and return at once."""
        with contextlib.suppress(Unavailable):
            # Only a note; a disk that is full is told about the queue.
            self._times.note(seal, datetime.now(UTC))
        self._submit(self._tokens, seal, head)
        self._submit(self._cosignatures, seal, head)

    def _submit(self, worker: StampWorker, seal: int, head: Head) -> None:
        try:
            worker.submit(seal, head.digest())
        except Exception as error:
            # Also what nobody foresaw, in a thread that read an authority's answer: the training is worth more.
            self._warn(f"seal {seal} is durable, but: {_words(error)}")

    def catch_up(self, seal: int, head: Head) -> None:
        """Queue what neither came nor waits for the last ``seal``: the process may have ended in between."""
        try:
            untold, unseen = self._lacks_token(seal), self._lacks_cosignature(seal)
        except PolledgerError as error:
            self._warn(f"seal {seal} is durable, but: {error}")
            return
        if untold:
            self._submit(self._tokens, seal, head)
        if unseen:
            self._submit(self._cosignatures, seal, head)

    def _lacks_token(self, seal: int) -> bool:
        waiting = {pending.authority for pending in self._queue.pending() if pending.seal == seal}
        given = {token.authority for token in self._run.read_seal(seal).tokens}
        return not self._authorities <= waiting | given

    def _lacks_cosignature(self, seal: int) -> bool:
        asked = {pending.witness for pending in self._witness_queue.pending() if pending.seal == seal}
        left = [witness.key for witness in self._witnesses if witness.key.vkey() not in asked]
        return any(not is_cosigned(self._run.read_seal(seal), witness) for witness in left)

    def close(self) -> tuple[Waiting, ...]:
        """Wait a while for what was submitted; the requests for tokens that go on waiting in the queue.

        Nothing here touches the run any more afterwards, so that its lock can be given back.
        """
        deadline = time.monotonic() + self._patience
        for worker in (self._tokens, self._cosignatures):
            try:
                worker.close(timeout=max(0.0, deadline - time.monotonic()))
            except Exception as error:
                self._warn(f"a timestamp could not be kept: {_words(error)}")
        return waiting_in(self._queue, self._times.read())

    def unwitnessed(self) -> tuple[Waiting, ...]:
        """The heads that wait for a witness."""
        return waiting_in(self._witness_queue, self._times.read())


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, PolledgerError) else f"{type(error).__name__}: {error}"
