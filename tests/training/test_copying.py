"""What training waits for is copied whole, by one thread or several."""

import random
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from polledger.training import copying
from polledger.training.copying import LARGE, SHARE, TOGETHER, copy_all

SIZES = [0, 1, LARGE - 1, LARGE, SHARE + 5, TOGETHER, 3]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pairs_of(sizes: list[int], *, readonly: bool = False) -> list[tuple[memoryview, memoryview]]:
    contents = [random.Random(size).randbytes(size) for size in sizes]
    sources = [memoryview(data if readonly else bytearray(data)) for data in contents]
    return [(source, memoryview(bytearray(len(source)))) for source in sources]


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("sizes", [[], SIZES[:4], SIZES])
def test_everything_is_copied(
    threads: int, cores: int, readonly: bool, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "usable_cores", lambda: cores)
    pairs = pairs_of(sizes, readonly=readonly)
    copy_all(pairs)
    assert all(source == place for source, place in pairs)


@pytest.mark.usefixtures("one_thread")
def test_a_second_thread_takes_part_where_much_is_copied_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "usable_cores", lambda: 2)
    real, both, seen = copying._copy, threading.Barrier(2), set()

    def noted(source: bytes | memoryview, place: memoryview) -> None:
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            both.wait(60)
        real(source, place)

    monkeypatch.setattr(copying, "_copy", noted)
    pairs = pairs_of([TOGETHER, SHARE])
    copy_all(pairs)
    assert len(seen) == 2
    assert all(source == place for source, place in pairs)


@pytest.mark.usefixtures("one_thread")
def test_what_goes_wrong_in_the_second_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "usable_cores", lambda: 2)
    real, here, failed = copying._copy, threading.get_ident(), threading.Event()

    def failing(source: bytes | memoryview, place: memoryview) -> None:
        if threading.get_ident() != here:
            failed.set()
            raise MemoryError("no room for a view")
        failed.wait(60)
        real(source, place)

    monkeypatch.setattr(copying, "_copy", failing)
    with pytest.raises(MemoryError, match="no room"):
        copy_all(pairs_of([TOGETHER, SHARE]))


class TestOneThread:
    @pytest.fixture(autouse=True)
    def no_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever begins a thread fails the test."""

        def refuse(thread: threading.Thread) -> None:
            raise AssertionError("a thread was begun")

        monkeypatch.setattr(threading.Thread, "start", refuse)

    @pytest.mark.usefixtures("one_thread")
    def test_a_process_of_one_core_copies_with_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(copying, "usable_cores", lambda: 1)
        copy_all(pairs_of([TOGETHER, SHARE]))

    @pytest.mark.usefixtures("one_thread")
    def test_little_is_copied_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(copying, "usable_cores", lambda: 2)
        copy_all(pairs_of([TOGETHER - 1, *[LARGE - 1] * 40]))

    def test_where_torch_has_several_there_are_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(copying, "usable_cores", lambda: 8)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        copy_all(pairs_of([TOGETHER, SHARE]))


@pytest.mark.usefixtures("one_thread")
def test_where_no_thread_can_be_begun_one_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "usable_cores", lambda: 2)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    pairs = pairs_of([TOGETHER, SHARE + 1])
    copy_all(pairs)
    assert all(source == place for source, place in pairs)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.usefixtures("one_thread")
def test_nothing_is_copied_any_more_after_an_interruption(
    monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    monkeypatch.setattr(copying, "usable_cores", lambda: 2)
    real_start, real_copy, copied, threads = threading.Thread.start, copying._copy, [], []

    def start(thread: threading.Thread) -> None:
        threads.append(thread)
        if begun:
            real_start(thread)
        raise KeyboardInterrupt

    def slow(source: bytes | memoryview, place: memoryview) -> None:
        time.sleep(0.02)
        real_copy(source, place)
        copied.append(place)

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(copying, "_copy", slow)
    with pytest.raises(KeyboardInterrupt):
        copy_all(pairs_of([SHARE] * 20))
    count = len(copied)
    # One that comes late finds nothing to do.
    (thread,) = threads
    if not begun:
        real_start(thread)
    thread.join(60)
    assert not thread.is_alive()
    assert len(copied) == count < 20
