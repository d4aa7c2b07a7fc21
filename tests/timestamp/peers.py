"""Servers on loopback that speak real HTTP, well or badly, and the openssl program as an authority."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.timestamp import forge

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the openssl program is not installed"
)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the curl program is not installed")

ROOT = Path(__file__).resolve().parents[2]

REPLY = "application/timestamp-reply"

CONFIG = """
[tsa]
default_tsa = tsa1
[tsa1]
serial = {directory}/serial
signer_digest = sha256
default_policy = {policy}
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
"""


@dataclass(frozen=True)
class Asked:
    """One request as a server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A running server. ``answer`` maps a request to (status, headers, body)."""

    answer: Callable[[Asked], tuple[int, dict[str, str], bytes]]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)


@contextlib.contextmanager
def http(
    answer: Callable[[Asked], tuple[int, dict[str, str], bytes]], *, tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """A server on a free port of loopback, speaking TLS if told how."""
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.command, self.path, dict(self.headers.items()), body)
            server.asked.append(asked)
            status, headers, content = server.answer(asked)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    if tls is not None:
        listener.socket = tls.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.server_address[1]}"
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@contextlib.contextmanager
def raw(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that hands every connection to ``serve`` as a bare socket; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def loop() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    serve(connection)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def free_url() -> str:
    """A URL where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@dataclass
class Rogue:
    """A running ``tests.timestamp.rogue``."""

    process: "subprocess.Popen[str]"
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def sent(self) -> int:
        """Bytes that it could send over the next connection that ends. Waits for that."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@contextlib.contextmanager
def rogue(mode: str, *, port: int = 0, directory: Path | None = None) -> Iterator[Rogue]:
    """An authority of that kind as a process of its own, killed at the end of the block."""
    words = [sys.executable, "-m", "tests.timestamp.rogue", mode, "--port", str(port)]
    words += ["--directory", str(directory)] if directory else []
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Rogue(process, process.stdout.readline().strip())
        finally:
            process.kill()


def write_openssl(directory: Path, signer: forge.Party | None = None) -> None:
    """What ``openssl ts -reply`` needs in ``directory`` to be the forge's authority."""
    signer = signer or forge.tsa_p256()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "serial").write_text("01\n")
    (directory / "tsa.cnf").write_text(CONFIG.format(directory=directory, policy=forge.POLICY))
    (directory / "signer.pem").write_bytes(signer.pem())
    (directory / "chain.pem").write_bytes(forge.intermediate().pem())
    (directory / "key.pem").write_bytes(forge.private_pem(signer.key))


def openssl(
    directory: Path, signer: forge.Party | None = None
) -> Callable[[Asked], tuple[int, dict[str, str], bytes]]:
    """Answers made by ``openssl ts -reply`` with the forge's authority."""
    write_openssl(directory, signer)
    lock = threading.Lock()

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        with lock:
            (directory / "query.tsq").write_bytes(asked.body)
            words = [
                "openssl",
                "ts",
                "-reply",
                "-config",
                "tsa.cnf",
                "-queryfile",
                "query.tsq",
                "-out",
                "reply.tsr",
            ]
            words += ["-signer", "signer.pem", "-inkey", "key.pem", "-chain", "chain.pem"]
            subprocess.run(words, cwd=directory, capture_output=True, check=True)
            return 200, {"Content-Type": REPLY}, (directory / "reply.tsr").read_bytes()

    return answer
