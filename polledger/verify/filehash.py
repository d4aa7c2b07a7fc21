"""The model root of a ``.safetensors`` file, hashed while it is read, by every core: the file is never in memory."""

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Final

from polledger.core.merkle import leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.core.published import flat_model_root, short_names
from polledger.core.state import CHUNK, PIECE, TensorEntry, escape
from polledger.errors import MalformedError
from polledger.files import open_regular, reported
from polledger.machine import usable_cores
from polledger.verify.modelfile import HEADER_BYTES, FileEntry, parse_header

_LENGTH: Final = 8

Span = tuple[int, list[int]]
"""Where chunks that follow each other begin, and how long each is."""


def safetensors_root(path: Path) -> bytes:
    """The root that :func:`polledger.core.published.file_root` gives for the file's tensors.

    Raises FileNotFoundError, MalformedError for a file that is no whole .safetensors file or changes meanwhile,
    Unavailable if it cannot be read.
    """
    with open_regular(path) as (file, size), reported(path, "read"):
        reader = _Reader(file.fileno())
        length = int.from_bytes(reader.part(0, min(_LENGTH, size)), "little")
        if size < _LENGTH or length > min(HEADER_BYTES, size - _LENGTH):
            raise MalformedError("not a safetensors file")
        begin = _LENGTH + length
        entries = parse_header(reader.part(_LENGTH, length), body=size - begin)
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="hashing") as pool:
            leaves = chain.from_iterable(pool.map(reader.leaves, _spans(entries, begin)))
            roots = [tree_root(list(islice(leaves, len(_chunks(entry))))) for entry in entries]
    short = short_names([escape(entry.name) for entry in entries])
    return flat_model_root(
        [
            TensorEntry(
                v=1,
                path=short[escape(entry.name)],
                dtype=entry.dtype,
                shape=list(entry.shape),
                bytes=entry.end - entry.begin,
                root=root,
            )
            for entry, root in zip(entries, roots, strict=True)
        ]
    )


def _chunks(entry: FileEntry) -> list[int]:
    size = entry.end - entry.begin
    return [min(CHUNK, size - start) for start in range(0, size, CHUNK)]


def _spans(entries: Iterable[FileEntry], begin: int) -> Iterator[Span]:
    """The chunks of all tensors, which follow each other from ``begin`` on, some :data:`PIECE` bytes at a time."""
    lengths: list[int] = []
    size = 0
    for length in chain.from_iterable(_chunks(entry) for entry in entries):
        lengths.append(length)
        # Counted on: a file may consist of a million tensors of one byte.
        size += length
        if size >= PIECE:
            yield begin, lengths
            begin, lengths, size = begin + size, [], 0
    if lengths:
        yield begin, lengths


class _Reader:
    """Reads one file in several threads, each into memory of its own that it uses again."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._own = threading.local()

    def part(self, position: int, size: int) -> bytes:
        """``size`` bytes from ``position`` on."""
        data = bytearray(size)
        self._fill(memoryview(data), position)
        return bytes(data)

    def leaves(self, span: Span) -> list[bytes]:
        """The leaf hash of each chunk."""
        begin, lengths = span
        if not hasattr(self._own, "memory"):
            self._own.memory = memoryview(bytearray(PIECE + CHUNK))
        room = self._own.memory[: sum(lengths)]
        self._fill(room, begin)
        found = []
        for length in lengths:
            found.append(leaf_hash(room[:length]))
            room = room[length:]
        return found

    def _fill(self, room: memoryview, position: int) -> None:
        while room:
            count = os.preadv(self._descriptor, [room], position)
            if not count:
                raise MalformedError("the file became shorter while it was read")
            room, position = room[count:], position + count
