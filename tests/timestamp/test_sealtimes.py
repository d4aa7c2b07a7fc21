"""The prover's note of when seals were made, and what waits since when."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from polledger.errors import Unavailable
from polledger.timestamp.client import make_request
from polledger.timestamp.queue import Pending, RequestQueue
from polledger.timestamp.sealtimes import SealTimes, waiting_in
from tests.timestamp import forge

NOW = datetime(2026, 11, 22, 6, 13, 20, 123_000, tzinfo=UTC)


def pending(seal: int) -> Pending:
    request = make_request(forge.DIGEST, nonce=7)
    return Pending(seal=seal, authority="tsa", url="http://u:p@tsa.example/", request=request)


def test_times_are_kept_to_the_millisecond_and_the_first_counts(tmp_path: Path) -> None:
    times = SealTimes(tmp_path / "sealed")
    times.note(0, NOW)
    times.note(12, NOW + timedelta(seconds=1))
    times.note(0, NOW + timedelta(hours=1))
    assert SealTimes(tmp_path / "sealed").read() == {0: NOW, 12: NOW + timedelta(seconds=1)}
    assert stat.S_IMODE((tmp_path / "sealed").stat().st_mode) == 0o600


def test_missing_note_knows_nothing(tmp_path: Path) -> None:
    assert SealTimes(tmp_path / "gone").read() == {}


@pytest.mark.parametrize(
    "line",
    [b"", b"1", b"1 2 3", b"x 5", b"-1 5", b"1 -5", b"1 \xff", b"1 9999999999999999", b"1 999999999999999"],
)
def test_lines_that_say_nothing_are_left_out(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "sealed").write_bytes(b"0 1764131234567\n" + line + b"\n2 1764131234567\n3 17")
    assert {0, 2} <= set(SealTimes(tmp_path / "sealed").read()) <= {0, 2, 3}


def test_note_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        SealTimes(tmp_path / "gone" / "sealed").note(0, NOW)


def test_requests_wait_since_their_seal_was_made(tmp_path: Path) -> None:
    queue = RequestQueue(tmp_path / "queue")
    queue.put(pending(0))
    queue.put(pending(1).failed("down", now=NOW + timedelta(minutes=1)))
    queue.put(pending(2).failed("down", now=NOW + timedelta(minutes=2)))
    found = waiting_in(queue, {0: NOW, 2: NOW + timedelta(minutes=1)})
    assert [one.to_json() for one in found] == [
        {"seal": 0, "authority": "tsa", "since": "2026-11-22T06:13:20.123Z", "attempts": 0, "reason": ""},
        {"seal": 1, "authority": "tsa", "since": "2026-11-22T06:14:20.123Z", "attempts": 1, "reason": "down"},
        {"seal": 2, "authority": "tsa", "since": "2026-11-22T06:14:20.123Z", "attempts": 1, "reason": "down"},
    ]
    assert waiting_in(queue, {})[0].since is None


def test_queue_that_cannot_be_read_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "queue").write_text("a file")
    assert waiting_in(RequestQueue(tmp_path / "queue"), {}) == ()
