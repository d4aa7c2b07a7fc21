"""The client against authorities that misbehave, each a process of its own on loopback."""

import threading
import time
from pathlib import Path

import pytest

from polledger.errors import PolledgerError, Unavailable
from polledger.timestamp.answer import OVERHEAD_BYTES
from polledger.timestamp.client import RESPONSE_BYTES, Unreachable, granted, make_request, post_request
from polledger.timestamp.queue import RequestQueue
from polledger.timestamp.stamper import Http, Stamper
from tests.timestamp import forge
from tests.timestamp.peers import needs_openssl, rogue, write_openssl
from tests.timestamp.test_stamper import NOW

REQUEST = make_request(forge.DIGEST, nonce=5)

BUFFERS = 64 << 20
"""Bytes that a sender can get rid of although nobody reads them: the largest socket buffers in use, and some."""


def ask(url: str, *, timeout: float = 10.0) -> bytes:
    return granted(post_request(url, REQUEST, timeout=timeout))


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("garbage", "not HTTP"),
        ("nonsense", "no timestamp response"),
        ("html", "answers with 'text/html' instead of application/timestamp-reply"),
        ("disguised", "no timestamp response"),
        ("redirect", "answers with a redirect (HTTP 302), which is not followed"),
        ("rejection", "refused: rejection: system failure"),
        ("no-token", "refused: granted"),
        ("compressed", "an encoding that was not asked for"),
        ("broken", "answers HTTP 500"),
    ],
)
def test_wrong_answer_is_refused_in_one_line(mode: str, message: str) -> None:
    with rogue(mode) as server, pytest.raises(Unavailable) as refused:
        ask(server.url)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("mode", ["endless", "huge", "headers", "continues", "chunks"])
def test_flood_is_cut_off(mode: str) -> None:
    """What was read is bounded; what the server could send is bounded by the buffers between."""
    with rogue(mode) as server:
        with pytest.raises(Unreachable) as refused:
            ask(server.url, timeout=60)
        assert server.sent() < RESPONSE_BYTES + OVERHEAD_BYTES + BUFFERS
    assert "answers with more" in str(refused.value)


@pytest.mark.parametrize("mode", ["hang", "drip", "drip-body"])
def test_time_limit_ends_what_does_not_end_by_itself(mode: str) -> None:
    with rogue(mode) as server:
        started = time.monotonic()
        with pytest.raises(Unreachable, match="no answer within 1 s"):
            ask(server.url, timeout=1)
        assert time.monotonic() - started < 30
        for thread in threading.enumerate():
            if thread.name == "timestamp request":
                thread.join(30)
                assert not thread.is_alive()


def test_token_over_something_else_is_refused_and_the_request_waits(tmp_path: Path) -> None:
    kept: list[object] = []
    with rogue("lie") as server:
        stamper = Stamper(
            authorities=[Http(url=server.url)],
            queue=RequestQueue(tmp_path / "queue"),
            clock=lambda: NOW,
            keep=lambda seal, token: kept.append((seal, token)),
        )
        assert stamper.stamp(0, bytes(32)) == []
    assert kept == []
    (entry,) = stamper.waiting()
    assert "the imprint is" in str(entry.reason)


@pytest.mark.parametrize(
    "mode", ["garbage", "html", "redirect", "rejection", "broken", "nonsense", "endless", "compressed"]
)
def test_no_message_repeats_credentials(mode: str) -> None:
    with rogue(mode) as server, pytest.raises(PolledgerError) as refused:
        ask(server.url.replace("//", "//alice:s3cret@") + "tsr?token=s3cret#s3cret")
    assert "s3cret" not in str(refused.value)
    assert "alice" not in str(refused.value)


@needs_openssl
def test_openssl_in_a_process_of_its_own_is_asked(tmp_path: Path) -> None:
    write_openssl(tmp_path)
    with rogue("openssl", directory=tmp_path) as server:
        assert ask(server.url)
        assert ask(server.url)
