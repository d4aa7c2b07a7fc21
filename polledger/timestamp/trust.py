"""The trust file: whom a verifier believes about time. PROTOCOL section 8; never part of a proof::

[[authority]]
name = "example"
operator = "Example Ltd"              # a quorum counts distinct operators
url = "https://tsa.example/"          # optional, for people
roots = ["example-root.pem"]          # relative to this file
intermediates = []                    # optional
policies = ["1.3.6.1.4.1.99999.1"]    # optional; any if absent
not_before = 2020-01-01T00:00:00Z     # optional: genTime from here
not_after = 2030-01-01T00:00:00Z      # optional: genTime up to here
"""

import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.timestamp import der
from polledger.timestamp.certificates import read_pem

TRUST_BYTES: Final = 1 << 20
"""Largest trust or PEM file read; a chain has a few kilobytes."""

_TEXTS: Final = ("name", "operator", "url")
_LISTS: Final = ("roots", "intermediates", "policies")
_TIMES: Final = ("not_before", "not_after")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustEntry:
    """One authority. genTime counts from ``not_before`` to ``not_after``, both included; None is open."""

    name: str
    operator: str
    url: str
    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...]
    policies: tuple[str, ...]
    not_before: datetime | None
    not_after: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The entries of a trust file, names unique. How many operators must agree is the policy's to say."""

    entries: tuple[TrustEntry, ...]


def load_trust(path: Path) -> Trust:
    """The trust file at ``path`` with the certificates it names.

    Raises UsageError, naming file and entry, for anything missing, unknown or malformed; Unavailable for files
    that cannot be read.
    """
    try:
        table = tomllib.loads(_read(path).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    entries = table.pop("authority", [])
    if table:
        raise UsageError(f"{path}: unknown key {min(table)!r}")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: there is no [[authority]]")
    found = tuple(
        _entry(entry, f"{path}: authority {number}", path.parent) for number, entry in enumerate(entries, 1)
    )
    if len({entry.name for entry in found}) < len(found):
        raise UsageError(f"{path}: two authorities have the same name")
    return Trust(entries=found)


def _entry(table: dict[str, Any], where: str, directory: Path) -> TrustEntry:
    unknown = set(table) - {*_TEXTS, *_LISTS, *_TIMES}
    if unknown:
        raise UsageError(f"{where}: unknown key {min(unknown)!r}")
    texts = {key: _text(table.get(key, ""), f"{where}: {key}") for key in _TEXTS}
    lists = {key: _list(table.get(key, []), f"{where}: {key}") for key in _LISTS}
    times = {key: _time(table.get(key), f"{where}: {key}") for key in _TIMES}
    if not (texts["name"] and texts["operator"] and lists["roots"]):
        raise UsageError(f"{where}: name, operator and roots are required")
    for policy in lists["policies"]:
        der.oid(policy)
    return TrustEntry(
        name=texts["name"],
        operator=texts["operator"],
        url=texts["url"],
        not_before=times["not_before"],
        not_after=times["not_after"],
        roots=_certificates(lists["roots"], directory),
        intermediates=_certificates(lists["intermediates"], directory),
        policies=tuple(lists["policies"]),
    )


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where} is not a string")
    return value


def _list(value: object, where: str) -> list[str]:
    if not isinstance(value, list):
        raise UsageError(f"{where} is not a list")
    return [_text(item, where) for item in value]


def _time(value: object, where: str) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise UsageError(f"{where} is not a time with zone, like 2030-01-01T00:00:00Z")
    return value


def _certificates(names: list[str], directory: Path) -> tuple[x509.Certificate, ...]:
    found: list[x509.Certificate] = []
    for name in names:
        path = directory / name
        try:
            found += read_pem(_read(path))
        except MalformedError as error:
            raise UsageError(f"{path}: {error}") from None
    return tuple(found)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(TRUST_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, not a file") from None
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > TRUST_BYTES:
        raise UsageError(f"{path} has more than {TRUST_BYTES} bytes")
    return data
