"""Values as text for people and files: nothing in them acts on whoever shows them."""

import json
import math
from collections.abc import Mapping
from typing import Any


def shown(text: str) -> str:
    """``text`` as a terminal shows it without acting on it: control characters, line feeds too, are spelled out."""
    return "".join(part if part.isprintable() else part.encode("unicode_escape").decode() for part in text)


def one_line(text: str) -> str:
    """``text`` as one line that a terminal shows as it is: what evidence says may hold line feeds and escapes."""
    return shown(" ".join(text.split()))


def json_text(value: Mapping[str, object]) -> str:
    """``value`` as strict JSON in printable ASCII: any text survives any terminal, any reader takes any number."""
    return json.dumps(_plain(value), allow_nan=False, indent=2)


def _plain(value: Any) -> Any:
    """``value`` with the floats that JSON has no number for as their names."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
