"""The commitment to a data set: the same from one process and from many, and never without its salt."""

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from polledger.core.merkle import leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.core.seeds import example_leaf, salt
from polledger.errors import UsageError
from polledger.store.run import RunDirectory
from polledger.training import dataset as module
from polledger.training.dataset import commit_entries, data_identity, hash_dataset, hash_examples
from polledger.training.location import resolve_task
from polledger.training.nest import encode_nest
from polledger.training.rehearsal import RunRequest, load_task
from tests.training.sealing import SMALL

SECRET = bytes(range(32))


def request_for(path: Path) -> RunRequest:
    return RunRequest(location=resolve_task(str(path)), settings=(), inputs={}, seed=1, device="cpu")


def test_root_is_the_tree_over_salted_examples_in_order() -> None:
    data = [(torch.full((3,), float(index)), index) for index in range(5)]
    hashed = hash_dataset(data, request=request_for(SMALL), secret=SECRET)
    entries = [
        example_leaf(salt(SECRET, "example", index), [b"".join(encode_nest(example))])
        for index, example in enumerate(data)
    ]
    assert hashed.entries == b"".join(entries)
    assert hashed.dataset.root == tree_root([leaf_hash(entry) for entry in entries])
    assert hashed.dataset.size == 5


def test_another_secret_gives_other_leaves() -> None:
    data = [torch.zeros(2)]
    one = hash_dataset(data, request=request_for(SMALL), secret=SECRET)
    two = hash_dataset(data, request=request_for(SMALL), secret=bytes(32))
    assert one.entries != two.entries


def test_helper_processes_give_the_same_commitment(monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(SMALL)
    data = load_task(request).dataset()
    alone = hash_dataset(data, request=request, secret=SECRET)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    told: list[tuple[int, int]] = []
    shared = hash_dataset(
        data,
        request=request,
        secret=SECRET,
        seconds_per_example=module.PARALLEL_SECONDS,
        progress=lambda done, total: told.append((done, total)),
    )
    assert shared == alone
    assert told[-1] == (96, 96)


def test_error_in_a_helper_process_names_the_example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = SMALL.read_text().replace("return values, index % 3", "return [values, 1 / (index - 70)]")
    (tmp_path / "task.py").write_text(text)
    request = request_for(tmp_path / "task.py")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    data = load_task(request).dataset()
    with pytest.raises(UsageError, match=r"dataset\(\)\[70\] failed: ZeroDivisionError"):
        hash_dataset(data, request=request, secret=SECRET, seconds_per_example=module.PARALLEL_SECONDS)


def test_example_that_cannot_be_committed_is_named() -> None:
    with pytest.raises(UsageError, match=r"dataset\(\)\[1\]"):
        list(hash_examples([1, object()], range(2), SECRET))


def test_example_whose_code_wants_to_end_the_process_is_named() -> None:
    class Leaving(list[int]):
        def __getitem__(self, index: Any) -> Any:
            raise SystemExit("no such file")

    with pytest.raises(UsageError, match=r"dataset\(\)\[0\] failed: SystemExit: no such file"):
        list(hash_examples(Leaving([1]), range(1), SECRET))


@pytest.mark.parametrize("entries", [b"", bytes(31), bytes(33)])
def test_bytes_that_are_no_entries_are_refused(entries: bytes) -> None:
    with pytest.raises(UsageError, match="no list of example leaves"):
        commit_entries(entries)


def test_commitment_takes_little_memory_beyond_the_entries() -> None:
    entries = bytes(32) * 50_000
    tracemalloc.start()
    try:
        commit_entries(entries)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(entries) // 10


def test_leaves_are_kept_under_the_root(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    hashed = commit_entries(bytes(64))
    hashed.store(run)
    assert bytes(run.objects.read(hashed.dataset.root, limit=1 << 10)) == bytes(64)


class TestIdentity:
    TASK = bytes(32)

    def test_follows_size_time_name_and_task(self, tmp_path: Path) -> None:
        file = tmp_path / "data.bin"
        file.write_bytes(b"12345678")
        os.utime(file, ns=(1, 1))
        inputs = {"data": str(file)}
        seen: list[Any] = [data_identity(inputs, self.TASK)]
        assert data_identity(inputs, self.TASK) == seen[0]
        seen.append(data_identity({"other": str(file)}, self.TASK))
        seen.append(data_identity(inputs, b"\x01" * 32))
        os.utime(file, ns=(2, 2))
        seen.append(data_identity(inputs, self.TASK))
        file.write_bytes(b"123456789")
        os.utime(file, ns=(2, 2))
        seen.append(data_identity(inputs, self.TASK))
        assert len(set(seen)) == len(seen)

    def test_covers_every_file_of_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x").write_bytes(b"")
        before = data_identity({"data": str(tmp_path)}, self.TASK)
        (tmp_path / "a" / "y").write_bytes(b"")
        assert data_identity({"data": str(tmp_path)}, self.TASK) != before

    def test_covers_files_below_linked_folders(self, tmp_path: Path) -> None:
        for name in ("data", "elsewhere/deep"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "elsewhere/deep/x").write_bytes(b"1")
        (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "data" / "again").symlink_to(tmp_path / "elsewhere")
        inputs = {"data": str(tmp_path / "data")}
        before = data_identity(inputs, self.TASK)
        assert before is not None
        (tmp_path / "elsewhere/deep/x").write_bytes(b"22")
        assert data_identity(inputs, self.TASK) != before

    def test_is_none_for_a_folder_that_contains_itself(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"")
        (tmp_path / "link").symlink_to(tmp_path)
        assert data_identity({"data": str(tmp_path)}, self.TASK) is None

    def test_is_none_where_no_input_names_a_file(self, tmp_path: Path) -> None:
        """Data from a package's cache or a URL: nothing here would notice that they changed."""
        assert data_identity({}, self.TASK) is None
        assert data_identity({"data": str(tmp_path)}, self.TASK) is None

    def test_is_none_for_too_many_files_or_one_that_is_gone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert data_identity({"data": str(tmp_path / "gone")}, self.TASK) is None
        monkeypatch.setattr(module, "IDENTITY_FILES", 2)
        for name in "ab":
            (tmp_path / name).write_bytes(b"")
            assert data_identity({"data": str(tmp_path)}, self.TASK) is not None
        (tmp_path / "c").write_bytes(b"")
        assert data_identity({"data": str(tmp_path)}, self.TASK) is None
