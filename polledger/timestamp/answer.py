"""HTTP answers of which no more bytes are taken than were agreed, whatever they are made of.

``http.client`` bounds a line and the number of headers, not what comes before a body (any number of answers
``100 Continue``), between its chunks or after them. All of it is parsed in Python, beside a training.
"""

import http.client
import io
import socket
from typing import Any, Final

OVERHEAD_BYTES: Final = 1 << 14
"""Bytes of an answer besides its body: status line, headers, sizes of chunks. Real ones have a few hundred."""


class AnswerTooLong(http.client.HTTPException):
    """More bytes came than an answer may have."""


def bounded_response(limit: int) -> type[http.client.HTTPResponse]:
    """The response class of connections whose answers have at most ``limit`` bytes in all.

    Reading more raises AnswerTooLong.
    """

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
            super().__init__(sock, *arguments, **options)
            self.fp = io.BufferedReader(_Counted(self.fp.detach(), limit))

    return Response


class _Counted(io.RawIOBase):
    """What ``raw`` gives, up to ``left`` bytes."""

    def __init__(self, raw: io.RawIOBase, left: int) -> None:
        self._raw = raw
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._left <= 0:
            raise AnswerTooLong("answers with more bytes than a timestamp response has")
        count: int | None = self._raw.readinto(memoryview(buffer)[: self._left])
        self._left -= count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
