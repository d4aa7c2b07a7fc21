"""Packed state files: the same bytes come back, and of anything else than such a file nothing does."""

import contextlib
import hashlib
import os
import random
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.errors import MalformedError
from polledger.files import open_regular
from polledger.store.objects import ObjectDamaged, ObjectMissing, ObjectStore
from polledger.store.packed import BLOCK, HEAD_BYTES, MAGIC, RATIO, packed, plain_size, unpack

NAME = b"\x0f" * 32
LIMIT = 1 << 26


def pack(*parts: tuple[int, bytes]) -> bytes:
    size = sum(len(data) for _, data in parts)
    return b"".join(
        [bytes(piece) for piece in packed(size, [(width, memoryview(data)) for width, data in parts])]
    )


def unpacked(data: bytes, path: Path) -> bytes:
    path.write_bytes(data)
    # Whatever the ratio: that is judged before.
    size = plain_size(data[:HEAD_BYTES], 1 << 40)
    assert size is not None
    buffer = bytearray(size)
    with open_regular(path) as (file, _):
        file.read(HEAD_BYTES)
        unpack(file, memoryview(buffer))
        assert not file.closed
    return bytes(buffer)


def normal(count: int, dtype: str) -> bytes:
    return np.random.default_rng(5).normal(0, 0.02 if "f" in dtype else 500, count).astype(dtype).tobytes()


def block(length: int, *compressed: int, width: int | None = None) -> bytes:
    stated = len(compressed) if width is None else width
    return (
        length.to_bytes(4, "big") + bytes([stated]) + b"".join(one.to_bytes(4, "big") for one in compressed)
    )


def files(store: ObjectStore) -> list[Path]:
    return [path for path in store.directory.rglob("*") if path.is_file()]


def head(size: int) -> bytes:
    return MAGIC + size.to_bytes(8, "big")


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("length", [0, 16, 48, 4096, BLOCK - 16, BLOCK, BLOCK + 16, 3 * BLOCK + 32])
def test_what_is_packed_comes_back(width: int, length: int, tmp_path: Path) -> None:
    noise = random.Random(length).randbytes(length)
    smooth = (bytes(range(16)) * (length // 16 + 1))[:length]
    for data in (noise, smooth, bytes(length)):
        assert (
            unpacked(pack((1, b"head"), (width, data), (4, b"1234")), tmp_path / "file")
            == b"head" + data + b"1234"
        )


def test_an_array_that_ends_within_an_element_is_kept_as_it_is(tmp_path: Path) -> None:
    assert unpacked(pack((4, b"1234567")), tmp_path / "file") == b"1234567"


@pytest.mark.parametrize(("dtype", "most"), [("<f4", 0.86), ("<f8", 0.96), ("<f2", 0.88), ("<i8", 0.4)])
def test_numbers_of_one_scale_take_fewer_bytes(dtype: str, most: float, tmp_path: Path) -> None:
    data = normal(500_000, dtype)
    small = pack((np.dtype(dtype).itemsize, data))
    assert len(small) / len(data) < most
    assert unpacked(small, tmp_path / "file") == data


def test_noise_takes_hardly_more(tmp_path: Path) -> None:
    noise = os.urandom(3 * BLOCK)
    for width in (1, 4):
        assert len(pack((width, noise))) <= len(noise) + HEAD_BYTES + 3 * (5 + 4 * width)


@pytest.mark.parametrize(
    "data", [b"", MAGIC[:7], MAGIC + bytes(7), bytes(16), (1 << 26).to_bytes(8, "big") + bytes(8)]
)
def test_other_files_are_not_packed(data: bytes) -> None:
    assert plain_size(data, 1 << 30) is None


def test_no_plain_state_begins_like_a_packed_one() -> None:
    assert int.from_bytes(MAGIC, "big") > 1 << 26


GOOD = zstandard.compress(b"\x01" * 64)
PLAIN = bytes(192)
BAD_LENGTH, BAD_FRAME, SHORT, LONG = "wrong length", "decompressed", "ends early", "after its last block"


@pytest.mark.parametrize(
    ("size", "data", "message"),
    [
        (8, b"", SHORT),
        (8, block(8, 0)[:3], SHORT),
        (8, block(8, 0)[:7], SHORT),
        (8, block(8, 0) + bytes(7), SHORT),
        (8, block(8, 0) + bytes(9), LONG),
        (0, b"\0", LONG),
        (8, block(0, 0) + bytes(8), BAD_LENGTH),
        (8, block(9, 0) + bytes(9), BAD_LENGTH),
        (BLOCK + 1, block(BLOCK + 1, 0) + bytes(BLOCK + 1), BAD_LENGTH),
        (8, block(8, width=0) + bytes(8), BAD_LENGTH),
        (17, block(17, *[0] * 17) + bytes(17), BAD_LENGTH),
        (8, block(8, *[0] * 3) + bytes(8), BAD_LENGTH),
        (8, block(8, 8) + bytes(8), BAD_LENGTH),
        (8, block(8, 9) + bytes(9), BAD_LENGTH),
        (8, block(8, (1 << 32) - 1) + bytes(8), BAD_LENGTH),
        (256, block(256, 0, 0, 0, 20) + PLAIN + bytes(20), BAD_FRAME),
        (256, block(256, 0, 0, 0, len(GOOD) - 1) + PLAIN + GOOD[:-1], BAD_FRAME),
        (256, block(256, 0, 0, 0, len(GOOD) + 1) + PLAIN + GOOD + b"\0", BAD_FRAME),
        (256, block(256, 0, 0, 0, len(GOOD)) + PLAIN + GOOD[:-1], SHORT),
        (256, block(256, 0, 0, 0, len(GOOD)) + PLAIN + GOOD + b"\0", LONG),
        (260, block(260, 0, 0, 0, len(GOOD)) + bytes(195) + GOOD, BAD_LENGTH),
        (252, block(252, 0, 0, 0, len(GOOD)) + bytes(189) + GOOD, BAD_LENGTH),
    ],
)
def test_other_bytes_are_refused(size: int, data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match=message):
        unpacked(head(size) + data, tmp_path / "file")


def test_the_frame_of_these_cases_is_a_good_one(tmp_path: Path) -> None:
    data = unpacked(head(256) + block(256, 0, 0, 0, len(GOOD)) + PLAIN + GOOD, tmp_path / "file")
    assert data == b"\0\0\0\x01" * 64
    assert unpacked(head(64) + block(64, len(GOOD)) + GOOD, tmp_path / "file") == b"\x01" * 64


def test_a_frame_gets_no_memory_for_what_it_states(tmp_path: Path) -> None:
    # A frame header of zstd that states a content of 2^62 bytes, and one empty block.
    frame = bytes.fromhex("28b52ffde0") + (1 << 62).to_bytes(8, "little") + bytes.fromhex("010000")
    assert zstandard.frame_content_size(frame) == 1 << 62
    with pytest.raises(MalformedError, match=BAD_LENGTH):
        unpacked(head(64) + block(64, len(frame)) + frame, tmp_path / "file")


def test_a_frame_that_states_no_size_is_refused(tmp_path: Path) -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"\x01" * 64)
    with pytest.raises(MalformedError, match=BAD_LENGTH):
        unpacked(head(64) + block(64, len(frame)) + frame, tmp_path / "file")


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = pack((1, b"head"), (4, normal(100, "<f4")))
    for end in range(HEAD_BYTES, len(whole)):
        with pytest.raises(MalformedError):
            unpacked(whole[:end], tmp_path / "file")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_changed_bytes_are_refused_or_give_as_many_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(pack((1, b"head"), (4, normal(200, "<f4")), (8, normal(50, "<f8"))))
    place = data.draw(st.integers(HEAD_BYTES, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "changed"
    with contextlib.suppress(MalformedError):
        assert len(unpacked(bytes(whole), path)) == 4 + 800 + 400


class TestStore:
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return ObjectStore(tmp_path / "objects")

    def test_both_kinds_are_read_alike(self, store: ObjectStore) -> None:
        data = b"head" + normal(1000, "<f4")
        store.put_named(NAME, [data])
        assert (store.read_state(NAME, limit=LIMIT), store.state_size(NAME)) == (data, 4004)
        store.path(NAME).unlink()
        store.put_packed(NAME, len(data), [(1, memoryview(data[:4])), (4, memoryview(data[4:]))])
        view = store.read_state(NAME, limit=LIMIT)
        assert (view, store.state_size(NAME)) == (data, 4004)
        assert view.readonly
        assert store.path(NAME).stat().st_size < 3700
        store.check_state_size(NAME, 4004)
        with pytest.raises(ObjectDamaged, match="4004 bytes, 4003 are expected"):
            store.check_state_size(NAME, 4003)

    def test_it_is_read_into_the_memory_given(self, store: ObjectStore) -> None:
        memory = memoryview(bytearray(100))
        store.put_packed(NAME, 3, [(1, memoryview(b"abc"))])
        view = store.read_state(NAME, limit=LIMIT, room=lambda size: memory[:size])
        assert bytes(memory[:3]) == b"abc" == view

    def test_a_size_beyond_the_limit_gets_no_memory(self, store: ObjectStore) -> None:
        store.put_named(NAME, [head(1 << 20), block(BLOCK, 0), bytes(1 << 15)])

        def none(size: int) -> memoryview:
            raise AssertionError(size)

        with pytest.raises(ObjectDamaged, match="at most"):
            store.read_state(NAME, limit=(1 << 20) - 1, room=none)

    def test_few_bytes_ask_for_no_more_memory_than_they_may(self, store: ObjectStore) -> None:
        frame = zstandard.compress(bytes(BLOCK))
        content = block(BLOCK, len(frame)) + frame
        asked: list[int] = []

        def room(size: int) -> memoryview:
            asked.append(size)
            return memoryview(bytearray(size))

        # Bytes behind the last block make it damaged in any case: was memory given before that was seen?
        filler = bytes(BLOCK // RATIO - HEAD_BYTES - len(content))
        store.put_named(NAME, [head(BLOCK + 1), content, filler])
        for read in (lambda: store.read_state(NAME, limit=LIMIT, room=room), lambda: store.state_size(NAME)):
            with pytest.raises(ObjectDamaged, match="more than 64 times as many"):
                read()
        assert asked == []
        store.put_named(NAME, [head(BLOCK), content, filler])
        with pytest.raises(ObjectDamaged, match=LONG):
            store.read_state(NAME, limit=LIMIT, room=room)
        assert asked == [BLOCK]

    def test_what_does_not_fit_into_memory_is_said(self, store: ObjectStore) -> None:
        def none(size: int) -> memoryview:
            raise MemoryError

        store.put_packed(NAME, 3, [(1, memoryview(b"abc"))])
        with pytest.raises(ObjectDamaged, match="its 3 bytes do not fit into memory"):
            store.read_state(NAME, limit=LIMIT, room=none)

    @pytest.mark.parametrize("plain", [True, False])
    def test_the_same_state_is_not_written_again(self, store: ObjectStore, plain: bool) -> None:
        data = normal(300, "<f4")
        if plain:
            store.put_named(NAME, [data])
        else:
            store.put_packed(NAME, len(data), [(4, memoryview(data))])
        before = store.path(NAME).stat()
        store.put_packed(NAME, len(data), [(4, memoryview(data))])
        assert store.path(NAME).stat().st_ino == before.st_ino
        other = normal(300, "<f4")[:-1] + b"x"
        store.put_packed(NAME, len(other), [(4, memoryview(other))])
        assert store.read_state(NAME, limit=LIMIT) == other
        store.path(NAME).write_bytes(b"torn")
        store.put_packed(NAME, len(other), [(4, memoryview(other))])
        assert store.read_state(NAME, limit=LIMIT) == other

    def test_what_packs_to_next_to_nothing_is_not_packed(self, store: ObjectStore) -> None:
        data = bytes(3 * BLOCK)
        store.put_packed(NAME, len(data), [(4, memoryview(data))])
        assert files(store) == [store.path(NAME)]
        assert store.path(NAME).read_bytes() == data
        assert store.read_state(NAME, limit=LIMIT) == data
        mixed = bytes(3 * BLOCK) + os.urandom(BLOCK // 4)
        store.put_packed(NAME, len(mixed), [(4, memoryview(mixed))])
        assert store.path(NAME).stat().st_size < BLOCK
        assert store.read_state(NAME, limit=LIMIT) == mixed

    def test_missing_and_damaged_ones_are_named(self, store: ObjectStore) -> None:
        with pytest.raises(ObjectMissing, match=NAME.hex()):
            store.read_state(NAME, limit=LIMIT)
        with pytest.raises(ObjectMissing, match=NAME.hex()):
            store.state_size(NAME)
        store.put_named(NAME, [head(8)])
        with pytest.raises(ObjectDamaged, match="ends early"):
            store.read_state(NAME, limit=LIMIT)
        store.path(NAME).unlink()
        store.path(NAME).symlink_to("/dev/null")
        for read in (lambda: store.read_state(NAME, limit=LIMIT), lambda: store.state_size(NAME)):
            with pytest.raises(ObjectDamaged, match="symbolic links"):
                read()

    def test_what_is_named_by_its_digest_is_never_unpacked(self, store: ObjectStore) -> None:
        data = pack((1, b"abc"))
        assert store.get(store.put(data), limit=LIMIT) == data
        assert bytes(store.read(hashlib.sha256(data).digest(), limit=LIMIT)) == data

    def test_it_is_on_disk_after_sync(self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[Path] = []
        monkeypatch.setattr("polledger.store.objects.sync_file", synced.append)
        store.put_packed(NAME, 3, [(1, memoryview(b"abc"))])
        store.sync()
        store.sync_later(NAME)
        store.sync()
        assert synced == [store.path(NAME)] * 2
