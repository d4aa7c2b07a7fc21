"""Roots of .safetensors files, computed while reading, are those of their tensors in memory; no whole, no root."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from polledger.core.published import file_root
from polledger.core.state import CHUNK, PIECE
from polledger.errors import MalformedError, Unavailable
from polledger.verify import filehash
from polledger.verify.filehash import safetensors_root
from polledger.verify.modelfile import parse_safetensors
from tests.verify.test_binding import safetensors

VALUES = {
    "nothing": {},
    "empty": {"a": np.zeros((0, 3), np.float32), "b": np.ones(3, np.float32), "c": np.zeros(0, np.int64)},
    "small": {f"layer{number}.w": np.full(number, number, np.int64) for number in range(200)},
    "prefixed": {"module.a": np.arange(5, dtype=np.float32), "module.b~/#": np.arange(7, dtype=np.int64)},
    "large": {
        "a": np.arange((PIECE + CHUNK + 4) // 4, dtype=np.float32),
        "b": np.zeros(CHUNK // 4, np.float32),
        "c": np.arange(2 * PIECE // 4, dtype=np.float32),
    },
}


@pytest.mark.parametrize("name", VALUES)
def test_root_is_that_of_the_tensors_in_memory(tmp_path: Path, name: str) -> None:
    data = safetensors(VALUES[name], format="pt")
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    assert safetensors_root(file) == file_root(parse_safetensors(memoryview(data)))


def test_tensors_of_one_byte_cost_no_more_than_their_number() -> None:
    count = 100_000
    entries = [
        filehash.FileEntry(name=str(at), dtype="uint8", shape=(1,), begin=at, end=at + 1)
        for at in range(count)
    ]
    began = time.process_time()
    spans = list(filehash._spans(entries, 7))
    # Adding up all lengths for each of them takes a minute.
    assert time.process_time() - began < 5
    assert [(begin, len(lengths)) for begin, lengths in spans] == [(7, count)]


@pytest.mark.parametrize("size", [0, 7, 8, 9, 60, -1])
def test_a_file_that_is_cut_short_has_no_root(tmp_path: Path, size: int) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors(VALUES["empty"])[:size])
    with pytest.raises(MalformedError):
        safetensors_root(file)


def test_bytes_behind_the_last_tensor_are_not_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors(VALUES["empty"]) + b"\0")
    with pytest.raises(MalformedError, match="account for every byte"):
        safetensors_root(file)


def test_a_file_that_shrinks_while_it_is_read_has_no_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors(VALUES["large"]))
    real = filehash.parse_header

    def shrinking(data: bytes, *, body: int) -> list[filehash.FileEntry]:
        os.truncate(file, 2 * PIECE)
        return real(data, body=body)

    monkeypatch.setattr(filehash, "parse_header", shrinking)
    with pytest.raises(MalformedError, match="shorter"):
        safetensors_root(file)


def test_what_is_no_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        safetensors_root(tmp_path)
    with pytest.raises(FileNotFoundError):
        safetensors_root(tmp_path / "missing")
