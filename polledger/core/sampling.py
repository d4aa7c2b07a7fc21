"""Which intervals the verifier opens, and the odds that a bogus one is among them. PROTOCOL section 10.6.

The draw, precisely, so that any language gets the same sample:

* Words: the concatenation over c = 0, 1, 2, … of H("polledger/draw/1" ‖ 0 ‖ seed ‖ u64(c)), read as
  consecutive unsigned 64-bit big-endian integers, four to a block.
* ``below(m)``, for 1 ≤ m ≤ 2^53: take the next word w; while w ≥ 2^64 − (2^64 mod m) take another; the
  result is w mod m. (Words at the top are rejected because they would favour small results.)
* Fisher-Yates on a = [0, 1, …, total−1], stopped after ``count`` places: for i = 0 … count−1, let
  j = i + below(total−i) and swap a[i] with a[j]. The sample is a[0 … count−1], sorted. If count ≥ total it
  is everything and no word is read.
"""

import math
from collections.abc import Iterator

from polledger.core.digest import require_digest, sha256, u64
from polledger.errors import UsageError

_SEED_LABEL = b"polledger/sample/1\x00"
_DRAW_LABEL = b"polledger/draw/1\x00"
_WORD = 1 << 64
_TOTAL_MAX = 1 << 53

_EXACT_FACTORS = 1000
"""Odds are computed in integers up to this many factors (under 1 ms), in logarithms above."""


def sample_seed(*, nonce: bytes, head: bytes, policy: bytes) -> bytes:
    """H("polledger/sample/1" ‖ 0 ‖ nonce ‖ head digest ‖ policy digest), the seed of :func:`draw`.

    ``nonce`` is the verifier's and must have been made after the head existed; that is not checked. Raises
    UsageError when it is empty or a digest does not have 32 bytes.
    """
    if not nonce:
        raise UsageError("an empty nonce makes the sample predictable")
    return sha256(_SEED_LABEL + nonce + require_digest(head, "head") + require_digest(policy, "policy"))


def draw(seed: bytes, *, total: int, count: int) -> tuple[int, ...]:
    """``count`` different numbers of 0 … total−1, ascending, every subset equally likely over the seeds.

    Everything when ``count`` ≥ ``total``. Raises UsageError unless ``seed`` has 32 bytes, ``count`` ≥ 0 and
    0 ≤ ``total`` ≤ 2^53.
    """
    require_digest(seed, "a sample seed")
    if count < 0 or not 0 <= total <= _TOTAL_MAX:
        raise UsageError(f"cannot draw {count} of {total}")
    if count >= total:
        return tuple(range(total))
    words = _words(seed)
    # Only the places that were swapped are kept: the array itself would be as long as the run.
    moved: dict[int, int] = {}
    sample = []
    for i in range(count):
        j = i + _below(words, total - i)
        sample.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return tuple(sorted(sample))


def detection_odds(*, total: int, bogus: int, count: int) -> float:
    """Probability that ``count`` of ``total`` intervals, drawn uniformly, include one of ``bogus`` bad ones.

    1 − C(total−bogus, count) / C(total, count); ``count`` above ``total`` means all. Correctly rounded
    when the smaller of ``bogus`` and ``count`` is at most 1000, otherwise within 1e-12. It assumes that
    an opened bogus interval is always recognised. Raises UsageError when a number is negative or
    ``bogus`` exceeds ``total``.
    """
    if min(total, bogus, count) < 0 or bogus > total:
        raise UsageError(f"no odds for {count} of {total} intervals with {bogus} bogus")
    few, many = sorted((bogus, min(count, total)))
    if few + many > total:
        return 1.0
    # C(N−b, n) / C(N, n) is symmetric in b and n: the product over the smaller has the fewer factors.
    if few <= _EXACT_FACTORS:
        all_ways = math.perm(total, few)
        return (all_ways - math.perm(total - many, few)) / all_ways
    return -math.expm1(math.fsum(math.log1p(-many / (total - i)) for i in range(few)))


def sample_size(*, total: int, bogus: int, odds: float) -> int:
    """The smallest ``count`` whose :func:`detection_odds` reach ``odds``.

    At ``odds`` = 1 the count that leaves no escape. Raises UsageError unless 1 ≤ bogus ≤ total and
    0 < odds ≤ 1.
    """
    if not 1 <= bogus <= total or not 0 < odds <= 1:
        raise UsageError(f"no sample finds {bogus} of {total} intervals with odds {odds}")
    certain = total - bogus + 1
    if odds == 1:
        return certain
    enough = 1
    while enough < certain and detection_odds(total=total, bogus=bogus, count=enough) < odds:
        enough *= 2
    low, high = enough // 2 + 1, min(enough, certain)
    while low < high:
        middle = (low + high) // 2
        if detection_odds(total=total, bogus=bogus, count=middle) < odds:
            low = middle + 1
        else:
            high = middle
    return high


def _words(seed: bytes) -> Iterator[int]:
    counter = 0
    while True:
        block = sha256(_DRAW_LABEL + seed + u64(counter))
        for start in range(0, len(block), 8):
            yield int.from_bytes(block[start : start + 8], "big")
        counter += 1


def _below(words: Iterator[int], bound: int) -> int:
    limit = _WORD - _WORD % bound
    for word in words:
        if word < limit:
            return word % bound
    raise UsageError("the stream of words ended")
