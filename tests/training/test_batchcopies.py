"""Batches on their way to their digests: what they were when they were consumed, in a bounded amount of memory."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from polledger.core.seeds import batch_digest, salt
from polledger.store.objects import ObjectStore
from polledger.training.batchcopies import MEMORY, SMALL, BatchCopies
from polledger.training.copying import LARGE

SECRET = bytes(range(32))


def expected(step: int, data: bytes) -> bytes:
    return batch_digest(salt(SECRET, "batch", step), [data])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, LARGE + 1])
def test_a_batch_is_what_it_was_when_it_was_copied(size: int, threads: int) -> None:
    data = bytes(np.arange(size, dtype=np.uint8))
    live = bytearray(data)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        batch = BatchCopies(SECRET).copy(3, [b"header", memoryview(live)])
    finally:
        torch.set_num_threads(before)
    live[:] = bytes(size)
    assert batch.digest() == expected(3, b"header" + data)


@pytest.mark.filterwarnings("error")
def test_data_that_may_only_be_read_are_copied_without_a_word() -> None:
    data = bytes(LARGE)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batch = BatchCopies(SECRET).copy(0, [memoryview(data)])
    finally:
        torch.set_num_threads(before)
    assert batch.digest() == expected(0, data)


def test_memory_is_used_again_once_a_batch_is_settled() -> None:
    copies = BatchCopies(SECRET)
    first = copies.copy(0, [b"first"])
    memory = first.memory
    assert copies.settle(first) == expected(0, b"first")
    second = copies.copy(1, [b"2nd"])
    assert second.memory is memory
    assert (first.digest(), second.digest()) == (expected(0, b"first"), expected(1, b"2nd"))


def test_a_batch_that_is_settled_twice_gives_its_memory_back_once() -> None:
    copies = BatchCopies(SECRET)
    batch = copies.copy(0, [b"one"])
    assert copies.settle(batch) == copies.settle(batch)
    one, other = copies.copy(1, [b"one"]), copies.copy(2, [b"two"])
    assert one.memory is not other.memory


@pytest.mark.parametrize("size", [MEMORY + 1, SMALL])
def test_memory_that_is_too_small_or_much_too_large_is_let_go(size: int) -> None:
    copies = BatchCopies(SECRET)
    copies.settle(copies.copy(0, [bytes(MEMORY)]))
    copies.settle(copies.copy(1, [bytes(size)]))
    assert len(copies.copy(2, [bytes(size)]).memory or b"") == size
    # What was let go is not counted any more.
    assert copies.copy(3, [bytes(MEMORY - size)] if size == SMALL else [b"x"]).size == (
        MEMORY - size if size == SMALL else 0
    )


def test_a_batch_that_finds_no_memory_is_hashed_on_the_spot_and_let_go() -> None:
    copies = BatchCopies(SECRET)
    copies.copy(0, [bytes(MEMORY)])
    live = np.frombuffer(bytearray(b"live"), np.uint8)
    gone = weakref.ref(live)
    batch = copies.copy(1, [memoryview(live)])
    del live
    assert gone() is None
    assert batch.size == 0
    assert batch.digest() == copies.settle(batch) == expected(1, b"live")


def test_a_batch_that_is_settled_holds_nothing() -> None:
    copies = BatchCopies(SECRET)
    batch = copies.copy(0, [b"batch"])
    copies.settle(batch)
    assert (batch.memory, tuple(batch._chunks)) == (None, ())
    assert batch.digest() == expected(0, b"batch")


@pytest.mark.parametrize("full", [False, True])
def test_batches_are_stored_under_their_digests(full: bool, tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    copies = BatchCopies(SECRET, objects=store)
    if full:
        copies.copy(0, [bytes(MEMORY)])
    live = bytearray(b"live")
    batch = copies.copy(1, [b"a ", memoryview(live)])
    live[:] = b"dead"
    assert bytes(store.read(copies.settle(batch), limit=9)) == b"a live"
