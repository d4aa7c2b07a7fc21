"""What the fields of opened examples hold: declared domains are checked, others observed. PROTOCOL section 10.7."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec import UnsetType
from numpy.typing import NDArray

from polledger.core.dtypes import is_floating
from polledger.core.encoding import from_real
from polledger.core.nest import Nest, NestPart, parse_nest
from polledger.core.records import Domain
from polledger.verify.floats import bit_patterns, to_float64

_INTEGERS = {
    "bool": "<u1",
    "uint8": "<u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "int8": "<i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
}

GRID_SLACK = 2.0**-22
"""Relative error a value on a grid may have: two roundings of float32, in which grids like 1/255 are not exact."""

Values = NDArray[np.float64]


@dataclass(slots=True)
class Observed:
    """Smallest and largest number seen in one field, and whether all were whole numbers."""

    low: float = math.inf
    high: float = -math.inf
    whole: bool = True

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{' (whole numbers)' if self.whole else ''}"


@dataclass(slots=True)
class DomainCheck:
    """Collects what opened examples hold; ``domains`` are those that genesis declares."""

    domains: Sequence[Domain]
    observed: dict[str, Observed] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def check(self, example: bytes) -> str:
        """Take in one example (canonical nest). Returns what is outside its domain, or the empty string.

        Raises MalformedError if ``example`` is not a nest.
        """
        declared = {domain.field: domain for domain in self.domains}
        for path, values in _fields(parse_nest(example)):
            domain = declared.get(path)
            if domain is None:
                self._observe(path, values)
                continue
            self.seen.add(path)
            if not in_domain(values, domain):
                return f"field {path!r} is outside its declared domain ({describe(domain)})"
        return ""

    @property
    def unseen(self) -> list[str]:
        """Declared fields that no opened example has."""
        return sorted({domain.field for domain in self.domains} - self.seen)

    def _observe(self, path: str, values: Values) -> None:
        if not values.size:
            return
        seen = self.observed.setdefault(path, Observed())
        seen.low = min(seen.low, float(values.min()))
        seen.high = max(seen.high, float(values.max()))
        seen.whole = seen.whole and bool(np.all(values == np.floor(values)))


def _fields(nest: Nest) -> Iterator[tuple[str, Values]]:
    """Path and numbers of every numeric leaf, in its shape; text and bytes have none."""
    number = 0
    for path, (tag, *payload) in nest.leaves():
        if tag in ("tensor", "array", "scalar"):
            yield path, _numbers(nest.tensors[number])
            number += 1
        elif tag in ("int", "bool", "float"):
            yield path, np.array([_number(tag, payload[0])], dtype=np.float64)


def _number(tag: str, payload: Any) -> float:
    if tag == "float":
        return from_real(payload)
    try:
        return float(int(payload))
    except OverflowError:
        return math.inf if not str(payload).startswith("-") else -math.inf


def _numbers(part: NestPart) -> Values:
    dtype, shape, data = part
    if is_floating(dtype):
        values = to_float64(bit_patterns(data, dtype), dtype)
        return values.reshape(-1, 2) if dtype.startswith("complex") else values.reshape(shape)
    return np.frombuffer(data, dtype=_INTEGERS[dtype]).astype(np.float64).reshape(shape)


def in_domain(values: Values, domain: Domain) -> bool:
    """True when every one of ``values`` (one field of one example) is in ``domain``. NaN is in none."""
    if domain.kind == "one_hot":
        return _one_hot(values)
    low, high = _bound(domain.low, -math.inf), _bound(domain.high, math.inf)
    if not bool(np.all((values >= low) & (values <= high))):
        return False
    if domain.kind == "range":
        return bool(np.all(values == np.floor(values)))
    step = _bound(domain.step, 0.0)
    if not (step > 0 and math.isfinite(low)):
        return False
    places = (values - low) / step
    return bool(np.all(np.abs(places - np.round(places)) <= GRID_SLACK * (1 + np.abs(values) / step)))


def _one_hot(values: Values) -> bool:
    """One 1 and otherwise zeros, in each row along the last dimension."""
    if values.ndim == 0 or not values.size:
        return False
    rows = values.reshape(-1, values.shape[-1])
    return bool(
        np.all(np.sum(rows == 1.0, axis=1) == 1) and np.all(np.sum(rows == 0.0, axis=1) == rows.shape[1] - 1)
    )


def _bound(value: bytes | UnsetType, default: float) -> float:
    return default if isinstance(value, UnsetType) else from_real(value)


def describe(domain: Domain) -> str:
    """The domain in words."""
    if domain.kind == "one_hot":
        return "one-hot"
    low, high = _bound(domain.low, -math.inf), _bound(domain.high, math.inf)
    step = f" in steps of {_bound(domain.step, 0.0):g}" if domain.kind == "grid" else ""
    return f"{'whole numbers ' if domain.kind == 'range' else ''}{low:g} to {high:g}{step}"
