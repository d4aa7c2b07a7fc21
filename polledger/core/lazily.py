"""Sequences whose items are made when they are asked for: a million records fit where their objects would not."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class Lazy(Sequence[T]):
    """``make(i)`` for every i of ``places``, made anew at each access. A slice makes none: it is a Lazy too."""

    __slots__ = ("_make", "_places")

    def __init__(self, make: Callable[[int], T], places: Sequence[int]) -> None:
        self._make = make
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "Lazy[T]": ...
    def __getitem__(self, index: int | slice) -> "T | Lazy[T]":
        if isinstance(index, slice):
            return Lazy(self._make, self._places[index])
        return self._make(self._places[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._make, self._places)
