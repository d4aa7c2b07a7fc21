"""Sequences that keep no items."""

from collections.abc import Sequence

import pytest

from polledger.core.lazily import Lazy

SQUARES = Lazy(lambda number: number * number, range(10))


@pytest.mark.parametrize(
    "index", [0, 9, -1, -10, slice(2, 5), slice(None, None, -3), slice(4, 99), slice(7, 3)]
)
def test_indices_and_slices_are_those_of_a_list(index: int | slice) -> None:
    found, expected = SQUARES[index], [number * number for number in range(10)][index]
    assert (list(found) if isinstance(found, Sequence) else found) == expected


@pytest.mark.parametrize("index", [10, -11])
def test_an_index_outside_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        SQUARES[index]


def test_items_are_made_when_they_are_asked_for_and_never_before() -> None:
    made: list[int] = []
    found = Lazy(made.append, range(1000))[100:]
    assert (len(found), made) == (900, [])
    found[1], found[-1]
    assert made == [101, 999]
