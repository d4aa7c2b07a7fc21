"""Distances between states, per group, in NumPy: what :mod:`polledger.core.tolerance` judges. PROTOCOL section 10.

All sums run in float64 over canonical bytes; no torch, no device. A number that is not finite and whose bits differ
makes the distance infinite.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from polledger.core.dtypes import is_floating
from polledger.core.records import StateObject
from polledger.core.state import FlatState, Groups, TensorData, scalars_group, split_floats
from polledger.core.structure import Structure
from polledger.core.tolerance import GroupMeasure
from polledger.verify.floats import bit_patterns, real_dtype, to_float64

SLICE = 1 << 20
"""Elements converted to float64 at a time: bounds memory to a few times 8 MiB, whatever the tensor."""

PIECE = 1 << 13
"""Elements subtracted at a time where they are plain numbers: 64 KiB that stay in a core's cache, and below what BLAS
spreads over threads, so that a sum is the same whatever their number."""

COMPARED = 1 << 24
"""Bytes copied and compared at a time."""


@dataclass(slots=True)
class _Sums:
    error: float = 0.0
    displacement: float = 0.0
    exact: bool = True
    strict_equal: bool = True
    worst: str = ""
    largest: float = 0.0

    def note(self, path: str, error: float) -> None:
        """Keep the path with the largest error."""
        if error > self.largest:
            self.largest, self.worst = error, path


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Measures per group, by name in order; ``worst``: by group, the path of the largest error or other structure."""

    measures: tuple[GroupMeasure, ...]
    worst: Mapping[str, str] = field(default_factory=dict)

    def with_noise(self, noise: dict[str, float]) -> "Comparison":
        """The same with the noise floor of each group set; groups without one keep None."""
        measures = tuple(replace(measure, nu=noise.get(measure.name)) for measure in self.measures)
        return replace(self, measures=measures)


def compare_states(
    *, replayed: FlatState, recorded: FlatState, start: FlatState, objects: Sequence[StateObject]
) -> Comparison:
    """Error (replayed − recorded) and displacement (recorded − start) of every group, l2.

    What ``start`` lacks (an optimizer slot made in the first step) counts as zero there. Raises UsageError if a tensor
    belongs to no object of ``objects``.
    """
    return _Comparer(objects).run(replayed, recorded, start)


@dataclass(slots=True)
class _Comparer:
    objects: Sequence[StateObject]
    sums: dict[str, _Sums] = field(default_factory=dict)

    def run(self, replayed: FlatState, recorded: FlatState, start: FlatState) -> Comparison:
        groups = Groups(self.objects)
        ours, theirs, before = _by_path(replayed), _by_path(recorded), _by_path(start)
        for path in sorted(ours.keys() | theirs.keys()):
            sums = self.sums.setdefault(groups.of(path), _Sums())
            self._tensor(sums, path, ours.get(path), theirs.get(path), before.get(path))
        self._skeletons(replayed, recorded, start)
        measures = tuple(_measure(name, sums) for name, sums in sorted(self.sums.items()))
        worst = {name: sums.worst for name, sums in self.sums.items() if sums.worst}
        return Comparison(measures=measures, worst=worst)

    def _tensor(
        self,
        sums: _Sums,
        path: str,
        ours: TensorData | None,
        theirs: TensorData | None,
        before: TensorData | None,
    ) -> None:
        if ours is None or theirs is None or not same_form(ours, theirs):
            self._differ(sums, path)
            return
        same = same_bytes(ours.data, theirs.data)
        sums.exact = sums.exact and same
        if not is_floating(theirs.dtype):
            if not same:
                self._differ(sums, path)
            return
        reference = before if before is not None and same_form(before, theirs) else None
        sums.displacement += squared_distance(theirs, reference)
        if not same:
            error = squared_distance(ours, theirs)
            sums.error += error
            sums.note(path, error)

    def _skeletons(self, replayed: FlatState, recorded: FlatState, start: FlatState) -> None:
        ours, theirs, before = (
            {entry.path: entry.structure for entry in flat.skeletons} for flat in (replayed, recorded, start)
        )
        for name in sorted(ours.keys() | theirs.keys()):
            self._skeleton(name, ours.get(name), theirs.get(name), before.get(name))

    def _skeleton(
        self, name: str, ours: Structure | None, theirs: Structure | None, before: Structure | None
    ) -> None:
        shape, floats = split_floats(ours) if ours is not None else (None, [])
        expected, recorded = split_floats(theirs) if theirs is not None else (None, [])
        if shape == expected and not recorded:
            return
        sums = self.sums.setdefault(scalars_group(name), _Sums())
        if shape != expected:
            self._differ(sums, name)
            return
        first = split_floats(before)[1] if before is not None else []
        reference = (
            first if before is not None and split_floats(before)[0] == expected else [0.0] * len(recorded)
        )
        error = _squared(np.array(floats), np.array(recorded))
        sums.displacement += _squared(np.array(recorded), np.array(reference))
        sums.error += error
        sums.exact = sums.exact and np.array(floats).tobytes() == np.array(recorded).tobytes()
        sums.note(name, error)

    def _differ(self, sums: _Sums, path: str) -> None:
        sums.exact = sums.strict_equal = False
        sums.note(path, math.inf)


def _by_path(flat: FlatState) -> dict[str, TensorData]:
    return {tensor.path: tensor for tensor in flat.tensors}


def same_bytes(a: bytes | memoryview, b: bytes | memoryview) -> bool:
    """Whether two buffers are equal, at the speed of memcmp (comparing memoryviews goes element by element)."""
    if a is b:
        return True
    if len(a) != len(b):
        return False
    return all(
        bytes(a[at : at + COMPARED]) == bytes(b[at : at + COMPARED]) for at in range(0, len(a), COMPARED)
    )


def same_form(a: TensorData, b: TensorData) -> bool:
    """Whether two tensors have one dtype and shape."""
    return a.dtype == b.dtype and a.shape == b.shape


def _measure(name: str, sums: _Sums) -> GroupMeasure:
    return GroupMeasure(
        name=name,
        exact=sums.exact,
        strict_equal=sums.strict_equal,
        e=math.sqrt(sums.error),
        u=math.sqrt(sums.displacement),
    )


def squared_distance(tensor: TensorData, other: TensorData | None) -> float:
    """Squared l2 distance of two floating tensors of one form; None is the zero tensor.

    Elements with equal bits count 0, whatever they are; any other that is not finite makes it infinite.
    """
    if other is not None and real_dtype(tensor.dtype) in ("float32", "float64"):
        return _total(_squared_plain(tensor, other))
    return _total(_squared(a, b) for a, b in slices(tensor, other))


def _squared_plain(tensor: TensorData, other: TensorData) -> Iterator[float]:
    """The squared distance of each piece of two tensors that NumPy can subtract in float64 as they are."""
    name = real_dtype(tensor.dtype)
    a, b = bit_patterns(tensor.data, name), bit_patterns(other.data, name)
    room = np.empty(PIECE)
    for begin in range(0, len(a), PIECE):
        one, two = a[begin : begin + PIECE], b[begin : begin + PIECE]
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.subtract(one.view(name), two.view(name), out=room[: len(one)], dtype=np.float64)
            total = float(np.dot(apart, apart))
        # What is not finite may still be equal bits: the slower way tells.
        yield total if math.isfinite(total) else _squared(to_float64(one, name), to_float64(two, name))


def _total(values: Iterable[float]) -> float:
    """Their sum; infinite where it is beyond float64, which fsum refuses to say."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


def slices(
    tensor: TensorData, other: TensorData | None
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The values of two floating tensors of one form as float64, a slice at a time; None is the zero tensor."""
    a = bit_patterns(tensor.data, tensor.dtype)
    b = bit_patterns(other.data, other.dtype) if other is not None else None
    for begin in range(0, len(a), SLICE):
        part = to_float64(a[begin : begin + SLICE], tensor.dtype)
        if b is None:
            yield part, np.zeros_like(part)
        else:
            yield part, to_float64(b[begin : begin + SLICE], tensor.dtype)


def _squared(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    apart = difference(a, b)
    total = float(np.dot(apart, apart)) if len(apart) else 0.0
    return total if math.isfinite(total) else math.inf


def difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """a − b, element by element."""
    # Equal numbers, infinities included, differ by 0; two NaNs are taken as equal only with equal bits.
    same = (a == b) | (a.view(np.uint64) == b.view(np.uint64))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(same, 0.0, a - b)


def parameter_tensors(flat: FlatState, objects: Sequence[StateObject]) -> list[TensorData]:
    """The floating tensors in the parameter groups; all floating ones where no module is described."""
    groups = Groups(objects)
    floating = [tensor for tensor in flat.tensors if is_floating(tensor.dtype)]
    inside = [tensor for tensor in floating if groups.of(tensor.path).endswith("/parameters")]
    return inside or floating


def residual_cosine(
    *,
    found: FlatState,
    replayed: FlatState,
    start: FlatState,
    final: FlatState,
    objects: Sequence[StateObject],
) -> float:
    """Cosine between (found − replayed) and (final − start) over the parameters; 0 where either is zero."""
    ours, first, last = _by_path(replayed), _by_path(start), _by_path(final)
    dot = residual = direction = 0.0
    for tensor in parameter_tensors(found, objects):
        others = [states.get(tensor.path) for states in (ours, first, last)]
        if any(other is None or not same_form(other, tensor) for other in others):
            continue
        for a, b in _pairs(tensor, *(other for other in others if other is not None)):
            dot += float(np.dot(a, b))
            residual += float(np.dot(a, a))
            direction += float(np.dot(b, b))
    scale = math.sqrt(residual) * math.sqrt(direction)
    return dot / scale if scale else 0.0


def _pairs(
    found: TensorData, replayed: TensorData, start: TensorData, final: TensorData
) -> Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    for (a, b), (c, d) in zip(slices(found, replayed), slices(final, start), strict=True):
        yield difference(a, b), difference(c, d)
