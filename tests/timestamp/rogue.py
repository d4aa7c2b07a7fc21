"""Authorities that misbehave, and openssl as one that does not, as a program: ``python -m tests.timestamp.rogue MODE``.

The first line on standard output is its URL; after that one line for each connection that ended, with the bytes that
were sent over it. It serves until it is killed.
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = bytes(1 << 16)
TEN_GB = 10 * 1000**3
REPLY = b"Content-Type: application/timestamp-reply\r\n"
OK = b"HTTP/1.1 200 OK\r\n"

Chunks = Iterator[bytes]


def hang(_: bytes) -> Chunks:
    time.sleep(3600)
    yield b""


def drip(_: bytes) -> Chunks:
    """A byte now and then: no pause is ever long enough for a socket's own time limit."""
    for byte in OK + REPLY + b"X-Filler: " + bytes(1 << 20):
        yield bytes([byte])
        time.sleep(0.05)


def drip_body(_: bytes) -> Chunks:
    yield OK + REPLY + b"\r\n"
    while True:
        yield b"0"
        time.sleep(0.05)


def endless(_: bytes) -> Chunks:
    yield OK + REPLY + b"\r\n"
    while True:
        yield BLOCK


def huge(_: bytes) -> Chunks:
    yield OK + REPLY + b"Content-Length: %d\r\n\r\n" % TEN_GB
    for _number in range(TEN_GB // len(BLOCK) + 1):
        yield BLOCK


def headers(_: bytes) -> Chunks:
    yield OK
    while True:
        yield b"X-Filler: " + b"x" * 1000 + b"\r\n"


def continues(_: bytes) -> Chunks:
    while True:
        yield b"HTTP/1.1 100 Continue\r\n\r\n" * 1000


def chunks(_: bytes) -> Chunks:
    """Chunks of one byte, with an extension of 60 kB each."""
    yield OK + REPLY + b"Transfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"1;" + b"x" * 60_000 + b"\r\n0\r\n"


def garbage(_: bytes) -> Chunks:
    yield bytes(range(256)) * 64


def nonsense(_: bytes) -> Chunks:
    yield answer(b"\x30\x82\x01\x00 this is no timestamp response")


def html(_: bytes) -> Chunks:
    yield answer(b"<html><body>Please log in</body></html>", kind=b"Content-Type: text/html\r\n")


def disguised(_: bytes) -> Chunks:
    yield answer(b"<html><body>Please log in</body></html>")


def redirect(_: bytes) -> Chunks:
    yield b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"


def rejection(_: bytes) -> Chunks:
    """PKIStatus rejection with systemFailure, and no token."""
    yield answer(REJECTION)


def no_token(_: bytes) -> Chunks:
    """PKIStatus granted, and nothing granted."""
    yield answer(bytes.fromhex("30053003020100"))


def compressed(_: bytes) -> Chunks:
    import gzip

    yield answer(gzip.compress(REJECTION), kind=REPLY + b"Content-Encoding: gzip\r\n")


def broken(_: bytes) -> Chunks:
    yield b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


def lie(_: bytes) -> Chunks:
    """A good token over something else."""
    yield answer((ROOT / "tests" / "vectors" / "timestamp" / "own" / "good-p256.tsr").read_bytes())


REJECTION = bytes.fromhex("300c300a02010203050600000040")
MODES: dict[str, Callable[[bytes], Chunks]] = {
    mode.__name__.replace("_", "-"): mode
    for mode in (
        hang, drip, drip_body, endless, huge, headers, continues, chunks, garbage, nonsense, html, disguised, redirect,
        rejection, no_token, compressed, broken, lie,
    )
}  # fmt: skip


def answer(body: bytes, kind: bytes = REPLY) -> bytes:
    return OK + kind + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body


def openssl(directory: Path) -> Callable[[bytes], Chunks]:
    """Answers by ``openssl ts -reply`` with the authority of the tests in ``directory``."""
    lock = threading.Lock()
    words = ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query.tsq", "-out", "reply.tsr"]
    words += ["-signer", "signer.pem", "-inkey", "key.pem", "-chain", "chain.pem"]

    def serve(query: bytes) -> Chunks:
        with lock:
            (directory / "query.tsq").write_bytes(query)
            subprocess.run(words, cwd=directory, capture_output=True, check=True)
            yield answer((directory / "reply.tsr").read_bytes())

    return serve


def read_query(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16) or b"\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [
        line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    ]
    while len(body) < int((lengths or [b"0"])[0]):
        body += connection.recv(1 << 16)
    return body


def converse(connection: socket.socket, mode: Callable[[bytes], Chunks]) -> None:
    sent = 0
    with connection, contextlib.suppress(OSError):
        for part in mode(read_query(connection)):
            connection.sendall(part)
            sent += len(part)
    print(sent, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=[*MODES, "openssl"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--directory", type=Path, default=Path())
    given = parser.parse_args()
    mode = openssl(given.directory) if given.mode == "openssl" else MODES[given.mode]
    listener = socket.create_server(("127.0.0.1", given.port), backlog=64)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(connection, mode), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
