"""Files written in blocks past the page cache: whole and in order whatever the sizes, and where that is refused."""

import errno
import fcntl
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from polledger.errors import Unavailable
from polledger.files import PUBLIC_FILE
from polledger.memory import large_memory
from polledger.store import blockfile
from polledger.store.blockfile import BlockFile, Disk
from polledger.store.objects import ObjectStore

BLOCK = 8192


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockfile, "BLOCK", BLOCK)


def written(path: Path, head: bytes, parts: list[bytes], disk: Disk) -> bytes:
    with BlockFile(path, head=len(head), mode=PUBLIC_FILE, disk=disk) as file:
        for part in parts:
            file.write(memoryview(part))
        file.finish(head)
    data = path.read_bytes()
    path.unlink()
    return data


def slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Has every write begin so much later; where they were made, from now on."""
    real, positions = os.pwrite, []

    def slow(descriptor: int, view: memoryview, position: int) -> int:
        time.sleep(seconds)
        positions.append(position)
        return real(descriptor, view, position)

    monkeypatch.setattr(os, "pwrite", slow)
    return positions


@pytest.mark.parametrize("head", [1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 17])
@pytest.mark.parametrize(
    "sizes",
    [[], [0], [1], [BLOCK - 1], [BLOCK], [BLOCK, 1], [BLOCK + 1], [5 * BLOCK + 3], [100, 3 * BLOCK, 0, 7]],
)
def test_file_is_head_and_parts_in_order(tmp_path: Path, head: int, sizes: list[int]) -> None:
    generator = random.Random(head * 1000 + sum(sizes))
    disk = Disk()
    first = generator.randbytes(head)
    parts = [generator.randbytes(size) for size in sizes]
    # Twice: what the first file left in the blocks does not show.
    for _ in range(2):
        assert written(tmp_path / "file", first, parts, disk) == first + b"".join(parts)


def test_a_head_of_another_length_is_a_mistake(tmp_path: Path) -> None:
    file = BlockFile(tmp_path / "file", head=3, mode=PUBLIC_FILE, disk=Disk())
    with file, pytest.raises(ValueError, match="announced"):
        file.finish(b"head")


def test_a_system_that_refuses_to_open_past_its_cache_is_written_ordinarily(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, flags = os.open, []

    def refusing(path: Any, flag: int, *rest: Any) -> int:
        flags.append(flag)
        if flag & blockfile._DIRECT:
            os.close(real(path, os.O_WRONLY | os.O_CREAT))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flag, *rest)

    monkeypatch.setattr(os, "open", refusing)
    data = written(tmp_path / "file", b"head", [b"x" * (3 * BLOCK)], Disk())
    assert data == b"head" + b"x" * (3 * BLOCK)
    assert len(flags) == 2


def test_another_alignment_and_short_writes_end_in_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.pwrite, [0]

    def stubborn(descriptor: int, view: memoryview, position: int) -> int:
        calls[0] += 1
        if calls[0] == 1:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, view[:1000], position)

    monkeypatch.setattr(os, "pwrite", stubborn)
    payload = random.Random(1).randbytes(3 * BLOCK + 5)
    assert written(tmp_path / "file", b"head", [payload], Disk()) == b"head" + payload


def test_a_disk_that_is_full_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, view: memoryview, position: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Unavailable, match=r"cannot write .*file: No space left on device"):
        written(tmp_path / "file", b"head", [b"x" * BLOCK], Disk())


def test_two_writes_at_once_may_find_that_another_alignment_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, both, refused = os.pwrite, threading.Barrier(2, timeout=60), []

    def refusing(descriptor: int, view: memoryview, position: int) -> int:
        if len(refused) == 2:
            return real(descriptor, view, position)
        refused.append(position)
        # The second one hears of it when the first has done something about it.
        if both.wait() == 0:
            end = time.monotonic() + 60
            while fcntl.fcntl(descriptor, fcntl.F_GETFL) & blockfile._DIRECT and time.monotonic() < end:
                time.sleep(0.001)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "pwrite", refusing)
    payload = random.Random(3).randbytes(6 * BLOCK)
    assert written(tmp_path / "file", b"head", [payload], Disk()) == b"head" + payload
    assert len(refused) == 2


def test_threads_that_cannot_begin_leave_none_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    real, begun = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if len(begun) == 1:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    disk = Disk()
    with pytest.raises(RuntimeError, match="new thread"):
        disk.start()
    for thread in begun:
        disk.writing.shutdown(wait=False)
        thread.join(60)
        assert not thread.is_alive()


def test_a_block_is_not_filled_again_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(monkeypatch, 0.01)
    payload = random.Random(2).randbytes(12 * BLOCK + 5)
    assert written(tmp_path / "file", b"head", [payload], Disk()) == b"head" + payload


@pytest.mark.parametrize("failing", range(8))
def test_an_error_of_any_block_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    real = os.pwrite

    def full(descriptor: int, view: memoryview, position: int) -> int:
        if position == failing * BLOCK:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, view, position)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Unavailable, match="No space left on device"):
        written(tmp_path / "file", b"head", [b"x" * (8 * BLOCK - 4)], Disk())


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"there")
    with pytest.raises(Unavailable, match="exists"):
        written(tmp_path / "file", b"head", [], Disk())
    assert (tmp_path / "file").read_bytes() == b"there"


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what is copied into blocks from now on."""
    real, sizes = blockfile._copy, []

    def noted(source: memoryview, place: memoryview) -> None:
        sizes.append(len(source))
        real(source, place)

    monkeypatch.setattr(blockfile, "_copy", noted)
    return sizes


class TestMemory:
    """Files whose content lies in memory as it is to lie in the file, all of it or some."""

    @staticmethod
    def written(
        path: Path,
        head: bytes,
        parts: list[bytes],
        in_place: list[bool],
        *,
        room: int | None = None,
        at: int = 0,
    ) -> bytes:
        """The file; ``room`` and ``at``: length of the memory, and where in its page it begins."""
        length = len(head) + sum(map(len, parts))
        memory = large_memory(length + 2 * blockfile.ALIGNMENT)[at:]
        memory[:] = b"m" * len(memory)
        begin, data = len(head), []
        for part, lies in zip(parts, in_place, strict=True):
            place = memory[begin : begin + len(part)]
            if lies:
                place[:] = part
            data.append(place if lies else memoryview(part))
            begin += len(part)
        before = bytes(memory[len(head) :])
        disk = Disk()
        with BlockFile(path, head=len(head), mode=PUBLIC_FILE, disk=disk, memory=memory[:room]) as file:
            for one in data:
                file.write(one)
            file.finish(head)
        disk.close()
        assert bytes(memory[len(head) :]) == before
        found = path.read_bytes()
        path.unlink()
        return found

    @pytest.mark.parametrize("head", [1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
    @pytest.mark.parametrize("sizes", [[], [1], [BLOCK - 1, 5], [4 * BLOCK + 3], [100, 3 * BLOCK, 0, 7]])
    def test_what_lies_there_is_written_from_there(
        self, tmp_path: Path, copied: list[int], head: int, sizes: list[int]
    ) -> None:
        first, *parts = (random.Random(1).randbytes(size) for size in (head, *sizes))
        found = self.written(tmp_path / "file", first, parts, [True] * len(parts))
        assert found == first + b"".join(parts)
        assert copied == []

    @pytest.mark.parametrize("seed", range(60))
    def test_what_does_not_is_copied(
        self, tmp_path: Path, copied: list[int], monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        slow_down(monkeypatch, 0.001)
        generator = random.Random(seed)
        first = generator.randbytes(generator.choice([1, 3000, BLOCK, 2 * BLOCK + 5]))
        parts = [generator.randbytes(generator.choice([0, 9, BLOCK, 3 * BLOCK + 1])) for _ in range(12)]
        in_place = [generator.random() < 0.7 for _ in parts]
        found = self.written(tmp_path / "file", first, parts, in_place)
        assert found == first + b"".join(parts)
        assert sum(copied) >= sum(len(part) for part, lies in zip(parts, in_place, strict=True) if not lies)

    @pytest.mark.parametrize(
        "room", [0, 1, 4095, 4096, BLOCK, BLOCK + 4096, 2 * BLOCK + 4097, 3 * BLOCK + 99]
    )
    @pytest.mark.parametrize("head", [5, 5000, BLOCK + 5])
    def test_memory_may_end_before_the_file(
        self, tmp_path: Path, copied: list[int], room: int, head: int
    ) -> None:
        first, payload = random.Random(2).randbytes(head), random.Random(3).randbytes(4 * BLOCK)
        parts = [payload[:3000], payload[3000:]]
        assert self.written(tmp_path / "file", first, parts, [True, True], room=room) == first + payload
        assert copied

    def test_memory_that_does_not_begin_at_a_page_is_written_too(self, tmp_path: Path) -> None:
        payload = random.Random(4).randbytes(4 * BLOCK)
        assert self.written(tmp_path / "file", b"head", [payload], [True], at=3) == b"head" + payload

    def test_what_lies_at_another_distance_is_copied(self, tmp_path: Path, copied: list[int]) -> None:
        memory = large_memory(4 * BLOCK)
        memory[:] = payload = random.Random(5).randbytes(4 * BLOCK)
        with BlockFile(tmp_path / "file", head=8, mode=PUBLIC_FILE, disk=Disk(), memory=memory) as file:
            file.write(memory[9 : 3 * BLOCK])
            file.finish(b"the head")
        assert (tmp_path / "file").read_bytes() == b"the head" + payload[9 : 3 * BLOCK]
        assert bytes(memory) == payload
        assert sum(copied) == 3 * BLOCK - 9

    @pytest.mark.parametrize("head", [4097, 5000, BLOCK + 5000])
    def test_a_file_may_be_its_head_alone(self, tmp_path: Path, head: int) -> None:
        first = random.Random(6).randbytes(head)
        # The head ends in a block of which the memory holds less.
        room = head // 4096 * 4096
        assert self.written(tmp_path / "file", first, [], [], room=room) == first

    def test_whole_units_are_written_past_the_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.pwrite

        def strict(descriptor: int, view: memoryview, position: int) -> int:
            address = blockfile._address(view)
            if any(value % blockfile.ALIGNMENT for value in (address, len(view), position)):
                raise OSError(errno.EIO, "not aligned")
            return real(descriptor, view, position)

        monkeypatch.setattr(os, "pwrite", strict)
        for size in (0, 1, 4095, 4096, 3 * BLOCK - 1, 3 * BLOCK + 4097):
            for room in (None, 4096 + 1, size, size + 100):
                payload = random.Random(size).randbytes(size)
                found = self.written(tmp_path / "file", b"head", [payload], [True], room=room)
                assert found == b"head" + payload


def test_nothing_is_written_once_a_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = slow_down(monkeypatch, 0.05)
    memory = large_memory(100 * BLOCK)
    disk = Disk()

    def give_up() -> None:
        with BlockFile(tmp_path / "file", head=1, mode=PUBLIC_FILE, disk=disk, memory=memory) as file:
            file.write(memory[1:])
            raise KeyError

    with pytest.raises(KeyError):
        give_up()
    count = len(written)
    disk.close()
    # Those that had begun are waited for, the others not made.
    assert len(written) == count < 10


class TestNewObject:
    def test_it_is_stored_under_its_name_and_durable_with_the_next_sync(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, name = ObjectStore(tmp_path / "objects"), bytes(range(32))
        with store.new(head=4, disk=Disk()) as new:
            new.write(memoryview(b"payload"))
            new.finish(name, b"head")
        assert bytes(store.read(name, limit=100)) == b"headpayload"
        synced: list[int] = []
        monkeypatch.setattr(os, "fdatasync", synced.append)
        store.sync()
        assert len(synced) == 1

    def test_nothing_is_left_of_one_that_was_not_finished(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path / "objects")

        def give_up() -> None:
            with store.new(head=4, disk=Disk()) as new:
                new.write(memoryview(b"payload"))
                raise KeyError

        with pytest.raises(KeyError):
            give_up()
        assert list((tmp_path / "objects").iterdir()) == []

    def test_what_a_killed_process_left_is_cleaned_up(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path / "objects")
        store.put(b"an object")
        (tmp_path / "objects" / ".tmp-0123").write_bytes(b"half")
        store.clean()
        assert [path.name for path in (tmp_path / "objects").iterdir() if path.name.startswith(".")] == []

    def test_damage_of_that_name_is_replaced(self, tmp_path: Path) -> None:
        store, name = ObjectStore(tmp_path / "objects"), bytes(32)
        store.put_named(name, [b"torn by a crash"])
        with store.new(head=1, disk=Disk()) as new:
            new.write(memoryview(b"hole"))
            new.finish(name, b"w")
        assert bytes(store.read(name, limit=100)) == b"whole"
