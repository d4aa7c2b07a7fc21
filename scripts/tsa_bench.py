#!/usr/bin/env python3
"""Measures how many timestamps a second ``polledger tsa serve`` gives, beside an ``openssl ts -reply`` per request.

    scripts/tsa_bench.py [--clients 16] [--seconds 3] [--rounds 7] [--work DIR] [--evidence]

Both answer with the same P-256 key and certificate, and openssl stands behind polledger's own HTTP server, so that
what differs is who makes the token. Every client is a process that sends one request after the other over loopback,
each with a nonce of its own, and times it from before its first byte to after the last byte of the answer; either over
one connection that lives on, or over a new connection each time. All four cases are taken in turn in each round; the
table gives the median round, the slowest and fastest rate, and the processor time that the server and its children
took for an answer, which other programs change least. The last answer of every client is verified, the others are seen
to be granted.

Then the parts of one answer are timed in one process, best of many short rounds, as other programs only slow them down:
the same exchange of bytes over bare sockets, with this server's reader, with Python's http.server whose two writes are
joined into one, and with http.server as it comes.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from evidence import ROOT, machine, table, write_evidence

from polledger.timestamp.client import QUERY_TYPE, make_request
from polledger.timestamp.connection import Connection
from polledger.timestamp.identity import ROOT_NAME
from polledger.timestamp.messages import granting_response, parse_request
from polledger.timestamp.server import BACKLOG, Server
from polledger.timestamp.standalone import StandaloneAuthority
from polledger.timestamp.token import verify_response

DIGEST = bytes(range(32))
GRANTED = b"\x30\x03\x02\x01\x00"
"""The status of a response that grants and says nothing else."""

OPENSSL_CONFIG = """[tsa]
default_tsa = one
[one]
serial = {serial}
signer_digest = sha256
default_policy = {policy}
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
"""

CASES = [(name, kept) for kept in (True, False) for name in ("polledger", "openssl")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="how long each case is measured in a round"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, help="where the authority lies; default: a temporary directory")
    parser.add_argument("--evidence", action="store_true", help="write docs/evidence/tsa_bench.json")
    parser.add_argument("--client", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--openssl", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        run_client(options.client)
    elif options.openssl:
        serve_openssl(options.openssl)
    else:
        measure(options)


def measure(options: argparse.Namespace) -> None:
    others, _, _ = os.getloadavg()
    with tempfile.TemporaryDirectory() as temporary:
        directory = (options.work or Path(temporary)) / "tsa"
        with serving(directory) as servers, started_clients(options.clients, directory) as clients:
            rounds = [
                {
                    _case(name, kept): load(clients, *servers[name], kept=kept, seconds=options.seconds)
                    for name, kept in CASES
                }
                for _ in range(options.rounds)
            ]
        parts = _parts(directory)
    value = {
        "machine": {
            key: found for key, found in machine().items() if key not in ("torch", "gpu", "capability")
        },
        "openssl": subprocess.run(
            ["openssl", "version"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "clients": options.clients,
        "seconds": options.seconds,
        "load": round(others, 1),
        "rounds": rounds,
        "parts_us": {name: round(found, 1) for name, found in parts.items()},
    }
    print(f"{render_load(value)}\n\n{render_parts(value)}")
    if options.evidence:
        print(write_evidence("tsa_bench", value))


def _case(name: str, kept: bool) -> str:
    return f"{name}, {'kept' if kept else 'new'} connections"


def render_load(value: Mapping[str, Any]) -> str:
    """Where it was measured, and the table of the four cases."""
    rows = []
    for case in value["rounds"][0]:
        found = [one[case] for one in value["rounds"]]
        rates = sorted(one["rate"] for one in found)
        rows.append((
            case,
            f"{statistics.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})",
            *(f"{statistics.median(one[key] for one in found):.1f}" for key in ("p50_ms", "p99_ms", "max_ms")),
            f"{statistics.median(one['cpu_ms'] for one in found):.2f}",
        ))  # fmt: skip
    columns = ("", "answers a second", "p50, ms", "p99, ms", "slowest, ms", "processor, ms")
    where, openssl = value["machine"], " ".join(value["openssl"].split()[:2])
    return (
        f"{where['cpu']}, {where['cores']} cores, Python {where['python']}, {openssl}; {value['clients']} clients, "
        f"{len(value['rounds'])} rounds of {value['seconds']:g} s; load average before: {value['load']:.1f}.\n\n"
        f"{table(columns, rows)}"
    )


def render_parts(value: Mapping[str, Any]) -> str:
    """The table of the parts of an answer."""
    rows = [(name, f"{micros:.0f}") for name, micros in value["parts_us"].items()]
    return table(("part of an answer", "µs"), rows)


@contextmanager
def serving(directory: Path) -> Iterator[dict[str, tuple[str, int]]]:
    """Both servers, each in a process of its own; URL and process id by name."""
    serve = [sys.executable, "-m", "polledger.cli.app", "tsa", "serve", "--listen", "127.0.0.1:0"]
    ours = _start([*serve, "--dir", str(directory)])
    try:
        url = _line(ours, "url = ").split('"')[1]
        theirs = _start([sys.executable, __file__, "--openssl", str(directory)])
        try:
            yield {"polledger": (url, ours.pid), "openssl": (_line(theirs, "http://"), theirs.pid)}
        finally:
            _stop(theirs)
    finally:
        _stop(ours)


def _start(words: Sequence[str]) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
    return subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: "subprocess.Popen[str]", start: str) -> str:
    for line in process.stdout or ():
        if line.startswith(start):
            return line.strip()
    raise RuntimeError("a server ended before it said where it listens")


def _stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate()


def serve_openssl(directory: Path) -> None:
    """An ``openssl ts -reply`` process per request behind polledger's HTTP server, until SIGTERM."""
    with tempfile.TemporaryDirectory() as temporary:
        issue = openssl_issuer(directory, Path(temporary))
        with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
            server = Server(listener, issue, warn=lambda text: print(text, file=sys.stderr))
            signal.signal(signal.SIGTERM, lambda *_: server.stop())
            print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
            server.serve(every=3600, report=lambda _: None)


def openssl_issuer(directory: Path, work: Path) -> Callable[[bytes], bytes]:
    """Makes tokens with the key in ``directory``. Each thread has files of its own: openssl locks none of them."""
    authority = open_authority(directory)
    key = authority.local.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (work / "key.pem").write_bytes(key)
    (work / "signer.pem").write_bytes(authority.local.leaf.public_bytes(Encoding.PEM))
    numbers, own = count(), threading.local()

    def issue(query: bytes) -> bytes:
        if not hasattr(own, "place"):
            own.place = work / str(next(numbers))
            own.place.mkdir()
            (own.place / "serial").write_text("01\n")
            config = OPENSSL_CONFIG.format(serial=own.place / "serial", policy=authority.local.policy)
            (own.place / "tsa.cnf").write_text(config)
        (own.place / "query").write_bytes(query)
        words = [
            "openssl",
            "ts",
            "-reply",
            "-config",
            own.place / "tsa.cnf",
            "-queryfile",
            own.place / "query",
        ]
        words += ["-signer", work / "signer.pem", "-inkey", work / "key.pem", "-token_out"]
        return subprocess.run(words, capture_output=True, check=True).stdout

    return issue


def open_authority(directory: Path) -> StandaloneAuthority:
    return StandaloneAuthority.open(directory, clock=lambda: datetime.now(UTC), default_name="bench")


@contextmanager
def started_clients(number: int, directory: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """Client processes that wait for :func:`load` to tell them what to do."""
    clients = [_start([sys.executable, __file__, "--client", str(directory)]) for _ in range(number)]
    try:
        for client in clients:
            _line(client, "ready")
        yield clients
    finally:
        for client in clients:
            client.communicate()


def load(
    clients: Sequence["subprocess.Popen[str]"], url: str, pid: int, *, kept: bool, seconds: float
) -> dict[str, float]:
    """What all clients together got in one stretch: answers a second, and quantiles of their times."""
    task = json.dumps({"port": int(url.rstrip("/").rpartition(":")[2]), "kept": kept, "seconds": seconds})
    before = _cpu_seconds(pid)
    for client in clients:
        if client.stdin is not None:
            client.stdin.write(f"{task}\n")
            client.stdin.flush()
    found = [json.loads(_line(client, "{")) for client in clients]
    spent = _cpu_seconds(pid) - before
    times = sorted(1e3 * one for result in found for one in result["times"])
    wall = max(result["end"] for result in found) - min(result["begin"] for result in found)
    return {
        "rate": round(len(times) / wall, 1),
        "answers": len(times),
        "cpu_ms": round(1e3 * spent / len(times), 3),
        "p50_ms": round(times[len(times) // 2], 2),
        "p99_ms": round(times[len(times) * 99 // 100], 2),
        "max_ms": round(times[-1], 2),
    }


def _cpu_seconds(pid: int) -> float:
    """What the process and the children it has waited for have used of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def run_client(directory: Path) -> None:
    """One client process: for each task on standard input the times of its requests, as a line of JSON."""
    root = x509.load_pem_x509_certificate((directory / ROOT_NAME).read_bytes())
    # Before the first stretch: making a request loads what takes a while.
    request = make_request(DIGEST, nonce=1 << 62)
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(_stretch(request, root, **task)), flush=True)


def _stretch(
    request: bytes, root: x509.Certificate, *, port: int, kept: bool, seconds: float
) -> dict[str, Any]:
    where = request.index((1 << 62).to_bytes(8, "big"))
    head = (
        f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {QUERY_TYPE}\r\n"
        f"Content-Length: {len(request)}\r\nConnection: {'keep-alive' if kept else 'close'}\r\n\r\n"
    ).encode()
    times, body, nonce = [], b"", 0
    peer: socket.socket | None = None
    begin = time.time()
    while time.time() - begin < seconds:
        nonce = (1 << 62) + int.from_bytes(os.urandom(6), "big")
        message = head + request[:where] + nonce.to_bytes(8, "big") + request[where + 8 :]
        started = time.perf_counter()
        if peer is None:
            peer = socket.create_connection(("127.0.0.1", port))
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(message)
        body = _body(peer)
        times.append(time.perf_counter() - started)
        if GRANTED not in body[:16]:
            raise RuntimeError("a request was not granted")
        if not kept:
            peer.close()
            peer = None
    end = time.time()
    if peer is not None:
        peer.close()
    verify_response(body, digest=DIGEST, roots=[root], nonce=nonce)
    return {"begin": begin, "end": end, "times": times}


def _body(peer: socket.socket) -> bytes:
    data = b""
    while True:
        head, blank, body = data.partition(b"\r\n\r\n")
        if blank and len(body) >= int(head.lower().partition(b"content-length:")[2].split()[0]):
            return body
        received = peer.recv(1 << 16)
        if not received:
            raise RuntimeError(f"the server ended the connection: {data[:200]!r}")
        data += received


def _parts(directory: Path) -> dict[str, float]:
    """Microseconds of the parts of one answer."""
    authority = open_authority(directory)
    request = make_request(DIGEST, nonce=1 << 62)
    answer = granting_response(authority.issue(request))
    signature = authority.local.sign
    return {
        "token": best(lambda: authority.issue(request)),
        "of it: reading the query": best(lambda: parse_request(request)),
        "of it: signing": best(lambda: signature(bytes(200))),
        "HTTP, both ends": best(_exchange(request, answer, _own)),
        "the same with http.server": best(_exchange(request, answer, _standard)),
        "the same with http.server as it comes": best(
            _exchange(request, answer, _as_it_comes), times=1, tries=20
        ),
        "the same bytes over bare sockets": best(_exchange(request, answer, _bare)),
    }


def best(work: Callable[[], object], *, times: int = 20, tries: int = 500) -> float:
    """Microseconds of the best of many short rounds: some of them no other program interrupts."""
    rounds = []
    for _ in range(tries):
        started = time.perf_counter()
        for _ in range(times):
            work()
        rounds.append((time.perf_counter() - started) / times)
    return 1e6 * min(rounds)


def _exchange(
    request: bytes, answer: bytes, make: Callable[[socket.socket, bytes], Callable[[], object]]
) -> Callable[[], object]:
    """One request sent, served by what ``make`` gives, and its answer received, all in this thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for one in (near, far):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    message = (
        "POST / HTTP/1.1\r\nHost: 127.0.0.1:3161\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
        f"Content-Type: {QUERY_TYPE}\r\nContent-Length: {len(request)}\r\n\r\n"
    ).encode() + request
    serve = make(far, answer)

    def exchange() -> None:
        near.sendall(message)
        serve()
        _body(near)

    return exchange


def _own(far: socket.socket, answer: bytes) -> Callable[[], object]:
    connection = Connection(far, stopping=lambda: False)

    def serve() -> None:
        query = connection.read()
        connection.answer(answer, keep_alive=query is not None and query.keep_alive)

    return serve


def _as_it_comes(far: socket.socket, answer: bytes) -> Callable[[], object]:
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    return _standard(far, answer, buffer=0)


def _standard(far: socket.socket, answer: bytes, *, buffer: int = 1 << 16) -> Callable[[], object]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = buffer

        def handle(self) -> None:
            """Requests are handled one by one, by the caller."""

        def finish(self) -> None:
            """The connection goes on."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing is logged."""

    handler = Handler(far, ("127.0.0.1", 0), None)  # type: ignore[arg-type]
    return handler.handle_one_request


def _bare(far: socket.socket, answer: bytes) -> Callable[[], object]:
    message = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer

    def serve() -> None:
        far.recv(1 << 16)
        far.sendall(message)

    return serve


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
