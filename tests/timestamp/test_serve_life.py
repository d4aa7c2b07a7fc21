"""The life of ``polledger tsa serve``: first use, restarts, crashes, stops, its files, its clock, what it says."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from polledger.cli import tsa
from polledger.errors import Unavailable, UsageError
from polledger.timestamp import connection as connection_module
from polledger.timestamp import server as serving_module
from polledger.timestamp.authority import POLICY as EMBEDDED_POLICY
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.client import QUERY_TYPE, make_request, post_request
from polledger.timestamp.figures import Counter, Figures
from polledger.timestamp.identity import FILE_NAME, ROOT_NAME
from polledger.timestamp.messages import (
    SYSTEM_FAILURE,
    TIME_NOT_AVAILABLE,
    RequestRefused,
    parse_response,
)
from polledger.timestamp.server import Server
from polledger.timestamp.standalone import POLICY, STATE_NAME, VALID_DAYS, StandaloneAuthority, SteadyClock
from polledger.timestamp.token import Timestamp, verify_response
from polledger.timestamp.trust import load_trust
from tests.timestamp import forge
from tests.timestamp.conftest import Command
from tests.timestamp.serving import ROOT, SERVE, Served, serving

NOW = datetime(2026, 11, 26, 4, 29, 32, 123_987, tzinfo=UTC)
REQUEST = make_request(forge.DIGEST, nonce=forge.NONCE)
HEAD = (
    f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: {QUERY_TYPE}\r\nExpect: 100-continue\r\n"
    f"Content-Length: {len(REQUEST)}\r\n\r\n"
).encode()
SECONDS = 60


def read(server: Served, body: bytes) -> Timestamp:
    return verify_response(
        body, digest=forge.DIGEST, roots=[server.root], policies=server.entry["policies"], nonce=forge.NONCE
    )


def asked(server: Served) -> Timestamp:
    return read(server, post_request(server.url, REQUEST))


def test_key_root_and_old_tokens_survive_and_no_serial_comes_twice(tmp_path: Path) -> None:
    """Whether it is stopped or killed, and whether one or two serve from the directory."""
    serials, tokens = [], []
    for number in (signal.SIGKILL, signal.SIGTERM):
        with serving(tmp_path / "tsa") as server, serving(tmp_path / "tsa") as twin:
            assert twin.root == server.root
            tokens += [post_request(one.url, REQUEST) for one in (server, twin) for _ in range(20)]
            serials += [read(server, body).serial for body in tokens]
            assert (server.stop(number), twin.stop(number)) == (
                (0, 0) if number == signal.SIGTERM else (-9, -9)
            )
    assert len(tokens) == 80
    assert len(set(serials[-80:])) == 80


def test_a_key_that_others_may_read_is_refused(command: Command, tmp_path: Path) -> None:
    with serving(tmp_path / "tsa"):
        pass
    path = tmp_path / "tsa" / FILE_NAME
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        # Not by the command: one that did not refuse would serve for ever.
        with pytest.raises(UsageError, match=f"mode {mode:04o}: .*chmod 600 {path}`"):
            opened(tmp_path / "tsa", now=datetime.now(UTC))
    assert command("tsa", "serve", "--listen", "127.0.0.1:0", "--dir", tmp_path / "tsa").code == 2


def test_files_are_private_and_the_entry_is_a_trust_file(tmp_path: Path) -> None:
    with serving(tmp_path / "tsa", "--name", "Example Ltd") as server:
        assert server.directory.stat().st_mode & 0o777 == 0o700
        assert (server.directory / FILE_NAME).stat().st_mode & 0o777 == 0o600
        assert server.entry == {
            "name": "Example Ltd",
            "operator": "Example Ltd",
            "url": server.url,
            "roots": [str(tmp_path / "tsa" / ROOT_NAME)],
            "policies": [POLICY],
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in server.entry.items()]
        (tmp_path / "trust.toml").write_text("\n".join(["[[authority]]", *lines]))
        (entry,) = load_trust(tmp_path / "trust.toml").entries
        assert entry.roots == (server.root,)
        assert "O=Example Ltd" in asked(server).tsa


def test_another_policy_is_stated_and_served(tmp_path: Path) -> None:
    with serving(tmp_path / "tsa", "--policy", "1.3.6.1.4.1.99999.5") as server:
        assert asked(server).policy == "1.3.6.1.4.1.99999.5"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_other_addresses_are_listened_on(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on loopback")
    with serving(tmp_path / "tsa", listen="[::1]:0") as server:
        assert server.url.startswith("http://[::1]:")
        assert asked(server).nonce == forge.NONCE


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_on_all_addresses_the_entry_names_the_machine(host: str) -> None:
    try:
        with tsa._listening(f"{host}:0") as listener:
            assert tsa._url(listener) == f"http://{socket.gethostname()}:{listener.getsockname()[1]}/"
    except Unavailable:
        pytest.skip("no IPv6")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--listen", "3161"], "--listen takes HOST:PORT"),
        (["--listen", ":3161"], "--listen takes HOST:PORT"),
        (["--listen", "127.0.0.1:65536"], "--listen takes HOST:PORT"),
        (["--listen", "127.0.0.1:" + "1" * 5000], "--listen takes HOST:PORT"),
        (["--listen", "127.0.0.1:http"], "--listen takes HOST:PORT"),
        (["--policy", "1.x"], "not an object identifier: '1.x'"),
        (["--policy", EMBEDDED_POLICY], "--policy is that of the embedded authority"),
        (["--name", ""], "--name has 1 to 64 printable characters"),
        (["--name", "a" * 65], "--name has 1 to 64 printable characters"),
        (["--name", "a\nb"], "--name has 1 to 64 printable characters"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    # What is not refused must not serve for ever.
    monkeypatch.setattr(Server, "serve", lambda *_, **__: pytest.fail("it serves"))
    given = words if "--listen" in words else ["--listen", "127.0.0.1:0", *words]
    done = command("tsa", "serve", "--dir", tmp_path / "tsa", *given, "--json")
    result = done.json()
    assert (done.code, result["exit_code"], result["schema"]) == (2, 2, "polledger.tsa-serve/1")
    assert message in result["error"]
    assert done.err.count("\n") == 1


def test_a_port_that_is_taken_is_named(command: Command, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        done = command("tsa", "serve", "--dir", tmp_path / "tsa", "--listen", place)
    assert done.code == 4
    assert f"cannot listen on {place}: Address already in use" in done.err


def opened(directory: Path, *, now: datetime = NOW, **given: object) -> StandaloneAuthority:
    return StandaloneAuthority.open(directory, clock=lambda: now, default_name="here", **given)  # type: ignore[arg-type]


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    before = tmp_path.stat().st_mode
    with pytest.raises(UsageError, match="holds other files"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert tmp_path.stat().st_mode == before


def test_what_a_first_start_that_was_killed_leaves_is_no_hindrance(tmp_path: Path) -> None:
    for name in (ROOT_NAME, ".tmp-0011"):
        (tmp_path / name).touch()
    assert opened(tmp_path).name == "here"


def test_neither_kind_of_authority_opens_the_others_directory(tmp_path: Path) -> None:
    embedded = EmbeddedAuthority.open(tmp_path / "embedded")
    with pytest.raises(UsageError, match="another kind of authority"):
        opened(tmp_path / "embedded")
    opened(tmp_path / "served")
    with pytest.raises(Unavailable, match="another kind of authority"):
        EmbeddedAuthority.open(tmp_path / "served")
    assert EmbeddedAuthority.open(tmp_path / "embedded").leaf == embedded.leaf


def test_what_was_chosen_on_first_use_stays(tmp_path: Path) -> None:
    first = opened(tmp_path / "tsa", name="Example Ltd")
    assert isinstance(first.local.key, ec.EllipticCurvePrivateKey)
    assert opened(tmp_path / "tsa").name == "Example Ltd"
    assert opened(tmp_path / "tsa", name="Example Ltd").name == "Example Ltd"
    with pytest.raises(UsageError, match="is 'Example Ltd', not 'Other Ltd'"):
        opened(tmp_path / "tsa", name="Other Ltd")
    with pytest.raises(UsageError, match="--rsa needs a new --dir"):
        opened(tmp_path / "tsa", use_rsa=True)


def test_an_rsa_key_is_as_strong(tmp_path: Path) -> None:
    opened(tmp_path / "tsa", use_rsa=True)
    key = opened(tmp_path / "tsa", use_rsa=True).local.key
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 3072


def test_two_authorities_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, two = (opened(tmp_path / name).local.leaf.subject for name in ("one", "two"))
    assert one != two


def test_damage_is_named(tmp_path: Path) -> None:
    opened(tmp_path / "tsa")
    (tmp_path / "tsa" / FILE_NAME).write_text("garbage")
    with pytest.raises(Unavailable, match=f"{FILE_NAME} is damaged"):
        opened(tmp_path / "tsa")


def test_the_certificate_bounds_the_time(tmp_path: Path) -> None:
    authority = opened(tmp_path / "tsa")
    since = NOW.replace(microsecond=0)
    until = since + timedelta(days=VALID_DAYS)
    assert authority.local.leaf.not_valid_before_utc == since
    assert authority.local.root.not_valid_after_utc == until
    for moment in (since - timedelta(milliseconds=1), until):
        with pytest.raises(RequestRefused) as refused:
            authority.local.issue(REQUEST, now=moment)
        assert refused.value.failure == TIME_NOT_AVAILABLE
    assert authority.local.issue(REQUEST, now=until - timedelta(milliseconds=1))
    with pytest.raises(Unavailable, match=r"ended on 2036-11-23; start with a new --dir"):
        opened(tmp_path / "tsa", now=until)


@pytest.mark.parametrize(("days", "said"), [(91, False), (89, True)])
def test_the_end_of_the_certificate_is_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days: int, said: bool
) -> None:
    made = datetime.now(UTC) - timedelta(days=VALID_DAYS - days)
    tsa._introduce(opened(tmp_path / "tsa", now=made), "http://localhost/")
    assert ("make a new authority in another --dir now" in capsys.readouterr().err) == said


def steps(*seconds: float) -> Callable[[], datetime]:
    moments = iter([NOW + timedelta(seconds=one) for one in seconds])
    return lambda: next(moments)


def test_a_clock_that_runs_back_is_not_believed(tmp_path: Path) -> None:
    """By as much as tokens claim to be accurate it may."""
    clock = SteadyClock(tmp_path / "latest", steps(0, 10, 9.001, 8.999, 5, 9.5))
    assert [clock.read() - NOW for _ in range(3)] == [timedelta(seconds=one) for one in (0, 10, 9.001)]
    for _ in range(2):
        with pytest.raises(RequestRefused, match="set back") as refused:
            clock.read()
        assert refused.value.failure == TIME_NOT_AVAILABLE
    assert clock.read() == NOW + timedelta(seconds=9.5)


def test_the_latest_time_is_kept_every_minute_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "latest"
    clock = SteadyClock(path, steps(0, 59, 60, 61))
    kept = []
    for _ in range(4):
        clock.read()
        kept.append(path.read_text())
    assert kept == [f"2026-11-26T04:{end}.123Z\n" for end in ("29:32", "29:32", "30:32", "30:32")]
    clock.keep()
    assert path.read_text() == "2026-11-26T04:30:33.123Z\n"
    with pytest.raises(RequestRefused):
        SteadyClock(path, steps(59)).read()


@pytest.mark.parametrize("damage", ["", "yesterday", "2026-11-26T04:29:32", "\xff", "0" * 65])
def test_damaged_state_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "latest").write_text(damage, encoding="latin-1")
    with pytest.raises(Unavailable, match="latest"):
        SteadyClock(tmp_path / "latest", steps())


def test_a_clock_behind_its_last_time_gets_no_token(tmp_path: Path) -> None:
    state = tmp_path / "tsa" / STATE_NAME
    with serving(tmp_path / "tsa") as server:
        first = last = asked(server).gen_time
        while last == first:
            last = asked(server).gen_time
        assert server.stop() == 0
    # The stop keeps what less than a minute has added.
    assert datetime.fromisoformat(state.read_text().strip()) == last
    state.write_text((datetime.now(UTC) + timedelta(days=1)).isoformat())
    with serving(tmp_path / "tsa") as server:
        response = parse_response(post_request(server.url, REQUEST))
        assert (response.status, response.failures) == (2, (TIME_NOT_AVAILABLE,))
        assert server.stop() == 0
        said = server.errors.read_text()
        assert f"stop and remove {state}" in said
        # At the start, and for the query.
        assert said.count("the clock was set back") == 2
    state.unlink()
    with serving(tmp_path / "tsa") as server:
        assert asked(server)


def test_a_trouble_of_its_own_is_a_system_failure_and_passes(tmp_path: Path) -> None:
    with serving(tmp_path / "tsa") as server:
        shutil.rmtree(server.directory)
        response = parse_response(post_request(server.url, REQUEST))
        assert (response.status, response.failures) == (2, (SYSTEM_FAILURE,))
        assert not any(str(tmp_path) in part.decode() for part in response.text)
        assert "no token could be made: Unavailable" in server.errors.read_text()
        server.directory.mkdir()
        assert parse_response(post_request(server.url, REQUEST)).token is not None


def started(sent: bytes, server: Served) -> socket.socket:
    """A connection whose request the server is known to be reading: it told the client to go on."""
    peer = socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
    peer.sendall(sent)
    assert peer.recv(4096).startswith(b"HTTP/1.1 100 ")
    return peer


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_request_that_has_begun_is_answered_before_the_end(tmp_path: Path, number: int, code: int) -> None:
    with serving(tmp_path / "tsa") as server, started(HEAD, server) as peer:
        server.process.send_signal(number)
        while listens(server):
            pass
        peer.sendall(REQUEST)
        data = b""
        while received := peer.recv(4096):
            data += received
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert read(server, body).nonce == forge.NONCE
        assert server.process.wait(SECONDS) == code


def listens(server: Served) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS).close()
    except OSError:
        return False
    return True


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "tsa") as server, started(HEAD, server):
        server.process.send_signal(signal.SIGTERM)
        while listens(server):
            pass
        assert server.stop(signal.SIGTERM) == 130
        assert server.errors.read_text().endswith("polledger: interrupted\n")


def test_connections_without_a_request_do_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "DRAIN_SECONDS", 3600.0)
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 3600.0)
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener, lambda query: query, warn=lambda text: None)
    thread = threading.Thread(target=lambda: server.serve(every=3600, report=lambda figures: None))
    thread.start()
    with socket.create_connection(listener.getsockname(), timeout=SECONDS) as peer:
        peer.sendall(HEAD.replace(b"Expect", b"X-Expect") + REQUEST)
        assert peer.recv(4096).startswith(b"HTTP/1.1 200 ")
        # The server waits for the next request now, or soon.
        time.sleep(0.3)
        server.stop()
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert peer.recv(1) == b""
    listener.close()


def test_a_request_that_waits_to_be_accepted_is_answered_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One thread alone, which the first client keeps.
    monkeypatch.setattr(serving_module, "CONNECTIONS", 2)
    monkeypatch.setattr(serving_module, "USHERS", -1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener, lambda query: query, warn=lambda text: None)
        thread = threading.Thread(target=lambda: server.serve(every=3600, report=lambda figures: None))
        thread.start()
        first, second = (socket.create_connection(listener.getsockname(), timeout=SECONDS) for _ in range(2))
        with first, second:
            for peer in (first, second):
                peer.sendall(HEAD.replace(b"Expect", b"X-Expect") + REQUEST)
                if peer is first:
                    assert peer.recv(4096).startswith(b"HTTP/1.1 200 ")
            server.stop()
            thread.join(SECONDS)
            assert second.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_connection_that_breaks_ends_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    # One thread alone.
    monkeypatch.setattr(serving_module, "CONNECTIONS", 2)
    monkeypatch.setattr(serving_module, "USHERS", -1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener, lambda query: query, warn=lambda text: None)
        thread = threading.Thread(target=lambda: server.serve(every=3600, report=lambda figures: None))
        thread.start()
        with socket.create_connection(listener.getsockname(), timeout=SECONDS) as peer:
            peer.sendall(HEAD)
            assert peer.recv(4096).startswith(b"HTTP/1.1 100 ")
            # Closing resets the connection.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            with socket.create_connection(listener.getsockname(), timeout=10) as peer:
                peer.sendall(HEAD.replace(b"Expect", b"X-Expect") + REQUEST)
                assert peer.recv(4096).startswith(b"HTTP/1.1 200 ")
        finally:
            server.stop()
            thread.join(SECONDS)


def test_every_stretch_is_reported(tmp_path: Path) -> None:
    stretches: list[Figures] = []
    totals: list[Figures] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener, opened(tmp_path / "tsa", now=NOW).issue, warn=lambda text: None)
        thread = threading.Thread(
            target=lambda: totals.append(server.serve(every=0.02, report=stretches.append))
        )
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        for granted in (1, 2):
            post_request(url, REQUEST)
            while sum(stretch.granted for stretch in stretches) < granted:
                time.sleep(0.01)
        post_request(url, b"nonsense")
        server.stop()
        thread.join()
    (total,) = totals
    assert (total.granted, total.rejected) == (2, 1)


def test_json_has_the_figures_and_nothing_else_is_printed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*SERVE, "--listen", "127.0.0.1:0", "--dir", tmp_path / "tsa", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        url = process.stderr.readline().split()[-1]
        for query in (REQUEST, REQUEST, b"nonsense"):
            post_request(url, query)
        with pytest.raises(Unavailable, match="answers HTTP 413"):
            post_request(url, bytes(5000))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
    result = json.loads(out)
    counts = {name: result.pop(name) for name in ("granted", "rejected", "refused")}
    assert counts == {"granted": 2, "rejected": 1, "refused": 1}
    assert 0 < result.pop("slowest") <= result.pop("busy") < result.pop("seconds")
    assert result.pop("rate") > 0
    assert result == {"schema": "polledger.tsa-serve/1", "exit_code": 0}
    assert err.splitlines()[-1].startswith("stopped: 2 tokens, 1 rejections, 1 HTTP refusals in ")


def test_figures_add_up() -> None:
    counter = Counter()
    counter.answered(0.25, granted=True)
    counter.answered(0.5, granted=False)
    counter.refused()
    first = counter.take()
    assert (first.granted, first.rejected, first.refused, first.busy, first.slowest) == (1, 1, 1, 0.75, 0.5)
    counter.answered(0.125, granted=True)
    second = counter.take()
    assert (second.granted, second.rejected, second.refused, second.slowest) == (1, 0, 0, 0.125)
    total = counter.total()
    assert (total.granted, total.rejected, total.busy, total.slowest) == (2, 1, 0.875, 0.5)
    assert total.seconds == first.seconds + second.seconds
    assert total.answered == 3


def test_a_stretch_is_told_where_something_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    tsa._report(Figures(seconds=60.0))
    assert capsys.readouterr().err == ""
    for asked in (Figures(seconds=60.0, granted=1), Figures(seconds=60.0, refused=1)):
        tsa._report(asked)
        assert asked.sentence() in capsys.readouterr().err


def test_figures_of_nothing_are_a_sentence_too() -> None:
    assert Figures(refused=1).sentence() == (
        "0 tokens, 0 rejections, 1 HTTP refusals in 0 s: 0.0 answers/s, 0.00 ms each, the slowest 0.00 ms"
    )
