"""Which example stands at which position: a keyed permutation per epoch, nothing stored. PROTOCOL section 6.

Position p of the data is example perm_e(p mod N) with epoch e = p div N. perm_e is a Feistel network of 8
rounds on the numbers below M², M = 2^m, m = max(1, ⌈⌈log2 N⌉/2⌉), with tables for round functions; numbers
from N up are mapped again until they fall below N. So it is a bijection of 0 … N−1 for every N.
"""

import struct
from typing import TypeAlias

from polledger.core.digest import sha256, u8, u32, u64
from polledger.errors import UsageError

ROUNDS = 8

SIZE_MAX = 1 << 32
"""Largest data set: the round tables of an epoch then take 65,536 hashes (0.2 s) and about 20 MB."""

_LABEL = b"polledger/order/1"
_WORDS_PER_BLOCK = 8
_EPOCHS_KEPT = 2  # a batch may span two epochs

Tables: TypeAlias = tuple[tuple[int, ...], ...]


def half_bits(size: int) -> int:
    """m, the bits of each half of the Feistel network for a data set of ``size`` examples."""
    return max(1, ((size - 1).bit_length() + 1) // 2)


def check_size(size: int) -> None:
    """Raise UsageError unless 1 ≤ size ≤ 2^32."""
    if not 1 <= size <= SIZE_MAX:
        raise UsageError(f"a data set has 1 to 2^32 examples, found {size}")


def round_tables(s: int, epoch: int, size: int) -> Tables:
    """T_r for r = 0 … 7, each with M entries below M.

    T_r[j] is the j-th u32 of the concatenation over c = 0, 1, … of H("polledger/order/1" ‖ u64(s) ‖
    u64(epoch) ‖ u8(r) ‖ u32(c)), mod M. Raises UsageError outside 1 ≤ size ≤ 2^32, 0 ≤ s, epoch < 2^64.
    """
    check_size(size)
    entries = 1 << half_bits(size)
    blocks = -(-entries // _WORDS_PER_BLOCK)
    layout = struct.Struct(f">{blocks * _WORDS_PER_BLOCK}I")
    tables = []
    for r in range(ROUNDS):
        prefix = _LABEL + u64(s) + u64(epoch) + u8(r)
        stream = b"".join(sha256(prefix + u32(c)) for c in range(blocks))
        tables.append(tuple(word & (entries - 1) for word in layout.unpack(stream)[:entries]))
    return tuple(tables)


class Order:
    """The order of a data set of ``size`` examples under training seed ``s``.

    Any position is found without the ones before it. Keeps the tables of the last two epochs asked for.
    Raises UsageError unless 1 ≤ size ≤ 2^32 and 0 ≤ s < 2^64.
    """

    __slots__ = ("_bits", "_s", "_size", "_tables")

    def __init__(self, s: int, size: int) -> None:
        check_size(size)
        u64(s)
        self._s = s
        self._size = size
        self._bits = half_bits(size)
        self._tables: dict[int, Tables] = {}

    @property
    def size(self) -> int:
        """Number of examples, N."""
        return self._size

    def example(self, position: int) -> int:
        """Index of the example at ``position`` (from 0, running through all epochs). UsageError below 0."""
        epoch, place = divmod(position, self._size)
        tables = self._tables_of(epoch)
        x = self._feistel(place, tables)
        while x >= self._size:
            x = self._feistel(x, tables)
        return x

    def step(self, n: int, batch_size: int) -> list[int]:
        """Indices of the examples of step ``n`` (from 0): positions n·batch_size … (n+1)·batch_size − 1.

        Batches may span epochs; nothing is dropped. Raises UsageError when ``n`` < 0 or ``batch_size`` < 1.
        """
        if batch_size < 1:
            raise UsageError(f"a batch has at least one example, found {batch_size}")
        return [self.example(position) for position in range(n * batch_size, (n + 1) * batch_size)]

    def _tables_of(self, epoch: int) -> Tables:
        tables = self._tables.get(epoch)
        if tables is None:
            tables = round_tables(self._s, epoch, self._size)
            if len(self._tables) >= _EPOCHS_KEPT:
                del self._tables[next(iter(self._tables))]
            self._tables[epoch] = tables
        return tables

    def _feistel(self, x: int, tables: Tables) -> int:
        left, right = x >> self._bits, x & ((1 << self._bits) - 1)
        for table in tables:
            left, right = right, left ^ table[right]
        return left << self._bits | right
