import os
from pathlib import Path

import pytest

from polledger.errors import Unavailable
from polledger.files import (
    open_regular,
    read_bounded,
    remove_temporaries,
    same_content,
    sync_directory,
    sync_file,
    write_atomic,
    write_once,
)
from polledger.store.ledger import LedgerWriter, read_ledger


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomic(path, [b"ne", memoryview(b"w")])
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_durable_write_syncs_content_before_name(tmp_path: Path, synced: list[Path]) -> None:
    write_atomic(tmp_path / "file", [b"x"])
    assert len(synced) == 2
    assert synced[0].name.startswith(".tmp-")
    assert synced[1] == tmp_path
    synced.clear()
    write_atomic(tmp_path / "file", [b"x"], durable=False)
    assert synced == []


def test_a_file_that_is_there_is_not_written_once_more(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_once(path, b"first", mode=0o600)
    with pytest.raises(FileExistsError):
        write_once(path, b"second", mode=0o600)
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_without_hard_links_a_file_is_still_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    test_a_file_that_is_there_is_not_written_once_more(tmp_path)


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def chunks():
        yield b"new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomic(tmp_path / "file", chunks())
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_trouble_is_one_line_naming_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    below = tmp_path / "file" / "x"
    for use in (lambda: write_atomic(below, []), lambda: sync_file(below), lambda: sync_directory(below)):
        with pytest.raises(Unavailable, match=r"^cannot (write|sync) .*/file/x: Not a directory$"):
            use()


def test_only_temporaries_are_removed(tmp_path: Path) -> None:
    for name in (".tmp-1-0", ".tmp-", "tmp-1", ".tmp", "kept"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp", "kept", "tmp-1"]


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    view = read_bounded(path, limit=5)
    assert (view, view.readonly) == (b"12345", True)
    with pytest.raises(Unavailable, match="it has 5 bytes, at most 4 are expected"):
        read_bounded(path, limit=4)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "other", limit=4)


@pytest.mark.parametrize("size", [0, 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (8 << 20) + 5])
def test_content_is_read_and_compared_across_blocks(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    path = tmp_path / "file"
    path.write_bytes(data)
    assert read_bounded(path, limit=size) == data
    assert same_content(path, [data])
    assert same_content(path, [data[: size // 2], memoryview(data)[size // 2 :]])
    assert not same_content(path, [data, b"x"])
    if size:
        assert not same_content(path, [data[:-1]])
        assert not same_content(path, [data[:-1], bytes([data[-1] ^ 1])])


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def use() -> None:
        path = tmp_path / "file"
        write_atomic(path, [b"x"])
        sync_file(path)
        sync_directory(tmp_path)
        same_content(path, [b"y"])
        for other in (tmp_path, path):
            with pytest.raises(Unavailable):
                read_bounded(other, limit=0)
        with pytest.raises(ZeroDivisionError), open_regular(path):
            raise ZeroDivisionError
        with pytest.raises(Unavailable):
            LedgerWriter.open(path, sealed=1)
        with LedgerWriter.open(tmp_path / "ledger") as writer:
            writer.append(b"x")
        read_ledger(tmp_path / "ledger")

    use()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        use()
    assert sorted(os.listdir("/proc/self/fd")) == before
