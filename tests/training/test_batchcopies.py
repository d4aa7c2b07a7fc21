"""Batches on their way to their digests: what they were when they were consumed, in a bounded amount of memory."""

from pathlib import Path

import numpy as np
import pytest

from polledger.core.nest import NestTensor, OpenNest, parse_nest
from polledger.core.seeds import batch_digest, salt
from polledger.store.objects import ObjectStore
from polledger.training.batchcopies import MEMORY, BatchCopies
from polledger.training.snapshot import LARGE

SECRET = bytes(range(32))


def nest(*data: bytes | bytearray) -> OpenNest:
    tensors = [NestTensor(dtype="uint8", shape=[len(part)]) for part in data]
    structure = ["list", [["array", number] for number in range(len(data))]]
    return OpenNest(structure=structure, tensors=tensors, data=[memoryview(part) for part in data])


def expected(step: int, *data: bytes) -> bytes:
    return batch_digest(salt(SECRET, "batch", step), nest(*data).chunks())


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, LARGE + 1])
def test_a_batch_is_what_it_was_when_it_was_copied(size: int) -> None:
    data = bytes(np.arange(size, dtype=np.uint8))
    live = bytearray(data)
    batch = BatchCopies(SECRET).copy(3, nest(b"first", live))
    live[:] = bytes(size)
    assert batch.digest() == expected(3, b"first", data)


def test_memory_is_used_again_once_a_batch_is_settled() -> None:
    copies = BatchCopies(SECRET)
    first = copies.copy(0, nest(b"first"))
    memory = first.memory
    assert copies.settle(first) == expected(0, b"first")
    second = copies.copy(1, nest(b"2nd"))
    assert second.memory is memory
    assert (first.digest(), second.digest()) == (expected(0, b"first"), expected(1, b"2nd"))


def test_a_batch_that_is_settled_twice_gives_its_memory_back_once() -> None:
    copies = BatchCopies(SECRET)
    batch = copies.copy(0, nest(b"one"))
    assert copies.settle(batch) == copies.settle(batch)
    one, other = copies.copy(1, nest(b"one")), copies.copy(2, nest(b"two"))
    assert one.memory is not other.memory


def test_memory_that_is_too_small_is_let_go() -> None:
    copies = BatchCopies(SECRET)
    copies.settle(copies.copy(0, nest(bytes(MEMORY))))
    copies.settle(copies.copy(1, nest(bytes(MEMORY + 1))))
    assert copies.copy(2, nest(bytes(MEMORY + 1))).held == MEMORY + 1


def test_a_batch_that_finds_no_memory_is_hashed_on_the_spot() -> None:
    copies = BatchCopies(SECRET)
    copies.copy(0, nest(bytes(MEMORY)))
    live = bytearray(b"live")
    batch = copies.copy(1, nest(live))
    live[:] = b"dead"
    assert batch.held == 0
    assert batch.digest() == copies.settle(batch) == expected(1, b"live")


@pytest.mark.parametrize("full", [False, True])
def test_batches_are_stored_under_their_digests(full: bool, tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    copies = BatchCopies(SECRET, objects=store)
    if full:
        copies.copy(0, nest(bytes(MEMORY)))
    live = bytearray(b"live")
    batch = copies.copy(1, nest(b"a ", live))
    live[:] = b"dead"
    stored = store.read(copies.settle(batch), limit=1 << 10)
    assert [bytes(data) for _, _, data in parse_nest(stored).tensors] == [b"a ", b"live"]
