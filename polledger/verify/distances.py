"""Distances by which the literature compares states: reported beside a judgement, never a part of one.

PROTOCOL section 10 judges the l2 error of a group relative to its displacement. Jia et al. (2021) judge an absolute
distance between flattened parameters, and normalise it by d_ref, the distance between two models of the same task
trained from different seeds. A verifier has one model; :func:`reference_distances` estimates d_ref from it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from polledger.core.dtypes import is_floating
from polledger.core.records import StateObject
from polledger.core.state import FlatState, Groups, TensorData
from polledger.core.tolerance import Distances
from polledger.verify.compare import difference, same_bytes, same_form, slices
from polledger.verify.floats import Array


@dataclass(slots=True)
class Products:
    """Sums of the products of two rows of numbers, with each other and with themselves."""

    a: float = 0.0
    b: float = 0.0
    dot: float = 0.0

    def add(self, a: Array, b: Array) -> None:
        """Count numbers of both in, as many of one as of the other."""
        self.a += float(np.dot(a, a))
        self.b += float(np.dot(b, b))
        self.dot += float(np.dot(a, b))

    @property
    def cosine(self) -> float:
        """Of the angle between the two; nan where one of them has no direction."""
        scale = math.sqrt(self.a) * math.sqrt(self.b)
        return self.dot / scale if scale else math.nan


@dataclass(slots=True)
class _Sums:
    l1: float = 0.0
    squared: float = 0.0
    linf: float = 0.0
    products: Products = field(default_factory=Products)
    worst: str = ""
    largest: float = 0.0
    differ: bool = False

    def add(self, path: str, ours: TensorData, theirs: TensorData) -> None:
        """Count one tensor in; equal ones count for the cosine only."""
        same = same_bytes(ours.data, theirs.data)
        error = 0.0
        for a, b in slices(ours, theirs):
            self.products.add(a, b)
            if not same:
                apart = np.abs(difference(a, b))
                self.l1 += float(apart.sum())
                self.linf = float(np.maximum(self.linf, apart.max(initial=0.0)))
                error += float(np.dot(apart, apart))
        self.squared += error
        self.differ = self.differ or not same
        if error > self.largest or (math.isnan(error) and not self.worst):
            self.largest, self.worst = error, path

    def distances(self, reference: float | None) -> Distances:
        return Distances(
            l1=self.l1,
            l2=math.sqrt(self.squared),
            linf=self.linf,
            cosine=self._cosine(),
            worst=self.worst,
            reference=reference,
        )

    def _cosine(self) -> float:
        if self.products.a == self.products.b == 0:
            return 0.0
        # Rounding may take the cosine of parallel states beyond 1.
        return _positive(1.0 - self.products.cosine)


def measure_distances(
    *,
    replayed: FlatState,
    recorded: FlatState,
    objects: Sequence[StateObject],
    references: Mapping[str, float],
) -> dict[str, Distances]:
    """For every group whose tensors differ in bits, its distances; ``references``: d_ref by group.

    Tensors of another form on either side, integers and structure have no distance here. Raises UsageError if a
    tensor belongs to no object of ``objects``.
    """
    groups = Groups(objects)
    others = {tensor.path: tensor for tensor in recorded.tensors}
    sums: dict[str, _Sums] = {}
    with np.errstate(invalid="ignore", over="ignore"):
        for tensor in replayed.tensors:
            other = others.get(tensor.path)
            if other is not None and is_floating(tensor.dtype) and same_form(tensor, other):
                sums.setdefault(groups.of(tensor.path), _Sums()).add(tensor.path, tensor, other)
    return {name: found.distances(references.get(name)) for name, found in sums.items() if found.differ}


def reference_distances(final: FlatState, objects: Sequence[StateObject]) -> dict[str, float]:
    """Estimate of d_ref for every group of parameters, from the one model ``final``: √2 · ‖W − mean of its tensor‖.

    Two trainings from independent seeds end at W and W' with the same expectation, so E‖W − W'‖² is twice the
    variance; units and filters are exchangeable, so the expectation of every number in a tensor is taken as that
    tensor's mean. ``scripts/figure1.py`` compares it with real second trainings. Raises UsageError as
    :func:`measure_distances` does.
    """
    groups = Groups(objects)
    totals: dict[str, float] = {}
    for tensor in final.tensors:
        name = groups.of(tensor.path)
        if name.endswith("/parameters") and is_floating(tensor.dtype):
            totals[name] = totals.get(name, 0.0) + _spread(tensor)
    return {name: math.sqrt(2 * total) for name, total in totals.items()}


def _spread(tensor: TensorData) -> float:
    """Sum of squared deviations from the tensor's mean; a number alone has none."""
    count, total, squared = 0, 0.0, 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for a, _ in slices(tensor, None):
            count += len(a)
            total += float(a.sum())
            squared += float(np.dot(a, a))
    return _positive(squared - total * total / count) if count else 0.0


def _positive(value: float) -> float:
    """``value``, or 0 where it is below; what is not a number stays one that is none."""
    return 0.0 if value < 0 else value
