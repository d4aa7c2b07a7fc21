"""How far each group of the state moves from one checkpoint to the next, and a sketch of where its parameters are.

What :mod:`polledger.core.screening` judges, in NumPy, over two states at a time. A sketch is a projection on random
directions under the verifier's seed: the distance between two sketches estimates that between the checkpoints.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from polledger.core.digest import sha256, u64
from polledger.core.dtypes import is_floating
from polledger.core.records import StateObject
from polledger.core.screening import is_parameters
from polledger.core.sketch import DIRECTIONS
from polledger.core.state import FlatState, Groups, TensorData
from polledger.verify.compare import same_bytes, same_form
from polledger.verify.floats import Array, bit_patterns, real_dtype, to_float64

ROW = 1024
"""Numbers that share one set of random signs: with DIRECTIONS columns their matrix has 256 KiB and stays in cache."""

_BLOCK = 64 * ROW
"""Numbers at a time: 256 KiB of float32, which stay in cache from the difference to the projection."""

_PRODUCT = 4
"""Rows in one product. OpenBLAS splits larger ones among threads, which wait for each other: with two cores and other
programs on them that took 68 times as long, and one thread is busy hashing anyway."""

_LEAST = 1e-30
"""A float32 sum of squares below this may have lost what is smaller: it is taken again in float64."""

_ROUNDING = {"float64": (2.0**-52, 2.3e-308), "float32": (2.0**-23, 1.2e-38), "float16": (2.0**-10, 6.2e-5)}
"""Unit in the last place of 1, and the smallest normal number: what lies below may be flushed to 0."""

_COARSE = (2.0**-7, 1.2e-38)
"""The same for bfloat16, which is the coarsest that optimizers keep sums in."""

_LABEL = b"polledger/sketch/1\x00"

Floats = NDArray[np.float32]
Sketch = NDArray[np.float64]


def random_bits(seed: bytes, purpose: bytes, count: int) -> NDArray[np.uint8]:
    """``count`` bytes of the concatenation over c of H("polledger/sketch/1" ‖ 0 ‖ seed ‖ purpose ‖ u64(c))."""
    blocks = [sha256(_LABEL + seed + purpose + u64(c)) for c in range(-(-count // 32))]
    return np.frombuffer(b"".join(blocks)[:count], dtype=np.uint8)


def _signs(bits: NDArray[np.uint8]) -> Floats:
    """Rows of DIRECTIONS signs, most significant bit first, 1 for plus."""
    ones = np.unpackbits(bits).reshape(-1, DIRECTIONS)
    return ones.astype(np.float32) * np.float32(2) - np.float32(1)


class Projection:
    """Maps changes of one group to DIRECTIONS numbers, linearly: Σ_r s[r, j] Σ_i G[i, j] d[r, i] / √DIRECTIONS.

    d: the tensors by ascending path, each cut into rows of ROW numbers, its last row filled with zeros. G comes from
    the bits of purpose ``G``, s from those of purpose ``s`` and the group's name.
    """

    def __init__(self, seed: bytes, group: str) -> None:
        self._seed, self._purpose = seed, b"s" + group.encode()
        self._matrix = _signs(random_bits(seed, b"G", ROW * DIRECTIONS // 8)) / np.float32(
            math.sqrt(DIRECTIONS)
        )
        self._bits = np.zeros(0, dtype=np.uint8)
        self._row = 0

    def start(self) -> None:
        """Go back to the first row."""
        self._row = 0

    def project(self, rows: Floats) -> Sketch:
        """What the next ``rows`` [n, ROW] add."""
        width = DIRECTIONS // 8
        begin, self._row = self._row * width, self._row + len(rows)
        end = self._row * width
        if end > len(self._bits):
            self._bits = random_bits(self._seed, self._purpose, max(2 * len(self._bits), end))
        signs = _signs(self._bits[begin:end])
        projected = np.empty((len(rows), DIRECTIONS), dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for at in range(0, len(rows), _PRODUCT):
                np.matmul(rows[at : at + _PRODUCT], self._matrix, out=projected[at : at + _PRODUCT])
            projected *= signs
            total: Sketch = projected.sum(axis=0, dtype=np.float64)
        if not np.isfinite(total).all():
            # Finite changes beyond 1e35: their sums are no float32.
            total = (rows.astype(np.float64) @ self._matrix.astype(np.float64) * signs).sum(axis=0)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What to look at besides displacement, by group. ``decay``: the share of each element that ``steps`` steps leave.

    ``counters``: groups of counters; ``reached``: groups whose largest single change is wanted.
    """

    steps: int = 1
    decay: Mapping[str, float] = field(default_factory=dict)
    counters: frozenset[str] = frozenset()
    reached: frozenset[str] = frozenset()


@dataclass(slots=True, kw_only=True)
class Movement:
    """From one checkpoint to the next. ``moved``: l2 displacement of each group with floating tensors.

    ``still``: all parameters have equal bits. ``lessened``: elements below what ``decay`` leaves. ``grown``: largest
    growth of a counter. ``reach``: largest change of a single number and largest number.
    """

    moved: dict[str, float] = field(default_factory=dict)
    still: bool = True
    lessened: dict[str, int] = field(default_factory=dict)
    grown: dict[str, float] = field(default_factory=dict)
    reach: dict[str, tuple[float, float]] = field(default_factory=dict)


class Meter:
    """Takes states in order and measures each against the one before.

    ``sketches``: by group of parameters (with ``every_group``: of floating tensors), where it is after each state
    relative to the first one, or to zero where that lacks it. A number that is not finite counts as no change there,
    and makes ``moved`` infinite unless its bits are equal. A state's bytes are used until the next one was taken.
    """

    def __init__(self, objects: Sequence[StateObject], *, seed: bytes, every_group: bool = False) -> None:
        self._every_group = every_group
        self._taken = 0
        self._groups = Groups(objects)
        self._names: dict[str, str] = {}
        self._seed = seed
        self._projections: dict[str, Projection] = {}
        self._before: dict[str, TensorData] | None = None
        self._work = np.zeros(_BLOCK, dtype=np.float32)
        self._more = np.zeros(_BLOCK, dtype=np.float32)
        self.sketches: dict[str, list[Sketch]] = {}

    def take(self, flat: FlatState, expected: Expected | None = None) -> Movement | None:
        """The movement since the last state; None for the first. Raises UsageError if a path belongs to no object."""
        tensors = {tensor.path: tensor for tensor in sorted(flat.tensors, key=lambda tensor: tensor.path)}
        before, self._before = self._before, tensors
        self._sketch_new_groups(tensors)
        self._taken += 1
        if before is None:
            return None
        movement = Movement(still=tensors.keys() == before.keys())
        changes = {group: np.zeros(DIRECTIONS) for group in self.sketches}
        for projection in self._projections.values():
            projection.start()
        with _unwarned():
            for tensor in tensors.values():
                old = _counterpart(before, tensor)
                self._tensor(tensor, old, movement, changes, expected or Expected())
        for group, change in changes.items():
            self.sketches[group].append(self.sketches[group][-1] + change)
        movement.moved = {group: math.sqrt(squared) for group, squared in movement.moved.items()}
        return movement

    def distance(self, tensors: Sequence[TensorData], others: Sequence[TensorData]) -> float:
        """l2 distance over the floating ``tensors``; one without a counterpart of its form counts in full."""
        by_path = {tensor.path: tensor for tensor in others}
        with _unwarned():
            squares = [
                self._displacement(tensor, _counterpart(by_path, tensor), "", None)[0] for tensor in tensors
            ]
        return math.sqrt(sum(squares))

    def _sketch_new_groups(self, tensors: Mapping[str, TensorData]) -> None:
        for path, tensor in tensors.items():
            group = self._group(path)
            wanted = self._every_group or is_parameters(group)
            if wanted and is_floating(tensor.dtype) and group not in self.sketches:
                self.sketches[group] = [np.zeros(DIRECTIONS)] * max(1, self._taken)
                self._projections[group] = Projection(self._seed, group)

    def _group(self, path: str) -> str:
        if path not in self._names:
            self._names[path] = self._groups.of(path)
        return self._names[path]

    def _tensor(
        self,
        tensor: TensorData,
        old: TensorData | None,
        movement: Movement,
        changes: Mapping[str, Sketch],
        expected: Expected,
    ) -> None:
        group = self._group(tensor.path)
        squared, reach = 0.0, (0.0, 0.0)
        if is_floating(tensor.dtype):
            squared, reach = self._displacement(
                tensor, old, group, changes.get(group), reach=group in expected.reached
            )
        if is_parameters(group) and movement.still:
            movement.still = squared == 0 and old is not None and same_bytes(tensor.data, old.data)
        if not is_floating(tensor.dtype):
            return
        movement.moved[group] = movement.moved.get(group, 0.0) + squared
        if old is None:
            return
        if group in expected.decay:
            count = self._lessened(tensor, old, expected.decay[group], expected.steps)
            movement.lessened[group] = movement.lessened.get(group, 0) + count
        if group in expected.counters:
            movement.grown[group] = max(movement.grown.get(group, 0.0), _largest_growth(tensor, old))
        if group in expected.reached:
            movement.reach[group] = _larger(movement.reach.get(group, (0.0, 0.0)), reach)

    def _displacement(
        self,
        tensor: TensorData,
        old: TensorData | None,
        group: str,
        change: Sketch | None,
        *,
        reach: bool = False,
    ) -> tuple[float, tuple[float, float]]:
        """Squared displacement of one tensor, and its ``reach`` if asked for; its projection is added to ``change``."""
        total, found = 0.0, (0.0, 0.0)
        for b, a in _blocks(tensor, old):
            difference, squared = self._difference(b, a, tensor.dtype)
            total += squared
            if reach:
                found = _larger(found, (_magnitude(difference), _magnitude(_values(b, tensor.dtype))))
            if change is not None:
                change += self._projections[group].project(self._rows(difference))
        return total, found

    def _difference(self, b: Array, a: Array, dtype: str) -> tuple[Floats, float]:
        """b − a as float32 in the work buffer, and its sum of squares."""
        difference = self._work[: len(b)]
        if real_dtype(dtype) == "float32":
            np.subtract(b.view("<f4"), a.view("<f4"), out=difference)
            squared = float(np.dot(difference, difference))
            if _LEAST < squared < math.inf or not difference.any():
                return difference, squared
        exact = _exact_difference(to_float64(b, dtype), to_float64(a, dtype))
        squared = float(np.dot(exact, exact))
        np.copyto(difference, exact, casting="same_kind")
        np.copyto(difference, 0, where=~np.isfinite(difference))
        return difference, squared if math.isfinite(squared) else math.inf

    def _rows(self, difference: Floats) -> Floats:
        """``difference``, which lies in the work buffer, as whole rows."""
        whole = -(-len(difference) // ROW) * ROW
        self._work[len(difference) : whole] = 0
        return self._work[:whole].reshape(-1, ROW)

    def _lessened(self, tensor: TensorData, old: TensorData, decay: float, steps: int) -> int:
        """Elements of ``tensor`` below ``decay`` times what they were, roundings of ``steps`` steps allowed for."""
        epsilon, tiny = _ROUNDING.get(tensor.dtype, _COARSE)
        share, slack = decay * (1 - 8 * epsilon) ** steps, 8 * tiny * steps
        count = 0
        with np.errstate(invalid="ignore", over="ignore"):
            for b, a in _blocks(tensor, old):
                if tensor.dtype == "float32":
                    new = b.view("<f4")
                    least = np.multiply(a.view("<f4"), np.float32(share), out=self._more[: len(a)])
                    least -= np.float32(slack)
                    count += int(np.count_nonzero(new < least))
                else:
                    least = to_float64(a, tensor.dtype) * share - slack
                    count += int(np.count_nonzero(to_float64(b, tensor.dtype) < least))
        return count


def _unwarned() -> np.errstate:
    """What is not finite is expected, and handled."""
    return np.errstate(invalid="ignore", over="ignore")


def _counterpart(tensors: Mapping[str, TensorData], tensor: TensorData) -> TensorData | None:
    """The tensor of that path among ``tensors``, if it has the same dtype and shape."""
    other = tensors.get(tensor.path)
    return other if other is not None and same_form(other, tensor) else None


def _values(bits: Array, dtype: str) -> Array:
    """The numbers as float32 where they are that, otherwise as float64."""
    return bits.view("<f4") if real_dtype(dtype) == "float32" else to_float64(bits, dtype)


def _blocks(tensor: TensorData, old: TensorData | None) -> Iterator[tuple[Array, Array]]:
    """Bit patterns of both, a block at a time; None is zero."""
    new = bit_patterns(tensor.data, tensor.dtype)
    before = bit_patterns(old.data, old.dtype) if old is not None else None
    zeros = np.zeros(min(len(new), _BLOCK), dtype=new.dtype) if before is None else new
    for begin in range(0, len(new), _BLOCK):
        b = new[begin : begin + _BLOCK]
        yield b, before[begin : begin + _BLOCK] if before is not None else zeros[: len(b)]


def _exact_difference(b: NDArray[np.float64], a: NDArray[np.float64]) -> NDArray[np.float64]:
    # As the comparison has it: equal numbers, infinities included, and equal bits differ by 0.
    same = (a == b) | (a.view(np.uint64) == b.view(np.uint64))
    return np.where(same, 0.0, b - a)


def _largest_growth(tensor: TensorData, old: TensorData) -> float:
    """0 where none grew, infinite where one became what is no number."""
    largest = 0.0
    for b, a in _blocks(tensor, old):
        grown = _exact_difference(to_float64(b, tensor.dtype), to_float64(a, tensor.dtype))
        largest = max(largest, _magnitude(np.where(np.isnan(grown), math.inf, np.maximum(grown, 0.0))))
    return largest


def _magnitude(values: Array) -> float:
    return max(float(values.max()), -float(values.min())) if len(values) else 0.0


def _larger(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return max(one[0], other[0]), max(one[1], other[1])
