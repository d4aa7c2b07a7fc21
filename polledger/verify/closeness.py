"""What a model file is that is not the claimed model: a copy in another format, a pruned or fine-tuned one, or another.

Reported beside a refusal and never instead of one. Distances are l2 over all numbers, divided by the norm of the
model itself. Two trainings of one architecture from independent seeds lie about √2 apart by this measure; see CLOSE.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polledger.core.dtypes import is_floating
from polledger.core.report import counted
from polledger.core.state import FlatState, TensorData, TensorEntry
from polledger.verify.compare import SLICE, difference, same_bytes
from polledger.verify.floats import bit_patterns, to_float64

CLOSE = 0.5
"""Relative distance up to which a model is called close: a third of what independent trainings leave (√2)."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDifference:
    """One tensor that is not the model's: what differs in words, and both roots in hex where there are both."""

    detail: str
    expected: str | None = None
    found: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """What a file is, in words, and every tensor that differs."""

    sentence: str
    differing: tuple[TensorDifference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """Two tensors of one name. ``kind``: equal, cast, pruned, quantised, moved, shape, type (no
    distance between them) or unknown (values not at hand)."""

    kind: str
    detail: str
    squared: float = 0.0
    norm: float = 0.0
    zeroed: int = 0
    numbers: int = 0

    @property
    def relative(self) -> float:
        return _ratio(self.squared, self.norm)


def _ratio(squared: float, norm: float) -> float:
    return math.sqrt(squared / norm) if norm else math.inf if squared else 0.0


def measure(
    model: FlatState | None,
    listed: Sequence[TensorEntry],
    file: FlatState,
    entries: Sequence[TensorEntry],
) -> Closeness:
    """Compare ``file``, whose tensors have ``entries``, with the model, whose tensors are ``listed``.

    ``model`` None: only the roots of its tensors are known, and no distance is.
    """
    ours = {one.path: one for one in listed}
    theirs = {one.path: one for one in entries}
    data = {one.path: one for one in model.tensors} if model is not None else {}
    values = {one.path: one for one in file.tensors}
    differing: list[TensorDifference] = []
    compared: list[_Compared] = []
    for path in sorted(ours.keys() & theirs.keys()):
        one, other = ours[path], theirs[path]
        if (one.dtype, one.shape, one.root) == (other.dtype, other.shape, other.root):
            compared.append(_equal(data.get(path)))
            continue
        found = _compare(one, other, data.get(path), values[path])
        compared.append(found)
        differing.append(
            TensorDifference(
                detail=f"{path}: {found.detail}", expected=one.root.hex(), found=other.root.hex()
            )
        )
    differing += [
        TensorDifference(detail=f"{path}: not in the file") for path in sorted(ours.keys() - theirs.keys())
    ]
    differing += [
        TensorDifference(detail=f"{path}: not in the model") for path in sorted(theirs.keys() - ours.keys())
    ]
    names = _names(ours.keys() - theirs.keys(), theirs.keys() - ours.keys())
    return Closeness(sentence=_sentence(compared, names), differing=tuple(differing))


def _equal(tensor: TensorData | None) -> _Compared:
    norm = sum(float(np.dot(a, a)) for a in _values(tensor)) if tensor is not None else 0.0
    return _Compared(kind="equal", detail="", norm=norm)


def _compare(
    entry: TensorEntry, other: TensorEntry, ours: TensorData | None, theirs: TensorData
) -> _Compared:
    if entry.shape != other.shape:
        return _Compared(kind="shape", detail=f"its shape is {other.shape}, the model's is {entry.shape}")
    if ours is None:
        return _Compared(kind="unknown", detail="other bytes")
    if not is_floating(entry.dtype):
        kind = "moved" if other.dtype == entry.dtype else "type"
        return _Compared(
            kind=kind,
            detail=f"other values of {entry.dtype}"
            if kind == "moved"
            else f"{other.dtype} instead of {entry.dtype}",
        )
    if not is_floating(other.dtype):
        return _quantised(ours, theirs)
    if _is_complex(entry.dtype) != _is_complex(other.dtype):
        return _Compared(kind="type", detail=f"{other.dtype} instead of {entry.dtype}")
    if entry.dtype != other.dtype and _is_cast(ours, theirs):
        return _Compared(kind="cast", detail=f"the same numbers, rounded to {other.dtype}")
    return _moved(ours, theirs)


def _is_complex(dtype: str) -> bool:
    return dtype.startswith("complex")


def _values(tensor: TensorData) -> Iterator[Values]:
    """The numbers of a tensor as float64, a slice at a time; none of a type without numbers."""
    if is_floating(tensor.dtype):
        bits = bit_patterns(tensor.data, tensor.dtype)
        for begin in range(0, len(bits), SLICE):
            yield to_float64(bits[begin : begin + SLICE], tensor.dtype)
    elif tensor.dtype in _INTEGERS:
        whole = np.frombuffer(tensor.data, dtype=_INTEGERS[tensor.dtype])
        for begin in range(0, len(whole), SLICE):
            yield whole[begin : begin + SLICE].astype(np.float64)


_INTEGERS = {"int8": "<i1", "uint8": "<u1", "int16": "<i2", "int32": "<i4"}
"""Formats that weights are quantised to."""


def _is_cast(ours: TensorData, theirs: TensorData) -> bool:
    """Whether theirs are ours, each rounded to the nearest number of their format."""
    pairs = zip(_values(ours), _values(theirs), strict=True)
    return all(same_bytes(_rounded(a, theirs.dtype).tobytes(), b.tobytes()) for a, b in pairs)


def _rounded(values: Values, dtype: str) -> Values:
    """``values`` rounded to nearest, ties to even, in ``dtype``; unchanged for formats that are not looked at."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype in ("float16", "float32"):
            return values.astype(dtype).astype(np.float64)
        if dtype == "bfloat16":
            bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
            upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return (upper << 16).astype(np.uint32).view(np.float32).astype(np.float64)
    return values


def _moved(ours: TensorData, theirs: TensorData) -> _Compared:
    """Other numbers of one shape: only zeros where the model has none (pruned), or anything."""
    squared = norm = 0.0
    zeroed = changed = numbers = 0
    with np.errstate(invalid="ignore", over="ignore"):
        for a, b in zip(_values(ours), _values(theirs), strict=True):
            apart = difference(a, b)
            squared += float(np.dot(apart, apart))
            norm += float(np.dot(a, a))
            changed += int(np.count_nonzero(apart))
            zeroed += int(np.count_nonzero((b == 0) & (a != 0)))
            numbers += len(a)
    pruned = changed == zeroed > 0
    detail = (
        f"{zeroed} of {counted(numbers, 'number')} set to zero, the others equal"
        if pruned
        else f"relative distance {_ratio(squared, norm):.2g}, {changed} of {counted(numbers, 'number')} changed"
    )
    if ours.dtype != theirs.dtype:
        detail += f", {theirs.dtype} instead of {ours.dtype}"
    return _Compared(
        kind="pruned" if pruned else "moved",
        detail=detail,
        squared=squared,
        norm=norm,
        zeroed=zeroed,
        numbers=numbers,
    )


def _quantised(ours: TensorData, theirs: TensorData) -> _Compared:
    """Whole numbers in place of real ones: how far the best scale and offset of them stay from the model."""
    if theirs.dtype not in _INTEGERS or not len(ours.data):
        return _Compared(kind="type", detail=f"{theirs.dtype} instead of {ours.dtype}")
    a = np.concatenate(list(_values(ours)))
    q = np.concatenate(list(_values(theirs)))
    if len(a) != len(q) or not np.isfinite(a).all():
        return _Compared(kind="type", detail=f"{theirs.dtype} instead of {ours.dtype}")
    centred = q - q.mean()
    spread = float(np.dot(centred, centred))
    scale = float(np.dot(centred, a)) / spread if spread else 0.0
    rest = (a - a.mean()) - scale * centred
    squared, norm = float(np.dot(rest, rest)), float(np.dot(a, a))
    relative = _ratio(squared, norm)
    detail = f"{theirs.dtype} instead of {ours.dtype}, within {relative:.2g} of the model under one scale and offset"
    return _Compared(
        kind="quantised" if relative <= CLOSE else "moved", detail=detail, squared=squared, norm=norm
    )


def _names(missing: set[str], extra: set[str]) -> str:
    parts = [f"{counted(len(missing), 'tensor')} of the model missing"] if missing else []
    parts += [f"{counted(len(extra), 'tensor')} that the model does not have"] if extra else []
    return " and ".join(parts)


def _sentence(compared: Sequence[_Compared], names: str) -> str:
    """The most that holds for every tensor."""
    kinds = {one.kind for one in compared}
    prefix = f"it has {names}; the others are: " if names and compared else ""
    if not compared:
        return "it has no tensor of the model's names and shapes"
    return prefix + _verdict(kinds, compared)


def _verdict(kinds: set[str], compared: Sequence[_Compared]) -> str:
    changed = [one for one in compared if one.kind != "equal"]
    if not changed:
        return "the model's tensors, unchanged"
    if "shape" in kinds:
        odd = sum(one.kind == "shape" for one in compared)
        return f"another architecture: {odd} of {counted(len(compared), 'tensor')} have another shape"
    if "type" in kinds:
        odd = sum(one.kind == "type" for one in compared)
        return (
            f"another kind of tensor: {odd} of {counted(len(compared), 'tensor')} hold values of another type"
        )
    if "unknown" in kinds:
        of = f"{len(changed)} of {counted(len(compared), 'tensor')}"
        return f"{of} differ; how far is known only with the run at hand"
    if kinds <= {"equal", "cast"}:
        return f"a copy in another format: {changed[0].detail}"
    if kinds <= {"equal", "pruned"}:
        zeroed, numbers = sum(one.zeroed for one in changed), sum(one.numbers for one in changed)
        return f"a pruned copy: {zeroed} of {counted(numbers, 'number')} set to zero, all others equal"
    if kinds <= {"equal", "cast", "quantised"}:
        return f"a quantised copy: {max(changed, key=lambda one: one.relative).detail}"
    return _far(compared)


def _far(compared: Sequence[_Compared]) -> str:
    relative = _ratio(sum(one.squared for one in compared), sum(one.norm for one in compared))
    said = (
        f"relative distance {relative:.2g} ({sum(one.kind != 'equal' for one in compared)} tensors changed)"
    )
    if relative <= CLOSE:
        return f"close to it, as a fine-tuned copy would be: {said}"
    return f"far from it: {said}, where independent trainings lie about 1.4 apart"
