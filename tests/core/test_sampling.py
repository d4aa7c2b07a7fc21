"""The draw is the one defined, uniform and unpredictable without the nonce; the odds are exact."""

import math
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.core.digest import sha256, u64
from polledger.core.sampling import _below, detection_odds, draw, sample_seed, sample_size
from polledger.errors import UsageError
from tests.core.derivation import vectors

SEED = sha256(b"seed")


@pytest.mark.parametrize("vector", vectors("sampling"), ids=lambda vector: vector["nonce"][:8])
def test_seed_and_draws_equal_the_second_transcription(vector) -> None:
    values = {key: bytes.fromhex(vector[key]) for key in ("nonce", "head", "policy")}
    seed = sample_seed(**values)
    assert seed.hex() == vector["seed"]
    for row in vector["samples"]:
        assert draw(seed, total=row["total"], count=row["count"]) == tuple(row["sample"])


def test_every_input_of_the_seed_changes_it() -> None:
    inputs = {"nonce": b"n" * 16, "head": sha256(b"h"), "policy": sha256(b"p")}
    seeds = {sample_seed(**inputs)}
    seeds |= {sample_seed(**inputs | {key: sha256(value)}) for key, value in inputs.items()}
    assert len(seeds) == 4


@pytest.mark.parametrize("bad", [{"nonce": b""}, {"head": bytes(31)}, {"policy": bytes(33)}], ids=str)
def test_a_seed_from_an_empty_nonce_or_a_cut_digest_is_refused(bad: dict[str, bytes]) -> None:
    with pytest.raises(UsageError):
        sample_seed(**{"nonce": b"n", "head": bytes(32), "policy": bytes(32)} | bad)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 300), st.integers(0, 400))
@settings(max_examples=200, deadline=None)
def test_a_draw_is_ascending_distinct_and_in_range(seed: bytes, total: int, count: int) -> None:
    sample = draw(seed, total=total, count=count)
    assert len(sample) == min(total, count)
    assert list(sample) == sorted(set(sample))
    assert all(0 <= number < total for number in sample)


@pytest.mark.parametrize("count", [7, 8, 1000])
def test_everything_is_drawn_when_count_reaches_total(count: int) -> None:
    assert draw(SEED, total=7, count=count) == (0, 1, 2, 3, 4, 5, 6)


def test_drawing_from_a_huge_run_needs_no_array() -> None:
    sample = draw(SEED, total=2**53, count=5)
    assert len(sample) == 5
    assert max(sample) > 2**48


@pytest.mark.parametrize(("total", "count"), [(5, -1), (-1, 5), (2**53 + 1, 1)])
def test_an_impossible_draw_is_refused(total: int, count: int) -> None:
    with pytest.raises(UsageError):
        draw(SEED, total=total, count=count)


def test_a_seed_of_another_width_is_refused() -> None:
    with pytest.raises(UsageError):
        draw(bytes(31), total=5, count=1)


def test_words_that_would_favour_small_numbers_are_rejected() -> None:
    # 2^64 mod 10 is 6: the six topmost words are those that 0 … 5 would have in excess.
    assert [_below(iter([2**64 - excess, 13]), 10) for excess in range(1, 7)] == [3] * 6
    assert _below(iter([2**64 - 7, 13]), 10) == 9
    assert _below(iter([2**64 - 1, 13]), 8) == 7


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 for count in counts) / expected


def test_every_subset_is_drawn_equally_often() -> None:
    """20 subsets, 20,000 fixed seeds: chi-square with 19 degrees of freedom exceeds 60 once in 300,000."""
    subsets = list(combinations(range(6), 3))
    counts = dict.fromkeys(subsets, 0)
    for i in range(20_000):
        counts[draw(sha256(u64(i)), total=6, count=3)] += 1
    assert chi_square(list(counts.values())) < 60


def test_every_interval_is_drawn_equally_often() -> None:
    """101 intervals, 100 degrees of freedom: above 190 once in ten million."""
    counts = [0] * 101
    for i in range(5_000):
        for number in draw(sha256(u64(i)), total=101, count=4):
            counts[number] += 1
    assert chi_square(counts) < 190


def test_the_bound_on_evenness_sees_a_biased_draw() -> None:
    """A byte mod 101 favours 0 … 53: the same number of such draws lies far above the bound used here."""
    counts = [0] * 101
    for i in range(20_000):
        counts[sha256(u64(i))[0] % 101] += 1
    assert chi_square(counts) > 400


def exact_odds(total: int, bogus: int, count: int) -> Fraction:
    return 1 - Fraction(math.comb(total - bogus, count), math.comb(total, count))


def test_odds_equal_counting_all_samples() -> None:
    for total in range(1, 8):
        for bogus in range(total + 1):
            for count in range(total + 1):
                samples = list(combinations(range(total), count))
                hits = sum(min(sample, default=total) < bogus for sample in samples)
                found = detection_odds(total=total, bogus=bogus, count=count)
                assert found == float(Fraction(hits, len(samples)))


@pytest.mark.parametrize("total", [1, 2, 13, 60, 61, 200])
def test_odds_are_the_correctly_rounded_fraction(total: int) -> None:
    for bogus in range(total + 1):
        for count in range(0, total + 1, max(1, total // 23)):
            expected = float(exact_odds(total, bogus, count))
            assert detection_odds(total=total, bogus=bogus, count=count) == expected


@pytest.mark.parametrize(
    ("total", "bogus", "count"),
    [
        (3000, 1001, 1001),
        (30_000, 1500, 2),
        (4000, 1200, 1100),
        (100_000, 1001, 1001),
        (20_000, 1100, 18_000),
    ],
)
def test_odds_in_logarithms_agree_with_the_fraction(total: int, bogus: int, count: int) -> None:
    found = detection_odds(total=total, bogus=bogus, count=count)
    assert found == pytest.approx(float(exact_odds(total, bogus, count)), rel=1e-12, abs=0)


def test_odds_are_certain_when_the_honest_intervals_do_not_fill_the_sample() -> None:
    assert detection_odds(total=10, bogus=3, count=8) == 1.0
    assert detection_odds(total=10, bogus=3, count=99) == 1.0
    assert detection_odds(total=10, bogus=3, count=7) < 1.0
    assert detection_odds(total=3000, bogus=2000, count=1500) == 1.0
    assert detection_odds(total=10, bogus=0, count=10) == 0.0
    assert detection_odds(total=0, bogus=0, count=5) == 0.0


@pytest.mark.parametrize(("total", "bogus", "count"), [(-1, 0, 0), (5, -1, 2), (5, 2, -1), (5, 6, 2)])
def test_odds_of_an_impossible_case_are_refused(total: int, bogus: int, count: int) -> None:
    with pytest.raises(UsageError):
        detection_odds(total=total, bogus=bogus, count=count)


@pytest.mark.parametrize("odds", [0.01, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_sample_size_is_the_smallest_that_reaches_the_odds(odds: float) -> None:
    for total in (1, 2, 10, 60, 97):
        for bogus in range(1, total + 1):
            reached = [n for n in range(total + 1) if exact_odds(total, bogus, n) >= Fraction(str(odds))]
            assert sample_size(total=total, bogus=bogus, odds=odds) == reached[0]


def test_sample_size_of_long_runs() -> None:
    assert sample_size(total=1_000_000, bogus=1, odds=0.99) == 990_000
    assert sample_size(total=1_000_000, bogus=100_000, odds=0.99) == 44
    assert sample_size(total=1_000_000, bogus=1_000, odds=1.0) == 999_001


@pytest.mark.parametrize(
    ("bogus", "odds"), [(0, 0.5), (11, 0.5), (5, 0.0), (5, -0.5), (5, 1.5), (5, math.nan)]
)
def test_a_sample_size_that_cannot_exist_is_refused(bogus: int, odds: float) -> None:
    with pytest.raises(UsageError):
        sample_size(total=10, bogus=bogus, odds=odds)
