"""An RFC 3161 authority over HTTP: threads that each accept a connection and serve it. PROTOCOL section 8.

Every query that is an HTTP request gets a TimeStampResp, granted or with the PKIFailureInfo for what is wrong with it.
A client that is slow, silent or hostile costs one thread for a bounded time and holds up nobody else.
docs/decisions/0025.
"""

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from polledger.errors import Unavailable
from polledger.timestamp.connection import REQUEST_SECONDS, Connection, HttpRefused
from polledger.timestamp.figures import Counter, Figures
from polledger.timestamp.messages import (
    SYSTEM_FAILURE,
    TIME_NOT_AVAILABLE,
    RequestRefused,
    granting_response,
    rejecting_response,
)

CONNECTIONS: Final = 128
"""Connections served at once, a thread each. Beyond half of them, none is kept alive for a next request."""

USHERS: Final = 8
"""Threads that tell further connections that there are too many. While they are busy, others wait to be accepted."""

BACKLOG: Final = 128
"""Connections that may wait to be accepted."""

FILES: Final = 2 * (CONNECTIONS + USHERS)
"""Open files the process must be allowed: each thread that waits for a connection holds the place of one already."""

DRAIN_SECONDS: Final = 2 * REQUEST_SECONDS
"""How long a stop waits for requests that have begun: as long as one may take to come and its answer to be taken."""

EXHAUSTED_SECONDS: Final = 0.1
"""Pause when the system gives no more descriptors, which accepting at once again would not change."""

COMPLAINT_SECONDS: Final = 60.0
"""How often the same trouble is told again."""


class Server:
    """Serves ``issue``, which gives the token for a query or raises RequestRefused, on a listening socket.

    Anything else that ``issue`` raises becomes a systemFailure, and a line for ``warn``, which gets one line for
    whatever an operator should know. Both are called from several threads.

    Raises Unavailable where the process may not open enough files.
    """

    def __init__(
        self, listener: socket.socket, issue: Callable[[bytes], bytes], *, warn: Callable[[str], None]
    ) -> None:
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if allowed < FILES:
            raise Unavailable(
                f"{allowed} open files are allowed, {FILES} are needed: run `ulimit -n {FILES}`"
            )
        self._listener = listener
        self._issue = issue
        self._warn = warn
        self._counter = Counter()
        self._stopping = False
        # Not an event: a signal handler must not take a lock that its own thread may hold.
        self._wake, self._waker = socket.socketpair()
        self._open: set[Connection] = set()
        self._threads = 0
        self._changed = threading.Condition()
        self._complained: dict[str, float] = {}

    def serve(self, *, every: float, report: Callable[[Figures], None]) -> Figures:
        """Serve until :meth:`stop`, then answer what has begun; the figures of the whole time.

        ``report`` gets the figures of each stretch of ``every`` seconds. Raises Unavailable if the system gives too
        few threads.
        """
        try:
            for _ in range(CONNECTIONS + USHERS):
                self._start(self._work)
        except RuntimeError:
            raise Unavailable(f"{CONNECTIONS + USHERS} threads cannot be started: raise the limit") from None
        with self._wake, self._waker:
            self._wake.settimeout(every)
            while not self._stopping:
                try:
                    self._wake.recv(1)
                except TimeoutError:
                    report(self._counter.take())
            self._drain()
        self._counter.take()
        return self._counter.total()

    def stop(self) -> None:
        """Let :meth:`serve` end. May be called from a signal handler and more than once."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b".")

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        # Counted before it runs: whoever waits for the end of all threads must not miss one.
        with self._changed:
            self._threads += 1
        threading.Thread(
            target=self._run, args=(work, *arguments), name="timestamp client", daemon=True
        ).start()

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        finally:
            with self._changed:
                self._threads -= 1
                self._changed.notify_all()

    def _drain(self) -> None:
        # Whoever is connected and waits to be accepted may have sent its request.
        self._listener.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                self._start(self._handle, self._listener.accept()[0])
        # Wakes the threads that wait for a connection.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._changed:
            for connection in self._open:
                connection.hurry()
            self._changed.wait_for(lambda: not self._threads, DRAIN_SECONDS)

    def _work(self) -> None:
        """Serve one connection after the other."""
        while not self._stopping:
            try:
                peer, _ = self._listener.accept()
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if not self._stopping:
                    self._complain(f"no connection can be accepted: {error.strerror}")
                    time.sleep(EXHAUSTED_SECONDS)
                continue
            self._handle(peer)

    def _handle(self, peer: socket.socket) -> None:
        connection = Connection(peer, stopping=lambda: self._stopping)
        with self._changed:
            self._open.add(connection)
            number = len(self._open)
        try:
            if number > CONNECTIONS:
                self._turn_away(connection)
            else:
                self._serve(connection)
        finally:
            connection.close()
            with self._changed:
                self._open.discard(connection)

    def _turn_away(self, connection: Connection) -> None:
        self._complain(f"more than {CONNECTIONS} connections at once: some are turned away")
        busy = HttpRefused(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", {"Retry-After": "1"})
        self._refuse(connection, busy)

    def _serve(self, connection: Connection) -> None:
        try:
            while self._exchange(connection):
                pass
        except HttpRefused as refused:
            self._refuse(connection, refused)
        except OSError:
            # The connection broke: nobody is there to be told.
            pass

    def _exchange(self, connection: Connection) -> bool:
        """Answer the next request; whether another may follow. Raises what :meth:`Connection.read` raises."""
        query = connection.read()
        if query is None:
            return False
        started = time.perf_counter()
        response, granted = self._respond(query.body)
        keep_alive = query.keep_alive and not self._stopping and len(self._open) <= CONNECTIONS // 2
        connection.answer(response, keep_alive=keep_alive)
        self._counter.answered(time.perf_counter() - started, granted=granted)
        return keep_alive

    def _respond(self, query: bytes) -> tuple[bytes, bool]:
        try:
            return granting_response(self._issue(query)), True
        except RequestRefused as refused:
            if refused.failure == TIME_NOT_AVAILABLE:
                self._complain(str(refused))
            return rejecting_response(refused.failure, str(refused)), False
        except Exception as error:
            # Whatever it is, the client gets an answer and the operator hears of it.
            self._complain(f"no token could be made: {type(error).__name__}: {error}")
            return rejecting_response(SYSTEM_FAILURE, "the authority has a trouble of its own"), False

    def _refuse(self, connection: Connection, refused: HttpRefused) -> None:
        self._counter.refused()
        with contextlib.suppress(OSError):
            connection.refuse(refused)

    def _complain(self, text: str) -> None:
        now = time.monotonic()
        with self._changed:
            if now < self._complained.get(text, 0.0):
                return
            self._complained = {known: until for known, until in self._complained.items() if until > now}
            self._complained[text] = now + COMPLAINT_SECONDS
        self._warn(text)
