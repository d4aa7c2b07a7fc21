import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.errors import Unavailable, UsageError
from polledger.store.objects import ObjectDamaged, ObjectMissing, ObjectStore

LIMIT = 1 << 20
DATA = b"payload"
NAME = hashlib.sha256(DATA).digest()
ROOT = b"\x0f" * 32


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


def files(store: ObjectStore) -> list[Path]:
    directory = store.path(NAME).parent.parent
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_an_object_lies_where_its_digest_says(store: ObjectStore, tmp_path: Path) -> None:
    assert store.put(DATA) == NAME
    assert store.path(NAME) == tmp_path / "objects" / NAME.hex()[:2] / NAME.hex()[2:]
    assert store.path(NAME).read_bytes() == DATA
    assert store.get(NAME, limit=LIMIT) == DATA
    assert store.has(NAME)


@given(st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_any_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    store = ObjectStore(tmp_path_factory.mktemp("objects"))
    assert store.get(store.put(memoryview(data)), limit=LIMIT) == data


def test_chunks_are_stored_under_the_given_name(store: ObjectStore) -> None:
    store.put_named(ROOT, [b"ab", memoryview(b"cd"), b"", memoryview(b"").cast("B"), b"e"])
    view = store.read(ROOT, limit=LIMIT)
    assert view == b"abcde"
    assert view.readonly
    assert view.format == "B"


def test_chunks_of_other_formats_are_stored_as_their_bytes(store: ObjectStore) -> None:
    chunk = memoryview(bytes(range(16))).cast("I")
    for _ in range(2):
        store.put_named(ROOT, [chunk, b"x"])
    assert store.read(ROOT, limit=LIMIT) == bytes(range(16)) + b"x"


def test_storing_again_changes_nothing(store: ObjectStore) -> None:
    store.put(DATA)
    before = store.path(NAME).stat()
    store.put(DATA)
    after = store.path(NAME).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert files(store) == [store.path(NAME)]


@pytest.mark.parametrize("left", [b"", DATA[:-1], DATA + b"x", b"PAYLOAD", bytes(len(DATA))])
def test_storing_again_replaces_what_a_crash_left(store: ObjectStore, left: bytes) -> None:
    store.put(DATA)
    store.path(NAME).write_bytes(left)
    store.put(DATA)
    assert store.get(NAME, limit=LIMIT) == DATA


def test_a_difference_behind_the_first_block_is_seen(store: ObjectStore) -> None:
    data = bytearray(9 << 20)
    name = store.put(bytes(data))
    data[-1] = 1
    store.path(name).write_bytes(data)
    with pytest.raises(ObjectDamaged):
        store.get(name, limit=1 << 24)
    store.put(bytes(9 << 20))
    assert store.get(name, limit=1 << 24) == bytes(9 << 20)


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    assert not store.has(NAME)
    for read in (store.get, store.read):
        with pytest.raises(ObjectMissing, match=f"object {NAME.hex()} is missing") as caught:
            read(NAME, limit=LIMIT)
        assert caught.value.name == NAME
        assert isinstance(caught.value, Unavailable)


@pytest.mark.parametrize("content", [b"", b"other", DATA + b"\0", DATA[:-1]])
def test_a_changed_object_is_named_with_the_digest_found(store: ObjectStore, content: bytes) -> None:
    store.put(DATA)
    store.path(NAME).write_bytes(content)
    with pytest.raises(ObjectDamaged, match=hashlib.sha256(content).hexdigest()) as caught:
        store.get(NAME, limit=LIMIT)
    assert caught.value.name == NAME
    assert isinstance(caught.value, Unavailable)
    # Objects that check themselves are handed out as they are.
    assert store.read(NAME, limit=LIMIT) == content


def test_an_object_of_exactly_the_limit_is_read_and_no_larger_one(store: ObjectStore) -> None:
    store.put(DATA)
    for read in (store.get, store.read):
        assert read(NAME, limit=len(DATA)) == DATA
        with pytest.raises(ObjectDamaged, match="7 bytes, at most 6") as caught:
            read(NAME, limit=len(DATA) - 1)
        assert caught.value.name == NAME


def test_a_huge_sparse_file_is_refused_unread(store: ObjectStore) -> None:
    store.put(DATA)
    with store.path(NAME).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ObjectDamaged, match="at most"):
        store.get(NAME, limit=LIMIT)


@pytest.mark.parametrize("place", ["link", "dangling", "directory", "pipe", "file above"])
def test_anything_but_a_regular_file_is_not_read(store: ObjectStore, tmp_path: Path, place: str) -> None:
    path = store.path(NAME)
    path.parent.mkdir(parents=True)
    (tmp_path / "outside").write_bytes(DATA)
    match place:
        case "link":
            path.symlink_to(tmp_path / "outside")
        case "dangling":
            path.symlink_to(tmp_path / "nothing")
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "file above":
            path.parent.rmdir()
            path.parent.write_bytes(b"")
    with pytest.raises(ObjectDamaged):
        store.get(NAME, limit=LIMIT)


@pytest.mark.parametrize(
    "name", [b"", bytes(31), bytes(33), "../../../../etc/passwd", "a" * 32, bytearray(32), None], ids=repr
)
def test_only_32_bytes_name_an_object(store: ObjectStore, name: bytes) -> None:
    for use in (
        store.path,
        store.has,
        lambda name: store.get(name, limit=1),
        lambda name: store.put_named(name, []),
    ):
        with pytest.raises(UsageError, match="named by 32 bytes"):
            use(name)


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=100, deadline=None)
def test_no_name_leads_out_of_the_directory(name: bytes) -> None:
    store = ObjectStore(Path("/objects"))
    assert store.path(name).parts[:2] == ("/", "objects")
    assert ".." not in store.path(name).parts
    assert len(store.path(name).parts) == 4


def test_a_view_of_an_object_outlives_changes_of_the_file(store: ObjectStore) -> None:
    store.put(DATA)
    view = store.read(NAME, limit=LIMIT)
    store.path(NAME).write_bytes(b"PAYLOAD")
    assert view == DATA


def test_objects_and_their_names_are_synced_once(store: ObjectStore, synced: list[Path]) -> None:
    store.put(DATA)
    store.put_named(ROOT, [DATA])
    assert synced == []
    store.sync()
    objects = {store.path(NAME), store.path(ROOT)}
    assert set(synced[:2]) == objects
    assert set(synced[2:]) == {path.parent for path in objects} | {store.path(NAME).parent.parent}
    synced.clear()
    store.sync()
    assert synced == []


def test_an_object_that_an_earlier_process_left_unsynced_is_synced(
    store: ObjectStore, synced: list[Path]
) -> None:
    store.put(DATA)
    again = ObjectStore(store.path(NAME).parent.parent)
    again.put(DATA)
    again.sync()
    assert store.path(NAME) in synced


def test_what_could_not_be_synced_is_tried_again(store: ObjectStore, synced: list[Path]) -> None:
    store.put(DATA)
    hidden = store.path(NAME).rename(store.path(NAME).with_name("hidden"))
    with pytest.raises(Unavailable, match="cannot sync"):
        store.sync()
    hidden.rename(store.path(NAME))
    synced.clear()
    store.sync()
    assert store.path(NAME) in synced


def test_leftovers_of_a_crash_are_ignored_and_cleaned(store: ObjectStore) -> None:
    store.put(DATA)
    leftover = store.path(NAME).parent / ".tmp-1-0"
    leftover.write_bytes(b"half")
    (store.path(NAME).parent.parent / "README").write_text("kept")
    assert store.get(NAME, limit=LIMIT) == DATA
    store.clean()
    assert not leftover.exists()
    assert store.get(NAME, limit=LIMIT) == DATA
    assert (store.path(NAME).parent.parent / "README").exists()


def test_cleaning_a_store_that_does_not_exist_does_nothing(store: ObjectStore) -> None:
    store.clean()


def test_a_write_that_fails_leaves_nothing_behind(store: ObjectStore) -> None:
    def chunks() -> list[bytes]:
        return [b"x", object()]  # type: ignore[list-item]

    with pytest.raises(TypeError):
        store.put_named(ROOT, chunks())
    assert files(store) == []


def test_an_object_that_cannot_be_written_is_one_line(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "objects").write_bytes(b"")
    with pytest.raises(Unavailable, match=r"^cannot make .*objects: File exists$"):
        store.put(DATA)


def test_threads_may_put_the_same_objects(store: ObjectStore) -> None:
    payloads = [b"%d" % i * 1000 for i in range(40)]
    threads = [threading.Thread(target=lambda: [store.put(data) for data in payloads]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        store.sync()
    for thread in threads:
        thread.join()
    store.sync()
    assert len(files(store)) == len(payloads)
    for data in payloads:
        assert store.get(hashlib.sha256(data).digest(), limit=LIMIT) == data


def test_a_size_is_checked_without_reading(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "objects")
    name = store.put(b"twelve bytes")
    store.check_state_size(name, 12)
    with pytest.raises(ObjectDamaged, match="12 bytes, 13 are expected"):
        store.check_state_size(name, 13)
    with pytest.raises(ObjectMissing, match=bytes(32).hex()):
        store.check_state_size(bytes(32), 12)


def test_a_link_of_the_right_size_is_no_object(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "objects")
    name = store.put(b"twelve bytes")
    elsewhere = tmp_path / "elsewhere"
    store.path(name).rename(elsewhere)
    store.path(name).symlink_to(elsewhere)
    with pytest.raises(ObjectDamaged, match="symbolic links"):
        store.check_state_size(name, 12)
