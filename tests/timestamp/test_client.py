"""The HTTP client against servers that answer, hang, lie, flood and redirect."""

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from polledger import __version__
from polledger.errors import Unavailable, UsageError
from polledger.timestamp.address import URL_CHARACTERS, USABLE, public_url
from polledger.timestamp.client import (
    QUERY_TYPE,
    Unreachable,
    granted,
    make_request,
    post_request,
)
from polledger.timestamp.messages import rejecting_response
from polledger.timestamp.queue import RequestQueue
from polledger.timestamp.stamper import Http, Stamper
from polledger.timestamp.token import verify_response
from tests.timestamp import forge
from tests.timestamp.cases import find
from tests.timestamp.peers import REPLY, Asked, free_url, http, needs_openssl, openssl, raw

Answer = Callable[[Asked], tuple[int, dict[str, str], bytes]]

REQUEST = make_request(forge.DIGEST, nonce=forge.NONCE, policy=forge.POLICY)
RESPONSE = find("own/good-p256").response()


def always(status: int, headers: dict[str, str], body: bytes) -> Answer:
    return lambda _: (status, headers, body)


@needs_openssl
def test_openssl_as_authority_is_asked_and_its_token_verifies(tmp_path: Path) -> None:
    with http(openssl(tmp_path)) as server:
        response = granted(post_request(f"{server.url}/tsr?x=1", REQUEST))
    arguments = find("own/good-p256").arguments() | {"at": None}
    timestamp = verify_response(response, **arguments)
    assert timestamp.nonce == forge.NONCE
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/tsr?x=1", REQUEST)
    assert asked.headers["Content-Type"] == QUERY_TYPE
    assert asked.headers["Accept"] == REPLY
    assert asked.headers["User-Agent"] == f"polledger/{__version__}"
    assert "Authorization" not in asked.headers


@needs_openssl
def test_openssl_rejection_is_said_in_words(tmp_path: Path) -> None:
    other = make_request(forge.DIGEST, nonce=1, policy="1.2.3.4")
    with http(openssl(tmp_path)) as server, pytest.raises(Unavailable, match="policy not supported"):
        granted(post_request(server.url, other))


def test_content_type_may_have_parameters_and_capitals() -> None:
    with http(
        always(200, {"Content-Type": "Application/Timestamp-Reply; charset=binary"}, RESPONSE)
    ) as server:
        assert post_request(server.url, REQUEST) == RESPONSE


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (always(200, {"Content-Type": "text/html"}, b"<html>log in</html>"), "'text/html' instead of"),
        (always(200, {}, RESPONSE), "instead of"),
        (always(200, {"Content-Type": REPLY, "Content-Encoding": "gzip"}, RESPONSE), "encoding"),
        (always(302, {"Location": "http://127.0.0.1:9/"}, b""), "redirect"),
        (always(307, {"Location": "http://127.0.0.1:9/", "Content-Type": REPLY}, RESPONSE), "redirect"),
        (always(404, {"Content-Type": REPLY}, RESPONSE), "HTTP 404"),
        (always(500, {}, b""), "HTTP 500"),
        (always(204, {}, b""), "HTTP 204"),
        (always(200, {"Content-Type": REPLY}, bytes(70_000)), "more than 65536 bytes"),
        (always(200, {"Content-Type": REPLY, "Content-Length": "9999999999"}, RESPONSE), "more than|short"),
        (always(200, {"Content-Type": REPLY, "Content-Length": "5000"}, RESPONSE), "short"),
    ],
)
def test_wrong_answers_are_refused(answer: Answer, message: str) -> None:
    with http(answer) as server, pytest.raises(Unreachable, match=message) as refused:
        post_request(server.url, REQUEST)
    assert str(refused.value).startswith(server.url)
    assert len(server.asked) == 1


def test_size_limit_is_exact() -> None:
    with http(always(200, {"Content-Type": REPLY}, bytes(100))) as server:
        assert post_request(server.url, REQUEST, limit=100) == bytes(100)
        with pytest.raises(Unreachable, match="more than 99 bytes"):
            post_request(server.url, REQUEST, limit=99)


@pytest.mark.parametrize("body", [b"", b"<html>", b"\x30\x80", RESPONSE + b"\0"])
def test_garbage_of_the_right_type_is_no_response(body: bytes) -> None:
    with (
        http(always(200, {"Content-Type": REPLY}, body)) as server,
        pytest.raises(Unavailable, match="no timestamp"),
    ):
        granted(post_request(server.url, REQUEST))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (rejecting_response(0), r"refused: rejection: hash algorithm not supported \(badAlg\)"),
        (rejecting_response(25), "system failure"),
        (find("own/status-waiting").response(), "refused: waiting"),
        (find("own/status-granted-with-mods").response(), "refused: granted with modifications"),
        (find("own/status-failure-bit").response(), "refused: granted: hash algorithm"),
        (find("own/response-without-token").response(), "refused: granted"),
    ],
)
def test_refusals_are_said_in_words(body: bytes, message: str) -> None:
    with pytest.raises(Unavailable, match=message):
        granted(body)


def test_unsigned_words_beside_a_token_are_dropped() -> None:
    assert granted(find("own/status-text-unknown").response()) == RESPONSE
    assert granted(RESPONSE) == RESPONSE


def dripping(connection: socket.socket) -> None:
    connection.recv(65536)
    for byte in b"HTTP/1.1 200 OK\r\n" * 100:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def dripping_body(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/timestamp-reply\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b"x")
        time.sleep(0.05)


def hanging(connection: socket.socket) -> None:
    connection.settimeout(30)
    while connection.recv(65536):
        pass


@pytest.mark.parametrize("serve", [hanging, dripping, dripping_body])
def test_time_limit_covers_the_whole_exchange(serve: Callable[[socket.socket], None]) -> None:
    with raw(serve) as url:
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"no answer (within 0.5 s|in time)"):
            post_request(url, REQUEST, timeout=0.5)
        assert time.monotonic() - started < 5


def test_no_thread_stays_behind_a_server_that_drips() -> None:
    with raw(dripping_body) as url, pytest.raises(Unreachable):
        post_request(url, REQUEST, timeout=0.3)
    for thread in threading.enumerate():
        if thread.name == "timestamp request":
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize("banner", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/9.9 hello\r\n\r\n", bytes(100_000)])
def test_servers_that_do_not_speak_http_are_reported(banner: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(banner)

    with raw(serve) as url, pytest.raises(Unreachable) as refused:
        post_request(url, REQUEST)
    assert "\n" not in str(refused.value)


def test_nobody_listening_is_reported() -> None:
    with pytest.raises(Unreachable, match="cannot be reached: Connection refused"):
        post_request(free_url(), REQUEST)


def test_unknown_host_is_reported() -> None:
    with pytest.raises(Unreachable, match=r"cannot be reached|no answer"):
        post_request("http://no-such-host.invalid/tsr", REQUEST)


def test_plain_http_behind_an_https_url_is_reported() -> None:
    with http(always(200, {"Content-Type": REPLY}, RESPONSE)) as server, pytest.raises(Unreachable):
        post_request(server.url.replace("http:", "https:"), REQUEST, timeout=3)


def test_tls_works_with_a_trusted_certificate_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = forge.extension("2.5.29.17", forge.seq(forge.tlv(0x87, bytes([127, 0, 0, 1]))), critical=False)
    authority = forge.certify("TLS root", forge.ec_key("tls root"), None, forge.CA)
    party = forge.certify("127.0.0.1", forge.ec_key("tls"), authority, [address])
    (tmp_path / "ca.pem").write_bytes(authority.pem())
    (tmp_path / "server.pem").write_bytes(party.pem() + forge.private_pem(party.key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with http(always(200, {"Content-Type": REPLY}, RESPONSE), tls=context) as server:
        with pytest.raises(Unreachable, match="TLS certificate is not valid"):
            post_request(server.url, REQUEST)
        assert server.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert post_request(server.url, REQUEST) == RESPONSE


def test_credentials_are_sent_and_never_shown() -> None:
    with http(always(500, {}, b"")) as server:
        url = server.url.replace("//", "//alice:s%3Acret@") + "/tsr?key=hidden"
        with pytest.raises(Unreachable) as refused:
            post_request(url, REQUEST)
    sent = server.asked[0].headers["Authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"alice:s:cret"
    assert str(refused.value) == f"{server.url}/tsr: answers HTTP 500"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@tsa.example/a?b=c#d", "https://tsa.example/a"),
        ("http://tsa.example:8080", "http://tsa.example:8080"),
        ("http://[::1]:3161/x", "http://[::1]:3161/x"),
    ],
)
def test_public_url_has_no_secrets(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "", "tsa.example", "ftp://tsa.example/", "file:///etc/passwd", "http://", "http:///x", "http://h:0/",
        "http://h:99999/", "http://h:x/", "http://[::1/", "http://a b/", "http://h/\n", "http://h/ü", "http://h\x7f/",
        f"http://h/{'x' * (URL_CHARACTERS - 8)}",
    ],
)  # fmt: skip
def test_refuses_what_is_no_http_url_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        post_request(url, REQUEST)
    assert str(refused.value) == f"an authority is given by {USABLE}"


def test_a_request_to_the_longest_url_can_wait(tmp_path: Path) -> None:
    """One character more is refused before a training begins: its requests could not be put on disk."""
    url = f"http://h/{'x' * (URL_CHARACTERS - 9)}"
    queue = RequestQueue(tmp_path)
    Stamper(
        authorities=[Http(url=url)], queue=queue, clock=lambda: datetime.now(UTC), keep=lambda *_: None
    ).enqueue(0, forge.DIGEST)
    assert [pending.url for pending in queue.pending()] == [url]


def test_http_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with http(always(200, {"Content-Type": REPLY}, RESPONSE)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:pw@"))
        assert post_request("http://u:v@tsa.invalid/tsr?q", REQUEST) == RESPONSE
    (asked,) = proxy.asked
    assert asked.path == "http://tsa.invalid/tsr?q"
    assert asked.headers["Host"] == "tsa.invalid"
    assert base64.b64decode(asked.headers["Proxy-Authorization"].removeprefix("Basic ")) == b"me:pw"
    assert base64.b64decode(asked.headers["Authorization"].removeprefix("Basic ")) == b"u:v"


def test_https_goes_through_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        lines.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    with raw(serve) as proxy:
        monkeypatch.setenv("https_proxy", proxy.replace("//", "//me:pw@"))
        with pytest.raises(Unreachable, match="cannot be reached"):
            post_request("https://u:v@tsa.invalid/tsr", REQUEST)
    assert lines[0].startswith(b"CONNECT tsa.invalid:443 ")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:pw") in lines[0]
    assert base64.b64encode(b"u:v") not in lines[0]


def test_no_proxy_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", free_url())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http(always(200, {"Content-Type": REPLY}, RESPONSE)) as server:
        assert post_request(server.url, REQUEST) == RESPONSE


@pytest.mark.parametrize("host", ["[2001:db8::a]", "[2001:db8::1]", "a..b", f"{'a' * 64}.invalid"])
def test_host_that_cannot_be_reached_is_an_outage(host: str) -> None:
    """http.client takes the end of an IPv6 address for a port, if none is given."""
    with pytest.raises(Unreachable, match="cannot be reached|cannot be looked up|no answer"):
        post_request(f"http://{host}/", REQUEST, timeout=1)


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:9", "http://p:99999", "http://[::1", "p\x7f:80", "http://p:p:80", "http://"]
)
def test_proxy_that_is_no_http_url_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UsageError, match="http_proxy"):
        post_request("http://tsa.invalid/", REQUEST)
