"""The durable queue."""

import os
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.timestamp.client import make_request
from polledger.timestamp.queue import FIRST_PAUSE, LAST_MOMENT, LONGEST_PAUSE, Pending, RequestQueue
from tests.timestamp import forge

NOW = datetime(2026, 11, 22, 6, 13, 20, 123_000, tzinfo=UTC)


def pending(seal: int = 0, nonce: int = 7, url: str = "http://u:p@tsa.example/") -> Pending:
    return Pending(seal=seal, authority="tsa", url=url, request=make_request(forge.DIGEST, nonce=nonce))


@pytest.fixture
def queue(tmp_path: Path) -> RequestQueue:
    return RequestQueue(tmp_path / "private" / "queue")


def test_what_was_put_is_read_back_by_another_queue(queue: RequestQueue, tmp_path: Path) -> None:
    queue.put(pending(1))
    queue.put(pending(0))
    assert RequestQueue(tmp_path / "private" / "queue").pending() == [pending(0), pending(1)]


def test_request_bytes_nonce_and_imprint_are_kept(queue: RequestQueue) -> None:
    queue.put(pending(nonce=forge.NONCE))
    (found,) = queue.pending()
    assert found.request == make_request(forge.DIGEST, nonce=forge.NONCE)
    assert (found.wanted().nonce, found.wanted().imprint) == (forge.NONCE, forge.DIGEST)


def test_empty_queue_needs_no_directory(queue: RequestQueue, tmp_path: Path) -> None:
    assert queue.pending() == []
    assert queue.damaged() == []
    queue.remove(pending())
    assert not (tmp_path / "private").exists()


def test_failure_replaces_the_entry_and_is_counted(queue: RequestQueue) -> None:
    queue.put(pending())
    first = pending().failed("down", now=NOW)
    queue.put(first)
    queue.put(first.failed("still down", now=NOW + timedelta(hours=1)))
    (found,) = queue.pending()
    assert found.attempts == 2
    assert found.first_failure == round(NOW.timestamp() * 1000)
    assert found.last_failure == round((NOW + timedelta(hours=1)).timestamp() * 1000)
    assert found.reason == "still down"


def test_long_reason_is_cut(queue: RequestQueue) -> None:
    queue.put(pending().failed("x" * 10_000, now=NOW))
    assert queue.pending()[0].reason == "x" * 512


def test_removed_is_gone_and_the_others_stay(queue: RequestQueue) -> None:
    queue.put(pending(nonce=1))
    queue.put(pending(nonce=2))
    assert queue.holds(pending(nonce=1))
    queue.remove(pending(nonce=1).failed("down", now=NOW))
    assert not queue.holds(pending(nonce=1))
    assert queue.pending() == [pending(nonce=2)]


def test_reading_while_another_thread_removes_is_no_error(queue: RequestQueue) -> None:
    entries = [pending(nonce=nonce) for nonce in range(1, 40)]
    for entry in entries:
        queue.put(entry)
    remover = threading.Thread(target=lambda: [queue.remove(entry) for entry in entries])
    remover.start()
    while remover.is_alive():
        assert len(queue.pending()) <= len(entries)
        assert queue.damaged() == []
    remover.join()
    assert queue.pending() == []


def test_same_request_to_two_authorities_is_two_entries(queue: RequestQueue) -> None:
    queue.put(pending(url="http://a.example/"))
    queue.put(pending(url="http://b.example/"))
    assert len(queue.pending()) == 2


def test_pauses_double_up_to_the_longest() -> None:
    entry = pending()
    assert entry.due() < NOW
    pauses = []
    for _ in range(40):
        entry = entry.failed("down", now=NOW)
        pauses.append(entry.due() - NOW)
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


def test_files_are_private(queue: RequestQueue, tmp_path: Path) -> None:
    queue.put(pending())
    directory = tmp_path / "private" / "queue"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()] == [0o600]


@pytest.mark.parametrize("damage", [b"", b"\x81", bytes(20_000)])
def test_damaged_entry_is_kept_named_and_hides_no_other(
    queue: RequestQueue, tmp_path: Path, damage: bytes
) -> None:
    queue.put(pending(nonce=1))
    (path,) = (tmp_path / "private" / "queue").iterdir()
    queue.put(pending(nonce=2))
    path.write_bytes(damage)
    assert queue.pending() == [pending(nonce=2)]
    assert queue.damaged() == [path]


@pytest.mark.parametrize("moment", ["first_failure", "last_failure"])
def test_time_beyond_the_calendar_is_damage(queue: RequestQueue, tmp_path: Path, moment: str) -> None:
    with pytest.raises(UsageError):
        queue.put(msgspec.structs.replace(pending(), **{moment: LAST_MOMENT + 1}))
    last = msgspec.structs.replace(pending(), attempts=99, **{moment: LAST_MOMENT})
    queue.put(last)
    assert queue.pending() == [last]
    assert last.due() is not None
    (path,) = (tmp_path / "private" / "queue").iterdir()
    assert path.read_bytes().count(LAST_MOMENT.to_bytes(8, "big")) == 1
    path.write_bytes(
        path.read_bytes().replace(LAST_MOMENT.to_bytes(8, "big"), (LAST_MOMENT + 1).to_bytes(8, "big"))
    )
    assert (queue.pending(), queue.damaged()) == ([], [path])


def test_failure_without_an_attempt_has_the_first_pause(queue: RequestQueue) -> None:
    entry = msgspec.structs.replace(pending(), last_failure=0)
    assert entry.due() == datetime(1970, 1, 1, tzinfo=UTC) + FIRST_PAUSE


def test_pipe_and_link_are_damage_and_are_not_opened(queue: RequestQueue, tmp_path: Path) -> None:
    queue.put(pending())
    directory = tmp_path / "private" / "queue"
    (written,) = directory.iterdir()
    os.mkfifo(directory / "pipe.msgpack")
    (directory / "link.msgpack").symlink_to(written)
    (directory / "folder.msgpack").mkdir()
    assert queue.pending() == [pending()]
    assert {path.stem for path in queue.damaged()} == {"pipe", "link", "folder"}


def test_entry_whose_request_is_none_is_damaged(queue: RequestQueue) -> None:
    bad = Pending(seal=0, authority="tsa", url="http://tsa.example/", request=b"x")
    with pytest.raises(MalformedError):
        bad.wanted()
    queue.put(bad)
    assert queue.pending() == []
    assert len(queue.damaged()) == 1


def test_place_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot queue"):
        RequestQueue(tmp_path / "file" / "queue").put(pending())
    with pytest.raises(Unavailable, match="cannot read the queue"):
        RequestQueue(tmp_path / "file").pending()


def test_entry_that_cannot_be_removed_is_reported(queue: RequestQueue, tmp_path: Path) -> None:
    queue.put(pending())
    (path,) = (tmp_path / "private" / "queue").iterdir()
    path.unlink()
    path.mkdir()
    with pytest.raises(Unavailable, match="cannot update the queue"):
        queue.remove(pending())


WRITE = """
import sys
from pathlib import Path
from polledger.timestamp.queue import RequestQueue
from tests.timestamp.test_queue import pending
queue = RequestQueue(Path(sys.argv[1]))
for nonce in range(1, 100_000):
    queue.put(pending(nonce=nonce))
    print(nonce, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.029])
def test_killed_writer_loses_nothing_and_leaves_nothing_half_written(tmp_path: Path, delay: float) -> None:
    """Killed at arbitrary moments: what put() returned for is there, and only whole entries are."""
    directory, log = tmp_path / "queue", tmp_path / "log"
    root = Path(__file__).resolve().parents[2]
    with log.open("w") as out:
        writer = subprocess.Popen([sys.executable, "-c", WRITE, directory], cwd=root, stdout=out)
    deadline = time.monotonic() + 60
    while log.read_text().count("\n") < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    writer.kill()
    writer.wait()
    finished = {int(line) for line in log.read_text().split("\n")[:-1]}
    found = {entry.wanted().nonce for entry in RequestQueue(directory).pending()}
    assert len(finished) >= 3
    assert finished <= found
    assert len(found) <= len(finished) + 1
    assert RequestQueue(directory).damaged() == []
