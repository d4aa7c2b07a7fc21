"""What ``polledger tsa serve`` makes of HTTP: methods, types, limits, connections, slow and too many clients."""

import contextlib
import os
import resource
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

import pytest

from polledger.timestamp import connection as http
from polledger.timestamp.client import QUERY_TYPE, REPLY_TYPE, make_request
from polledger.timestamp.connection import BODY_BYTES, HEAD_BYTES, Connection, HttpRefused
from polledger.timestamp.messages import GRANTED, SYSTEM_FAILURE, parse_response
from polledger.timestamp.server import CONNECTIONS, USHERS, Server
from tests.timestamp import forge
from tests.timestamp.serving import ROOT, SERVE, Served, serving

QUERY = make_request(forge.DIGEST, nonce=1)
SECONDS = 60


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("http") / "tsa") as server:
        yield server


def message(*, start: str = "POST / HTTP/1.1", body: bytes = QUERY, **headers: str | None) -> bytes:
    """A request; a header that is None is left out."""
    values = {"Host": "localhost", "Content-Type": QUERY_TYPE, "Content-Length": str(len(body))}
    values |= {name.replace("_", "-"): value for name, value in headers.items()}  # type: ignore[dict-item]
    lines = [start, *(f"{name}: {value}" for name, value in values.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@contextlib.contextmanager
def connected(server: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as peer:
        yield peer


def answer(peer: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = peer.recv(4096)
        assert received, data
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    while len(body) < int(headers.get("content-length", "0")):
        received = peer.recv(4096)
        assert received, data
        body += received
    return int(line.split()[1]), headers, body


def ended(peer: socket.socket) -> bool:
    """Whether the server closed the connection; waits for it."""
    return peer.recv(1) == b""


def granted(body: bytes) -> bool:
    return parse_response(body).status == GRANTED


@pytest.mark.parametrize(
    "sent",
    [
        message(),
        message(start="POST /any/path?and=query HTTP/1.1"),
        message(start="POST http://elsewhere/ HTTP/1.1"),
        message(Content_Type="Application/Timestamp-Query; x=y"),
        message(Content_Encoding="identity", Accept="*/*", User_Agent="\xe9"),
    ],
)
def test_a_query_is_answered_and_the_connection_lives_on(served: Served, sent: bytes) -> None:
    with connected(served) as peer:
        for _ in range(3):
            peer.sendall(sent)
            status, headers, body = answer(peer)
            assert (status, headers["content-type"], granted(body)) == (200, REPLY_TYPE, True)
            assert "connection" not in headers
            assert headers["date"].endswith(" GMT")


@pytest.mark.parametrize(
    "sent",
    [
        message(Connection="close"),
        message(Connection="TE, Close"),
        message(start="POST / HTTP/1.0", Host=None),
    ],
)
def test_the_connection_ends_where_the_client_wants_it_to(served: Served, sent: bytes) -> None:
    with connected(served) as peer:
        peer.sendall(sent)
        status, headers, body = answer(peer)
        assert (status, headers["connection"], granted(body)) == (200, "close", True)
        assert ended(peer)


def test_requests_may_come_byte_by_byte_and_several_at_once(served: Served) -> None:
    with connected(served) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in message():
            peer.send(bytes((byte,)))
        assert granted(answer(peer)[2])
        peer.sendall(message() + message(Connection="close"))
        data = b""
        while received := peer.recv(4096):
            data += received
        assert data.count(b"HTTP/1.1 200 OK\r\n") == 2


def test_a_client_that_asks_first_is_told_to_go_on(served: Served) -> None:
    sent = message(Expect="100-continue")
    with connected(served) as peer:
        peer.sendall(sent[: -len(QUERY)])
        assert answer(peer)[0] == 100
        peer.sendall(QUERY)
        assert granted(answer(peer)[2])


REFUSED = [
    (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "not an HTTP request"),
    (message(start="POST  / HTTP/1.1"), 400, "not an HTTP request"),
    (message(start="GET / HTTP/1.1"), 405, "POST a timestamp query"),
    (message(start="PUT / HTTP/1.1"), 405, "POST a timestamp query"),
    (message(start="POST / HTTP/2.0"), 505, "HTTP/1.1"),
    (message(start="POST / HTTP/1.2"), 505, "HTTP/1.1"),
    (message(Host=None), 400, "Host is missing"),
    (message(**{"Content-Length ": "5"}), 400, "malformed"),
    (message(X_Folded="a\r\n b"), 400, "malformed"),
    (message(X_Nul="a\0b"), 400, "malformed"),
    (message(**{"content-length": str(len(QUERY))}), 400, "content-length is given twice"),
    (message(**{"content-type": QUERY_TYPE}), 400, "content-type is given twice"),
    (message(Content_Type=None), 415, QUERY_TYPE),
    (message(Content_Type="application/x-www-form-urlencoded"), 415, QUERY_TYPE),
    (message(Content_Encoding="gzip"), 415, QUERY_TYPE),
    (message(Content_Length=None), 411, "Content-Length"),
    (message(Transfer_Encoding="chunked"), 411, "Content-Length"),
    (message(Content_Length="-1"), 400, "not a number"),
    (message(Content_Length="0x10"), 400, "not a number"),
    (message(Content_Length="9" * 19), 400, "not a number"),
    (message(body=bytes(BODY_BYTES + 1)), 413, "at most 4096 bytes"),
    (message(Content_Length="9" * 18), 413, "at most 4096 bytes"),
    (message(X_Long="a" * HEAD_BYTES), 431, "more than 8192 bytes"),
    (b"POST " + b"/" * 2 * HEAD_BYTES, 431, "more than 8192 bytes"),
    (message(Expect="a miracle"), 417, "100-continue"),
]


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    REFUSED,
    ids=[f"{status}-{number}" for number, (_, status, _) in enumerate(REFUSED)],
)
def test_what_http_refuses_is_said_and_ends_the_connection(
    served: Served, sent: bytes, status: int, words: str
) -> None:
    with connected(served) as peer:
        peer.sendall(sent)
        found, headers, body = answer(peer)
        assert (found, headers["content-type"]) == (status, "text/plain; charset=utf-8")
        assert words in body.decode()
        assert headers["connection"] == "close"
        assert ("allow" in headers) == (status == 405)
        assert ended(peer)


def test_blanks_around_a_value_are_no_part_of_it(served: Served) -> None:
    with connected(served) as peer:
        peer.sendall(message(Content_Type=f" \t {QUERY_TYPE}\t ", Connection="\tclose "))
        status, headers, body = answer(peer)
        assert (status, headers["connection"], granted(body)) == (200, "close", True)


@pytest.mark.parametrize("blank", [" ", "\t", " \t"])
def test_a_head_full_of_blanks_costs_no_more_than_another(blank: str) -> None:
    """Python holds its lock while it matches: one client would stop all others for minutes."""
    row = blank * (HEAD_BYTES // 2 // len(blank))
    head = f"POST / HTTP/1.1\r\nX-Blank:{row}a{row}\0".encode()
    started = time.process_time()
    with pytest.raises(HttpRefused, match="malformed"):
        http._parse_head(head)
    assert time.process_time() - started < 1


def test_the_longest_head_and_body_are_read(served: Served) -> None:
    body = bytes(BODY_BYTES)
    pad = HEAD_BYTES - len(message(body=body, X_Pad="")) + len(body)
    with connected(served) as peer:
        peer.sendall(message(body=body, X_Pad="a" * pad))
        status, _, reply = answer(peer)
        assert (status, granted(reply)) == (200, False)
        peer.sendall(message(body=body, X_Pad="a" * (pad + 1)))
        assert answer(peer)[0] == 431


def test_a_refusal_arrives_though_the_client_goes_on_sending(served: Served) -> None:
    """Closing on bytes that nobody read would reset the connection, and the answer with it."""
    with connected(served) as peer:
        peer.sendall(message(body=bytes(BODY_BYTES + 1)) + bytes(500_000))
        assert answer(peer)[0] == 413


def test_a_client_that_goes_away_in_the_middle_harms_nobody(served: Served) -> None:
    for sent in (b"", b"P", message()[:-1], message()):
        with connected(served) as peer:
            peer.sendall(sent)
    with connected(served) as peer:
        peer.sendall(message())
        assert granted(answer(peer)[2])


def test_too_many_connections_are_turned_away_and_the_rest_is_served(tmp_path: Path) -> None:
    with ExitStack() as stack:
        own = stack.enter_context(serving(tmp_path / "tsa"))
        peers = [stack.enter_context(connected(own)) for _ in range(CONNECTIONS + 1)]
        readable, _, _ = select.select(peers, [], [], SECONDS)
        (turned,) = readable
        status, headers, _ = answer(turned)
        assert (status, headers["retry-after"], ended(turned)) == (503, "1", True)
        kept = next(peer for peer in peers if peer is not turned)
        kept.sendall(message())
        status, headers, body = answer(kept)
        assert (status, granted(body)) == (200, True)
        # So many connections that none is kept for a next request.
        assert headers["connection"] == "close"


def test_a_system_that_gives_no_more_files_stops_nothing_for_good(tmp_path: Path) -> None:
    with serving(tmp_path / "tsa") as own:
        tasks = Path(f"/proc/{own.process.pid}/task")
        everybody = CONNECTIONS + USHERS + 1
        while len(list(tasks.iterdir())) < everybody:
            time.sleep(0.02)
        soft, hard = resource.prlimit(own.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(own.process.pid, resource.RLIMIT_NOFILE, (16, hard))
        with ExitStack() as stack:
            # Threads that wait for a connection hold the places of their files already: it is the next that fails.
            for _ in range(CONNECTIONS):
                stack.enter_context(connected(own))
        while "no connection can be accepted: Too many open files" not in own.errors.read_text():
            time.sleep(0.02)
        resource.prlimit(own.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        with connected(own) as peer:
            peer.sendall(message())
            assert granted(answer(peer)[2])
        assert len(list(tasks.iterdir())) == everybody


def test_too_few_files_are_said_at_the_start(tmp_path: Path) -> None:
    words = [*SERVE, "--listen", "127.0.0.1:0", "--dir", tmp_path / "tsa"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 271 && exec "$@"', "sh", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 4
    assert done.stderr.endswith("271 open files are allowed, 272 are needed: run `ulimit -n 272`\n")


def test_the_same_trouble_is_told_once_a_minute() -> None:
    told: list[str] = []
    troubles = iter(["full", "full", "empty", "full"])

    def issue(query: bytes) -> bytes:
        raise OSError(next(troubles))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener, issue, warn=told.append)
        thread = threading.Thread(target=server.serve, kwargs={"every": 3600, "report": print})
        thread.start()
        with socket.create_connection(listener.getsockname(), timeout=SECONDS) as peer:
            for _ in range(4):
                peer.sendall(message())
                assert parse_response(answer(peer)[2]).failures == (SYSTEM_FAILURE,)
        server.stop()
        thread.join()
    assert [line.rpartition(" ")[2] for line in told] == ["full", "empty"]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Connection]]:
    """A client's socket, and the server's side of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), timeout=SECONDS)
        far, _ = listener.accept()
    found = Connection(far, stopping=lambda: False)
    with near:
        yield near, found
    found.close()


def trickle(peer: socket.socket, data: bytes, pause: threading.Event) -> None:
    with contextlib.suppress(OSError):
        for byte in data:
            peer.send(bytes((byte,)))
            pause.wait(0.02)


@pytest.mark.parametrize(
    ("at_once", "sent"),
    [(b"", b"P"), (b"", message()), (message()[: -len(QUERY)], QUERY)],
    ids=["silent", "head", "body"],
)
def test_a_request_that_trickles_is_given_up(
    pair: tuple[socket.socket, Connection], monkeypatch: pytest.MonkeyPatch, at_once: bytes, sent: bytes
) -> None:
    """Each byte comes in time, and all of them together do not."""
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.1)
    near, far = pair
    near.sendall(at_once)
    done = threading.Event()
    thread = threading.Thread(target=trickle, args=(near, sent, done))
    thread.start()
    with pytest.raises(HttpRefused) as refused:
        far.read()
    done.set()
    thread.join()
    assert refused.value.status == 408


def test_a_connection_without_a_request_is_given_up(
    pair: tuple[socket.socket, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.05)
    assert pair[1].read() is None


def test_a_socket_that_takes_no_options_costs_no_thread() -> None:
    """As macOS has it for a client that is gone before it is accepted. A local socket knows no TCP either."""
    near, far = socket.socketpair()
    near.close()
    with far:
        assert Connection(far, stopping=lambda: False).read() is None


def test_a_client_that_takes_no_answer_is_given_up(
    pair: tuple[socket.socket, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.1)
    with pytest.raises(TimeoutError):
        pair[1].answer(bytes(1 << 26), keep_alive=True)


def test_nothing_is_waited_for_once_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come is read; what could still come is not."""
    monkeypatch.setattr(http, "IDLE_SECONDS", 3600.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for sent, expected in ((b"", None), (message(), QUERY)):
            with socket.create_connection(listener.getsockname()) as near:
                near.sendall(sent)
                far, _ = listener.accept()
                select.select([far] if sent else [], [], [], SECONDS if sent else 0)
                with ThreadPoolExecutor(1) as pool:
                    reading = pool.submit(Connection(far, stopping=lambda: True).read)
                    done, _ = wait([reading], SECONDS)
                    # Ends the read that should have ended.
                    far.shutdown(socket.SHUT_RDWR)
                    assert done
                query = reading.result()
                assert (query and query.body) == expected
                far.close()
