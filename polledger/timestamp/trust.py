"""The trust file: whom a verifier believes about time. PROTOCOL section 8; docs/time.md; never part of a proof::

[[authority]]
name = "example"
operator = "Example Ltd"              # a quorum counts distinct operators
url = "https://tsa.example/"          # optional: where `seal --tsa example` asks
roots = ["example-root.pem"]          # relative to this file; without one the entry vouches for nothing
intermediates = []                    # optional
policies = ["1.3.6.1.4.1.99999.1"]    # optional; any if absent
hashes = ["sha256"]                   # optional: of imprint and signature; any that polledger accepts if absent
not_before = 2020-01-01T00:00:00Z     # optional: genTime from here
not_after = 2030-01-01T00:00:00Z      # optional: genTime up to here
interval = 15.0                       # optional: seconds between two requests, at least
revocation = ["example.crl"]          # optional: CRLs and OCSP responses that the verifier holds

[[witness]]
name = "witness.example"
operator = "Example Ltd"
key = "witness.example+1a2b3c4d+…"    # C2SP vkey
url = "https://witness.example/"      # optional
"""

import difflib
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from polledger.core.cosignature import WitnessKey, parse_witness_key
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.timestamp import der
from polledger.timestamp.address import USABLE, split_url
from polledger.timestamp.algorithms import HASH_OIDS
from polledger.timestamp.certificates import given_certificate, is_issued, read_pem

TRUST_BYTES: Final = 1 << 20
"""Largest trust or PEM file read; a chain has a few kilobytes."""

REVOCATION_BYTES: Final = 1 << 24
"""Largest CRL or OCSP response read; lists of large authorities have a few MiB."""

NAME_CHARACTERS: Final = 256
"""Longest name of an entry: it labels tokens in seals, which hold no longer ones."""

LONGEST_INTERVAL: Final = timedelta(days=1)
"""Seals of one run are minutes apart: an authority that wants to be asked less often serves no run."""

RESERVED_NAME: Final = "embedded"
"""What ``--tsa`` calls the authority of the machine itself; no entry may pass for it."""

_AUTHORITY_KEYS: Final = (
    "name", "operator", "url", "roots", "intermediates", "policies", "hashes", "not_before", "not_after",
    "interval", "revocation",
)  # fmt: skip
_WITNESS_KEYS: Final = ("name", "operator", "key", "url")


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationFile:
    """A CRL or OCSP response that the verifier holds, DER or PEM as it lay in the file; nothing in it is checked."""

    path: Path
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustEntry:
    """One authority. genTime counts from ``not_before`` to ``not_after``, both included; None is open.

    Without ``roots`` it can be asked and vouches for nothing. ``policies`` and ``hashes``: any accepted one if empty.
    """

    name: str
    operator: str
    url: str
    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...]
    policies: tuple[str, ...]
    not_before: datetime | None
    not_after: datetime | None
    hashes: tuple[str, ...] = ()
    interval: timedelta | None = None
    revocation: tuple[RevocationFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessEntry:
    """One witness. ``url``, the submission prefix of C2SP tlog-witness, is empty if it cannot be asked."""

    name: str
    operator: str
    key: WitnessKey
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The entries of a trust file, names unique. How many operators must agree is the policy's to say."""

    entries: tuple[TrustEntry, ...] = ()
    witnesses: tuple[WitnessEntry, ...] = ()


def load_trust(path: Path) -> Trust:
    """The trust file at ``path`` with the files it names.

    Raises UsageError, naming file and entry, for anything missing, unknown or malformed; Unavailable for files
    that cannot be read.
    """
    try:
        table = tomllib.loads(_read(path, TRUST_BYTES).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError, UnicodeDecodeError, and what tomllib lets through: a number of thousands of digits.
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    _refuse_unknown(table, ("authority", "witness"), f"{path}")
    authorities, witnesses = (_tables(table, kind, path) for kind in ("authority", "witness"))
    if not authorities and not witnesses:
        raise UsageError(f"{path}: there is no [[authority]] and no [[witness]]")
    entries = tuple(_authority(entry) for entry in authorities)
    _refuse_shared_roots(entries, path)
    found = tuple(_witness(entry) for entry in witnesses)
    _refuse_shared_keys(found, path)
    return Trust(entries=entries, witnesses=found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """One entry as TOML gave it. ``where`` names file and entry in every message."""

    values: dict[str, Any]
    where: str
    directory: Path

    def text(self, key: str) -> str:
        value = self.values.get(key, "")
        if not isinstance(value, str):
            raise UsageError(f"{self.where}: {key} is not a string")
        if not value.isprintable():
            raise UsageError(f"{self.where}: {key} holds a character that cannot be printed")
        return value.strip()

    def required(self, key: str) -> str:
        value = self.text(key)
        if not value:
            raise UsageError(f"{self.where}: {key} is required")
        return value

    def url(self) -> str:
        value = self.text("url")
        if value:
            try:
                split_url(value)
            except UsageError:
                raise UsageError(f"{self.where}: url is not {USABLE}") from None
        return value

    def texts(self, key: str) -> list[str]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise UsageError(f"{self.where}: {key} is not a list")
        if not all(isinstance(item, str) and item for item in value):
            raise UsageError(f"{self.where}: {key} holds something that is not a string")
        if not all(item.isprintable() for item in value):
            raise UsageError(f"{self.where}: {key} holds a character that cannot be printed")
        return value

    def time(self, key: str) -> datetime | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise UsageError(f"{self.where}: {key} is not a time with zone, like 2030-01-01T00:00:00Z")
        return value

    def duration(self, key: str) -> timedelta | None:
        value = self.values.get(key)
        if value is None:
            return None
        longest = LONGEST_INTERVAL.total_seconds()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= longest:
            raise UsageError(f"{self.where}: {key} is not a number of seconds from 0 to {longest:g}")
        return timedelta(seconds=value)

    def hashes(self) -> tuple[str, ...]:
        names = self.texts("hashes")
        for name in names:
            if name not in HASH_OIDS:
                raise UsageError(f"{self.where}: hashes: {name!r} is not one of {', '.join(HASH_OIDS)}")
        return tuple(names)

    def policies(self) -> tuple[str, ...]:
        names = self.texts("policies")
        for name in names:
            try:
                der.oid(name)
            except UsageError as error:
                raise UsageError(f"{self.where}: policies: {error}") from None
        return tuple(names)

    def certificates(self, key: str) -> tuple[x509.Certificate, ...]:
        found: list[x509.Certificate] = []
        for path in self._paths(key):
            try:
                found += read_pem(self._file(key, path, TRUST_BYTES))
            except MalformedError as error:
                raise UsageError(f"{self.where}: {key}: {path}: {error}") from None
        return tuple(found)

    def revocation(self) -> tuple[RevocationFile, ...]:
        key = "revocation"
        return tuple(
            RevocationFile(path=path, data=self._file(key, path, REVOCATION_BYTES))
            for path in self._paths(key)
        )

    def _paths(self, key: str) -> list[Path]:
        return [self.directory / name for name in self.texts(key)]

    def _file(self, key: str, path: Path, limit: int) -> bytes:
        try:
            return _read(path, limit)
        except (UsageError, Unavailable) as error:
            raise type(error)(f"{self.where}: {key}: {error}") from None


def _tables(table: dict[str, Any], kind: str, path: Path) -> list[_Table]:
    """The entries of one kind, their names unique."""
    entries = table.get(kind, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: {kind} is not a list of tables, written [[{kind}]]")
    found, names = [], set()
    for number, values in enumerate(entries, 1):
        name = values.get("name")
        label = f" ({name!r})" if isinstance(name, str) and name else ""
        found.append(_Table(values=values, where=f"{path}: {kind} {number}{label}", directory=path.parent))
        name = found[-1].required("name")
        if name in names:
            raise UsageError(f"{found[-1].where}: another {kind} has the same name")
        names.add(name)
    return found


def _authority(table: _Table) -> TrustEntry:
    _refuse_unknown(table.values, _AUTHORITY_KEYS, table.where)
    entry = TrustEntry(
        name=_name(table),
        operator=table.required("operator"),
        url=table.url(),
        roots=table.certificates("roots"),
        intermediates=table.certificates("intermediates"),
        policies=table.policies(),
        not_before=table.time("not_before"),
        not_after=table.time("not_after"),
        hashes=table.hashes(),
        interval=table.duration("interval"),
        revocation=table.revocation(),
    )
    if not entry.roots and not entry.url:
        raise UsageError(
            f"{table.where}: without roots it vouches for nothing, without url it cannot be asked"
        )
    if entry.not_before and entry.not_after and entry.not_before > entry.not_after:
        raise UsageError(f"{table.where}: not_before lies after not_after")
    return entry


def _name(table: _Table) -> str:
    name = table.required("name")
    if len(name) > NAME_CHARACTERS:
        raise UsageError(f"{table.where}: name has more than {NAME_CHARACTERS} characters")
    if name == RESERVED_NAME or "://" in name:
        raise UsageError(f"{table.where}: name is {RESERVED_NAME!r} or a URL, which --tsa reads otherwise")
    return name


def _witness(table: _Table) -> WitnessEntry:
    _refuse_unknown(table.values, _WITNESS_KEYS, table.where)
    try:
        key = parse_witness_key(table.required("key"))
    except UsageError as error:
        raise UsageError(f"{table.where}: key: {error}") from None
    return WitnessEntry(
        name=table.required("name"), operator=table.required("operator"), key=key, url=table.url()
    )


def _refuse_unknown(values: dict[str, Any], known: Collection[str], where: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5) or sorted(known)
            raise UsageError(f"{where}: unknown key {key!r}; near: {', '.join(near)}")


def _refuse_shared_roots(entries: Sequence[TrustEntry], path: Path) -> None:
    """One signer must not count as two operators: under one root only disjoint policies tell operators apart.

    The prover chooses which certificates come beside a token, and so to which of two roots it leads.
    """
    for one, other in combinations(entries, 2):
        if operator_key(one.operator) == operator_key(other.operator) or _disjoint(one, other):
            continue
        if _leads_to(one.roots, other) or _leads_to(other.roots, one):
            raise UsageError(
                f"{path}: {one.name!r} and {other.name!r} share a root, or a root of one leads to the other, but have "
                "different operators; give each the policies that tell them apart"
            )


def _refuse_shared_keys(witnesses: Sequence[WitnessEntry], path: Path) -> None:
    """One signer must not count twice: the signed message does not say under which name it was signed."""
    for one, other in combinations(witnesses, 2):
        if one.key.key == other.key.key:
            raise UsageError(f"{path}: the witnesses {one.name!r} and {other.name!r} have the same key")


def _leads_to(roots: Sequence[x509.Certificate], entry: TrustEntry) -> bool:
    """Whether one of ``roots`` has the key of a certificate of ``entry``, or was issued by one."""
    certificates = [given_certificate(one) for one in (*entry.roots, *entry.intermediates)]
    return any(
        root.key == one.key or is_issued(root, by=one)
        for root in map(given_certificate, roots)
        for one in certificates
    )


def _disjoint(one: TrustEntry, other: TrustEntry) -> bool:
    return bool(one.policies and other.policies) and not set(one.policies) & set(other.policies)


def operator_key(operator: str) -> str:
    """What makes two operators one for a quorum: the same name, however it is spaced or capitalised."""
    return " ".join(operator.split()).casefold()


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, not a file") from None
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > limit:
        raise UsageError(f"{path} has more than {limit} bytes")
    return data
