"""Write schemas/vectors/: accepted and rejected byte strings of PL-MP/1, one JSON file per case.

The bytes come from stock msgpack over sorted maps and from splicing by hand, never from the library; the
expected defect of a rejected case is written here, by hand, from PROTOCOL sections 3, 4, 7 and 9. ``--check``
writes nothing and exits 1 if a file differs, is missing or is left over.

A file holds ``kind`` (``value`` is the encoding alone under the given ``limits``, any other names the gate it goes
through, as ``record`` and ``seal`` do), ``bytes`` (hex strings, and pairs [hex, times] for
repetitions) and either ``defect`` and ``error`` (part of the message) or, where the value is short, ``json`` (what it
decodes to, base64 for bytes).
"""

import argparse
import base64
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vector_structs import ACCEPTED, GENESIS, STEP, rejected_structs
from vector_values import accepted_values, at_limits, pack, rejected_values

TARGET = Path(__file__).resolve().parent.parent / "schemas" / "vectors"

_SHORT = 2048

LIMITS = {"size": 1 << 20, "depth": 24, "count": 200_000}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One vector. ``value`` is set for an accepted one, ``defect`` and ``error`` for a rejected one."""

    name: str
    kind: str
    data: bytes
    value: Any = None
    defect: str = ""
    error: str = ""
    limits: dict[str, int] = field(default_factory=lambda: LIMITS)

    def text(self) -> str:
        """The content of its file."""
        content: dict[str, Any] = {"kind": self.kind, "bytes": compress(self.data)}
        if self.kind == "value":
            content["limits"] = self.limits
        if self.defect:
            content |= {"defect": self.defect, "error": self.error}
        elif len(self.data) <= _SHORT:
            content["json"] = to_json(self.value)
        return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


def compress(data: bytes) -> list[str | list[str | int]]:
    """``data`` in hex, stretches that repeat 64 times and more as pairs."""
    parts: list[str | list[str | int]] = []
    position = 0
    for run in re.finditer(rb"(.{1,64}?)\1{63,}", data, re.DOTALL):
        if run.start() > position:
            parts.append(data[position : run.start()].hex())
        parts.append([run[1].hex(), len(run[0]) // len(run[1])])
        position = run.end()
    return [*parts, data[position:].hex()] if position < len(data) or not parts else parts


def to_json(value: Any) -> Any:
    """The JSON form: base64 for bytes."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in sorted(value.items())}
    return [to_json(item) for item in value] if isinstance(value, list) else value


def accepted() -> Iterator[Case]:
    """Every case that must be accepted."""
    yield from _accepted_structs()
    for name, value in accepted_values():
        yield Case(name=f"value-{name}", kind="value", data=pack(value), value=value)
    for what, value, limit in at_limits():
        limits = LIMITS | {what: limit}
        yield Case(name=f"value-{what}-at-limit", kind="value", data=pack(value), value=value, limits=limits)


def _accepted_structs() -> Iterator[Case]:
    for kind, values in ACCEPTED.items():
        for name, value in values.items():
            yield Case(name=name, kind=kind, data=pack(value), value=value)


def rejected() -> Iterator[Case]:
    """Every case that must be rejected."""
    for name, defect, error, data in rejected_values():
        yield Case(name=f"value-{name}", kind="value", data=data, defect=defect, error=error)
    for what, value, limit in at_limits():
        error = {"size": "63 are allowed", "depth": "deeper than 3", "count": "more than 6 values"}[what]
        limits = LIMITS | {what: limit - 1}
        data = pack(value)
        yield Case(
            name=f"value-{what}-above-limit", kind="value", data=data, defect=what, error=error, limits=limits
        )
    for name, kind, error, value in rejected_structs():
        yield Case(name=name, kind=kind, data=pack(value), defect="schema", error=error)
    for version in (0, 2, -1):
        data = pack(STEP | {"v": version, "novelty": 1})
        yield Case(
            name=f"record-version-{version}",
            kind="record",
            data=data,
            defect="version",
            error=f"version {version}",
        )
    yield Case(
        name="record-config-nil",
        kind="record",
        data=pack(GENESIS | {"config": {"a": None}}),
        defect="nil",
        error="nil",
    )
    yield Case(
        name="record-too-large", kind="record", data=pack(STEP | {"examples": [0] * (1 << 20)}), defect="size",
        error="1048576 are allowed",
    )  # fmt: skip


def wanted() -> dict[str, str]:
    """Path below schemas/vectors and content of every file."""
    files: dict[str, str] = {}
    for folder, cases in (("accept", accepted()), ("reject", rejected())):
        for case in cases:
            path = f"{folder}/{case.name}.json"
            if path in files:
                raise SystemExit(f"two cases are called {path}")
            files[path] = case.text()
    return files


def main() -> None:
    """Write the files, or with ``--check`` compare them."""
    parser = argparse.ArgumentParser(description="Write schemas/vectors/.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    check = parser.parse_args().check
    files = wanted()
    found = {str(path.relative_to(TARGET)): path.read_text("utf-8") for path in TARGET.glob("*/*")}
    drift = sorted(name for name in files.keys() | found.keys() if files.get(name) != found.get(name))
    if check:
        sys.exit(f"schemas/vectors/ has drifted: {', '.join(drift)}" if drift else 0)
    for name in drift:
        path = TARGET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in files:
            path.write_text(files[name], "utf-8")
        else:
            path.unlink()
    print(f"{len(files)} files, {len(drift)} changed")


if __name__ == "__main__":
    main()
