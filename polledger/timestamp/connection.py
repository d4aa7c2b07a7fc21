"""The server's side of one HTTP/1.1 connection that carries timestamp queries. RFC 9112, RFC 3161 section 3.4.

Bounded in size and time before anything is looked at: a head of at most HEAD_BYTES, a body of at most BODY_BYTES with
its length stated, the whole request within REQUEST_SECONDS however it trickles. Whatever is not a POST of one
``application/timestamp-query`` is answered by the status that HTTP has for it, and the connection ends.
"""

import contextlib
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from polledger.timestamp.client import QUERY_TYPE, REPLY_TYPE

HEAD_BYTES: Final = 8192
"""Longest request line and headers together: what common servers allow; clients send about 200 bytes."""

BODY_BYTES: Final = 4096
"""Longest query: real ones have 40 to 150 bytes, and nothing that could be longer is served."""

REQUEST_SECONDS: Final = 10.0
"""From a request's first byte to its last, and again for whoever takes an answer."""

IDLE_SECONDS: Final = 30.0
"""How long an open connection may wait for its next request."""

LINGER_SECONDS: Final = 1.0
LINGER_BYTES: Final = 1 << 20
"""What is still read, unseen, after a refusal: closing on unread bytes would reset the connection, answer and all."""

_RECEIVE: Final = 1 << 14

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/(\d)\.(\d)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([ \t!-~\x80-\xff]*)")
"""A header with the blanks around its value: a pattern that split them off would try every split of a long row."""

_SINGLE: Final = frozenset({"content-length", "content-type", "host", "transfer-encoding"})
"""Headers that a request has at most once: two would let two readers see two requests."""


class HttpRefused(Exception):
    """A request that HTTP itself has an answer for: a status, one line for people, further headers."""

    def __init__(self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A request read whole: the query in its body, and whether the client lets the connection live on."""

    body: bytes
    keep_alive: bool


class Connection:
    """One accepted socket. Used by one thread; :meth:`hurry` by any.

    ``stopping`` says whether the server takes no new requests any more.
    """

    def __init__(self, peer: socket.socket, *, stopping: Callable[[], bool]) -> None:
        self._socket = peer
        self._stopping = stopping
        self._buffer = bytearray()
        self._idle = True
        self._deadline = 0.0
        # An answer is one segment, and waits for no acknowledgement of the one before. Some systems refuse that where
        # the client is gone already, which the first read finds out.
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.settimeout(IDLE_SECONDS)

    def hurry(self) -> None:
        """End a wait for the next request; one whose first byte has come is read and answered."""
        if self._idle:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)

    def read(self) -> Query | None:
        """The next request; None where none comes. Raises HttpRefused, and OSError where the connection breaks."""
        if not self._buffer and not self._begin():
            return None
        self._deadline = time.monotonic() + REQUEST_SECONDS
        try:
            return self._request()
        except _Gone:
            return None

    def answer(self, body: bytes, *, keep_alive: bool) -> None:
        """Send a timestamp response. Raises OSError where it cannot be sent in time."""
        self._send(HTTPStatus.OK, REPLY_TYPE, body, {} if keep_alive else {"Connection": "close"})

    def refuse(self, refused: HttpRefused) -> None:
        """Say why there is no timestamp response, and end the connection so that the words arrive."""
        headers = {**refused.headers, "Connection": "close"}
        self._send(refused.status, "text/plain; charset=utf-8", f"{refused}\n".encode(), headers)
        self._linger()

    def close(self) -> None:
        self._socket.close()

    def _begin(self) -> bool:
        """Wait for the first byte of a request; False where none comes in time."""
        self._idle = True
        # After _idle was set: whoever stops the server either sees it, or is seen here.
        self._socket.settimeout(0.0 if self._stopping() else IDLE_SECONDS)
        try:
            received = self._socket.recv(_RECEIVE)
        except (TimeoutError, BlockingIOError):
            return False
        finally:
            self._idle = False
        self._buffer += received
        return bool(received)

    def _more(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _too_slow()
        self._socket.settimeout(left)
        try:
            received = self._socket.recv(_RECEIVE)
        except TimeoutError:
            raise _too_slow() from None
        if not received:
            raise _Gone
        self._buffer += received

    def _request(self) -> Query:
        while (end := self._buffer.find(b"\r\n\r\n", 0, HEAD_BYTES)) < 0:
            if len(self._buffer) >= HEAD_BYTES:
                raise HttpRefused(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEAD_BYTES} bytes of headers"
                )
            self._more()
        version, headers = _parse_head(bytes(self._buffer[:end]))
        length = _content_length(headers)
        start = end + 4
        if _continue_expected(headers, version) and len(self._buffer) < start + length:
            self._send_raw(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(self._buffer) < start + length:
            self._more()
        body = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return Query(body=body, keep_alive=_keep_alive(headers, version))

    def _send(self, status: HTTPStatus, kind: str, body: bytes, headers: Mapping[str, str]) -> None:
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Date: {formatdate(usegmt=True)}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self._send_raw("\r\n".join([*lines, "", ""]).encode("ascii") + body)

    def _send_raw(self, data: bytes) -> None:
        self._socket.settimeout(REQUEST_SECONDS)
        self._socket.sendall(data)

    def _linger(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            deadline, left = time.monotonic() + LINGER_SECONDS, LINGER_BYTES
            while left > 0 and (seconds := deadline - time.monotonic()) > 0:
                self._socket.settimeout(seconds)
                received = len(self._socket.recv(_RECEIVE))
                left = left - received if received else 0


class _Gone(Exception):
    """The client went away in the middle of a request."""


def _too_slow() -> HttpRefused:
    return HttpRefused(HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive within {REQUEST_SECONDS:g} s")


def _parse_head(head: bytes) -> tuple[tuple[int, int], dict[str, str]]:
    """HTTP version and headers (names in lower case) of a POST. Raises HttpRefused."""
    line, *fields = head.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise HttpRefused(HTTPStatus.BAD_REQUEST, "not an HTTP request")
    version = int(match[3]), int(match[4])
    if version not in ((1, 0), (1, 1)):
        raise HttpRefused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 and HTTP/1.0 are served")
    if match[1] != b"POST":
        raise HttpRefused(
            HTTPStatus.METHOD_NOT_ALLOWED, f"POST a timestamp query here ({QUERY_TYPE})", {"Allow": "POST"}
        )
    return version, _parse_fields(fields, version)


def _parse_fields(fields: list[bytes], version: tuple[int, int]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in fields:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise HttpRefused(HTTPStatus.BAD_REQUEST, "a header is malformed")
        name, value = match[1].decode("ascii").lower(), match[2].strip(b" \t").decode("latin-1")
        if name in headers and name in _SINGLE:
            raise HttpRefused(HTTPStatus.BAD_REQUEST, f"{name} is given twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if version == (1, 1) and "host" not in headers:
        raise HttpRefused(HTTPStatus.BAD_REQUEST, "Host is missing")
    return headers


def _content_length(headers: Mapping[str, str]) -> int:
    """Length of the body, whose type is that of a query. Raises HttpRefused."""
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or "content-length" not in headers:
        raise HttpRefused(HTTPStatus.LENGTH_REQUIRED, "the request must state its Content-Length")
    if not re.fullmatch(r"[0-9]{1,18}", length, re.ASCII):
        raise HttpRefused(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
    if int(length) > BODY_BYTES:
        raise HttpRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a query has at most {BODY_BYTES} bytes")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != QUERY_TYPE or headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send Content-Type: {QUERY_TYPE}", {"Accept": QUERY_TYPE}
        )
    return int(length)


def _continue_expected(headers: Mapping[str, str], version: tuple[int, int]) -> bool:
    expected = headers.get("expect", "").lower() if version == (1, 1) else ""
    if expected not in ("", "100-continue"):
        raise HttpRefused(HTTPStatus.EXPECTATION_FAILED, "only 100-continue can be expected")
    return bool(expected)


def _keep_alive(headers: Mapping[str, str], version: tuple[int, int]) -> bool:
    options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
    return version == (1, 1) and "close" not in options
