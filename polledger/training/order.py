"""The order of a whole epoch at once: ``polledger.core.order``, vectorised. PROTOCOL section 6."""

import numpy as np
from numpy.typing import NDArray

from polledger.core.order import half_bits, round_tables


def epoch_permutation(s: int, epoch: int, size: int) -> NDArray[np.int64]:
    """Example indices of ``epoch`` under training seed ``s``, in order of use: int64, shape (size,).

    Equal to ``[Order(s, size).example(epoch * size + p) for p in range(size)]``. Raises UsageError outside
    1 ≤ size ≤ 2^32, 0 ≤ s, epoch < 2^64.
    """
    bits = half_bits(size)
    tables = [np.array(table, dtype=np.int64) for table in round_tables(s, epoch, size)]
    order = _feistel(np.arange(size, dtype=np.int64), tables, bits)
    outside = np.flatnonzero(order >= size)
    while outside.size:
        order[outside] = _feistel(order[outside], tables, bits)
        outside = outside[order[outside] >= size]
    return order


def _feistel(x: NDArray[np.int64], tables: list[NDArray[np.int64]], bits: int) -> NDArray[np.int64]:
    left, right = x >> bits, x & ((1 << bits) - 1)
    for table in tables:
        left, right = right, left ^ table[right]
    return left << bits | right
