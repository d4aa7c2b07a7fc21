"""``Task.domains`` as genesis commits it. PROTOCOL sections 4 and 9."""

from collections.abc import Mapping
from typing import Any

from polledger.core.encoding import real
from polledger.core.records import Domain
from polledger.errors import UsageError


def encode_domains(domains: Mapping[str, Any]) -> list[Domain]:
    """One Domain per field, in order of the fields' names.

    ``range(a, b)`` admits the integers a to b − 1 (``low`` and ``high`` are the smallest and the largest),
    ``"one_hot"`` vectors with a single 1, and ``(low, high, step)`` the numbers low + i·step up to high.
    Raises UsageError naming the field for anything else.
    """
    return [_encode(str(field), domains[field]) for field in sorted(domains, key=str)]


def _encode(field: str, value: Any) -> Domain:
    if isinstance(value, str) and value == "one_hot":
        return Domain(field=field, kind="one_hot")
    if isinstance(value, range) and len(value) > 0:
        low, high, step = min(value), max(value), abs(value.step)
        if step == 1:
            return Domain(field=field, kind="range", low=real(low), high=real(high))
        return Domain(field=field, kind="grid", low=real(low), high=real(high), step=real(step))
    if isinstance(value, tuple | list) and len(value) == 3 and all(_is_number(item) for item in value):
        first, last, width = (float(item) for item in value)
        if first <= last and width > 0:
            return Domain(field=field, kind="grid", low=real(first), high=real(last), step=real(width))
    raise UsageError(
        f"domain of {field!r}: give range(a, b), 'one_hot' or a grid (low, high, step), not {value!r}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
