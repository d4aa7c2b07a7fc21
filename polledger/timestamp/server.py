"""An RFC 3161 authority over HTTP: a thread for each connection, at most so many. PROTOCOL section 8.

Every query that is an HTTP request gets a TimeStampResp, granted or with the PKIFailureInfo for what is wrong with it.
A client that is slow, silent or hostile costs one thread for a bounded time and holds up nobody else.
"""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

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
"""Connections served at once, a thread each. From half of them on, none is kept alive for a next request."""

TURNED_AWAY: Final = 32
"""Further connections that are told so, at once; any beyond are closed without a word."""

BACKLOG: Final = 128
"""Connections that wait to be accepted: a burst, while threads start."""

DRAIN_SECONDS: Final = 2 * REQUEST_SECONDS
"""How long a stop waits for requests that have begun: as long as one may take to come and its answer to be taken."""

EXHAUSTED_SECONDS: Final = 0.1
"""Pause when the system gives no more descriptors or threads, which accepting at once again would not change."""

COMPLAINT_SECONDS: Final = 60.0
"""How often the same trouble is told again."""


class Server:
    """Serves ``issue``, which gives the token for a query or raises RequestRefused, on a listening socket.

    Anything else that ``issue`` raises becomes a systemFailure, and a line for ``warn``, which gets one line for
    whatever an operator should know. Both are called from several threads.
    """

    def __init__(
        self, listener: socket.socket, issue: Callable[[bytes], bytes], *, warn: Callable[[str], None]
    ) -> None:
        self._listener = listener
        self._issue = issue
        self._warn = warn
        self._counter = Counter()
        self._stopping = False
        self._wake, self._waker = socket.socketpair()
        self._open: set[Connection] = set()
        self._changed = threading.Condition()
        self._complained: dict[str, float] = {}

    def serve(self, *, every: float, report: Callable[[Figures], None]) -> Figures:
        """Serve until :meth:`stop`, then answer what has begun; the figures of the whole time.

        ``report`` gets the figures of each stretch of ``every`` seconds.
        """
        self._listener.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            due = time.monotonic() + every
            while not self._stopping:
                if selector.select(max(0.0, due - time.monotonic())) and not self._stopping:
                    self._accept()
                if time.monotonic() >= due:
                    due += every
                    report(self._counter.take())
        self._drain()
        self._counter.take()
        return self._counter.total()

    def stop(self) -> None:
        """Let :meth:`serve` end. May be called from a signal handler and more than once."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b".")

    def _drain(self) -> None:
        # Whoever is connected and waits to be accepted may have sent its request.
        while self._accept():
            pass
        self._listener.close()
        with self._changed:
            for connection in self._open:
                connection.hurry()
            self._changed.wait_for(lambda: not self._open, DRAIN_SECONDS)
        self._wake.close()
        self._waker.close()

    def _accept(self) -> bool:
        """Take the next connection that waits; False where none does."""
        try:
            peer, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:
            self._complain(f"no connection can be accepted: {error.strerror}")
            time.sleep(EXHAUSTED_SECONDS)
            return False
        with self._changed:
            number = len(self._open)
            if number >= CONNECTIONS + TURNED_AWAY:
                self._counter.refused()
                peer.close()
                return True
            connection = Connection(peer, stopping=lambda: self._stopping)
            self._open.add(connection)
        work = self._serve if number < CONNECTIONS else self._turn_away
        try:
            threading.Thread(target=work, args=(connection,), name="timestamp client", daemon=True).start()
        except RuntimeError:
            self._complain("no thread can be started")
            self._leave(connection)
        return True

    def _leave(self, connection: Connection) -> None:
        connection.close()
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def _turn_away(self, connection: Connection) -> None:
        self._complain(f"more than {CONNECTIONS} connections at once: some are turned away")
        self._refuse(
            connection,
            HttpRefused(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", {"Retry-After": "1"}),
        )
        self._leave(connection)

    def _serve(self, connection: Connection) -> None:
        try:
            while self._exchange(connection):
                pass
        except HttpRefused as refused:
            self._refuse(connection, refused)
        except OSError:
            # The connection broke: nobody is there to be told.
            pass
        finally:
            self._leave(connection)

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
