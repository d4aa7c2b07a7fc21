"""How far two models are from each other, tensor by tensor, whatever run or file they come from.

Numbers are taken as float64 exactly, so that a copy in another dtype is compared as what it holds. Facts, not judged.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from polledger.core.compareform import ApartForm, TensorApartForm
from polledger.core.dtypes import is_floating
from polledger.core.reportform import number
from polledger.core.start import Tensors
from polledger.core.state import TensorData
from polledger.verify.compare import SLICE, difference
from polledger.verify.distances import Products
from polledger.verify.floats import Array, bit_patterns, to_float64

SHOWN = 100
"""Tensors that are listed, furthest first: enough to see which layers were touched."""


@dataclass(slots=True)
class Apart:
    """Sums over the numbers of two tensors of one shape, or of many such pairs."""

    squared: float = 0.0
    products: Products = field(default_factory=Products)
    numbers: int = 0
    equal: int = 0
    zeros_a: int = 0
    zeros_b: int = 0

    def add(self, one: TensorData, other: TensorData) -> None:
        """Count in a pair of floating tensors of one shape."""
        with np.errstate(invalid="ignore", over="ignore"):
            for a, b in _slices(one, other):
                apart = difference(a, b)
                self.squared += float(np.dot(apart, apart))
                self.products.add(a, b)
                self.numbers += len(a)
                self.equal += int(np.count_nonzero(apart == 0))
                self.zeros_a += int(np.count_nonzero(a == 0))
                self.zeros_b += int(np.count_nonzero(b == 0))

    @property
    def l2(self) -> float:
        """Their distance; infinite where a number is not finite and differs."""
        return math.sqrt(self.squared) if math.isfinite(self.squared) else math.inf

    def form(self) -> ApartForm:
        """As the report has it."""
        norm = math.sqrt(self.products.a)
        relative = self.l2 / norm if norm else (math.inf if self.squared else 0.0)
        return {
            "l2": number(self.l2),
            "relative": number(relative),
            "cosine": number(self.products.cosine),
            "numbers": self.numbers,
            "equal": self.equal,
            "zeros": [self.zeros_a, self.zeros_b],
        }


@dataclass(slots=True, kw_only=True)
class ModelsApart:
    """Two models. ``tensors``: pairs of one name and shape; ``unmatched``: floating tensors without a counterpart."""

    total: Apart = field(default_factory=Apart)
    tensors: list[TensorApartForm] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)

    @property
    def comparable(self) -> bool:
        """Whether any number of one has a counterpart in the other."""
        return self.total.numbers > 0


def models_apart(a: Tensors, b: Tensors) -> ModelsApart:
    """The floating tensors of two models of a ``state_dict``, by name."""
    found = ModelsApart()
    pairs = []
    for name in sorted(a.keys() | b.keys()):
        one, other = a.get(name), b.get(name)
        known = [tensor for tensor in (one, other) if tensor is not None]
        if not any(is_floating(tensor.dtype) for tensor in known):
            continue
        if one is None or other is None or not _matching(one, other):
            found.unmatched.append(name)
            continue
        apart = Apart()
        apart.add(one, other)
        found.total.add(one, other)
        pairs.append((apart.l2, _tensor(name, one, other, apart)))
    pairs.sort(key=lambda pair: (-pair[0], pair[1]["name"]))
    found.tensors = [form for _, form in pairs]
    return found


def _matching(one: TensorData, other: TensorData) -> bool:
    floating = is_floating(one.dtype) and is_floating(other.dtype)
    # A complex number counts as two.
    return floating and one.shape == other.shape and len(_bits(one)) == len(_bits(other))


def _bits(tensor: TensorData) -> Array:
    return bit_patterns(tensor.data, tensor.dtype)


def _slices(one: TensorData, other: TensorData) -> Iterator[tuple[Array, Array]]:
    """The numbers of both as float64, each from its own dtype, a slice at a time."""
    a, b = _bits(one), _bits(other)
    for begin in range(0, len(a), SLICE):
        end = begin + SLICE
        yield to_float64(a[begin:end], one.dtype), to_float64(b[begin:end], other.dtype)


def _tensor(name: str, one: TensorData, other: TensorData, apart: Apart) -> TensorApartForm:
    return {
        **apart.form(),
        "name": name,
        "shape": list(one.shape),
        "dtypes": [one.dtype, other.dtype],
    }


def distance(a: Tensors, b: Tensors) -> float | None:
    """l2 distance over all pairs; None where there is none."""
    total = Apart()
    for name in a.keys() & b.keys():
        if _matching(a[name], b[name]):
            total.add(a[name], b[name])
    return total.l2 if total.numbers else None


def norm(tensors: Iterable[TensorData]) -> float:
    """l2 norm of the floating ones."""
    total = Apart()
    for tensor in tensors:
        if is_floating(tensor.dtype):
            total.add(tensor, tensor)
    return math.sqrt(total.products.a)
