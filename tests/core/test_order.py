"""The data order: the permutation defined, a bijection for every size, known without its past."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.core.order import SIZE_MAX, Order, half_bits, round_tables
from polledger.errors import UsageError
from polledger.training.order import epoch_permutation
from tests.core.derivation import vectors

VECTORS = vectors("order")
S = int(VECTORS["s"], 16)


@pytest.mark.parametrize("row", VECTORS["epochs"], ids=lambda row: f"{row['size']}-epoch-{row['epoch']}")
def test_epochs_equal_the_second_transcription(row) -> None:
    size, epoch = row["size"], row["epoch"]
    order = Order(S, size)
    assert [order.example(epoch * size + place) for place in range(size)] == row["order"]
    assert epoch_permutation(S, epoch, size).tolist() == row["order"]


@pytest.mark.parametrize("row", VECTORS["steps"], ids=lambda row: str(row["size"]))
def test_steps_equal_the_second_transcription(row) -> None:
    assert Order(S, row["size"]).step(row["n"], row["batch_size"]) == row["examples"]


@pytest.mark.parametrize("size", [*range(1, 301), 1023, 1024, 1025, 4096, 5000])
def test_an_epoch_is_a_bijection_and_the_same_vectorised(size: int) -> None:
    order = Order(size, size)
    for epoch in (0, 3):
        indices = [order.example(epoch * size + place) for place in range(size)]
        assert sorted(indices) == list(range(size))
        assert epoch_permutation(size, epoch, size).tolist() == indices


@pytest.mark.parametrize("size", [65_536, 99_991, 300_001])
def test_a_large_epoch_is_a_bijection_and_the_same_vectorised(size: int) -> None:
    permutation = epoch_permutation(S, 5, size)
    assert permutation.dtype == "int64"
    assert permutation.shape == (size,)
    assert (sorted(permutation.tolist())) == list(range(size))
    order = Order(S, size)
    places = range(0, size, size // 997)
    assert [order.example(5 * size + place) for place in places] == permutation[list(places)].tolist()


@pytest.mark.parametrize(
    ("size", "bits"),
    [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (16, 2), (17, 3), (64, 3), (65, 4), (10**6, 10), (2**32, 16)],
)
def test_half_bits_follow_the_formula(size: int, bits: int) -> None:
    assert half_bits(size) == bits
    assert all(size <= 4 ** half_bits(size) < 16 * size for size in (size, size + 1))


def test_tables_have_eight_rounds_of_entries_below_m() -> None:
    tables = round_tables(S, 0, 1000)
    assert [len(table) for table in tables] == [32] * 8
    assert all(0 <= entry < 32 for table in tables for entry in table)
    assert len(set(tables)) == 8


@given(st.integers(1, 400), st.integers(1, 50), st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_steps_follow_each_other_without_gap_across_epochs(size: int, batch: int, n: int) -> None:
    order = Order(S, size)
    assert order.step(n, batch) == [
        order.example(position) for position in range(n * batch, n * batch + batch)
    ]
    assert order.step(n, 2 * batch) == order.step(2 * n, batch) + order.step(2 * n + 1, batch)


def test_each_epoch_uses_every_example_once_when_batches_span_epochs() -> None:
    order = Order(S, 10)
    stream = [index for n in range(15) for index in order.step(n, 4)]
    for epoch in range(6):
        assert sorted(stream[10 * epoch : 10 * epoch + 10]) == list(range(10))


def test_a_step_is_known_without_the_steps_before_it() -> None:
    walked = Order(S, 50)
    steps = [walked.step(n, 7) for n in range(40)]
    for n in (39, 0, 20, 8):
        assert Order(S, 50).step(n, 7) == steps[n]
        # Backwards in the same object, too: the tables of old epochs are made anew.
        assert walked.step(n, 7) == steps[n]


def test_only_the_tables_of_two_epochs_are_kept() -> None:
    order = Order(S, 10)
    for epoch in range(5):
        order.example(10 * epoch)
    assert sorted(order._tables) == [3, 4]


def test_orders_differ_by_seed_and_epoch() -> None:
    orders = {tuple(epoch_permutation(s, epoch, 50).tolist()) for s in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6


def test_places_are_spread_evenly_over_seeds() -> None:
    """Where example 0 lands among 20 places over 4,000 seeds: 19 degrees of freedom, above 60 once in 300,000."""
    counts = [0] * 20
    for s in range(4000):
        counts[Order(s, 20).example(0)] += 1
    expected = 4000 / 20
    assert sum((count - expected) ** 2 for count in counts) / expected < 60


@pytest.mark.parametrize(
    "call",
    [
        lambda: Order(S, 0),
        lambda: Order(S, -5),
        lambda: Order(S, SIZE_MAX + 1),
        lambda: Order(-1, 5),
        lambda: Order(2**64, 5),
        lambda: Order(S, 5).example(-1),
        lambda: Order(S, 5).step(-1, 2),
        lambda: Order(S, 5).step(0, 0),
        lambda: round_tables(S, -1, 5),
        lambda: round_tables(S, 0, SIZE_MAX + 1),
        lambda: epoch_permutation(S, 0, 0),
        lambda: epoch_permutation(S, -1, 5),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(call) -> None:
    with pytest.raises(UsageError):
        call()
