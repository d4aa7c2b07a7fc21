"""TSTInfo: the signed statement inside a timestamp token. RFC 3161 section 2.4.2, PROTOCOL section 8."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from polledger.errors import MalformedError
from polledger.timestamp import der
from polledger.timestamp.algorithms import read_hash

CONTENT_TYPE: Final = "1.2.840.113549.1.9.16.1.4"
"""id-ct-TSTInfo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TSTInfo:
    """The fields of a TSTInfo. ``tsa`` is the raw GeneralName, absent as None; times are UTC."""

    policy: str
    hash_name: str
    imprint: bytes
    serial: int
    gen_time: datetime
    accuracy: timedelta | None
    ordering: bool
    nonce: int | None
    tsa: bytes | None


@lru_cache(maxsize=16)
def parse_tst_info(data: bytes) -> TSTInfo:
    """The TSTInfo that ``data`` is. Raises MalformedError for other versions and for critical extensions."""
    reader = der.read_one(data, der.SEQUENCE, "TSTInfo")
    if der.read_integer(reader.take(der.INTEGER), "TSTInfo version") != 1:
        raise MalformedError("TSTInfo: only version 1 is known")
    policy = der.read_oid(reader.take(der.OBJECT_IDENTIFIER), "TSTInfo policy")
    hash_name, imprint = read_imprint(reader)
    serial = der.read_integer(reader.take(der.INTEGER), "TSTInfo serial number")
    gen_time = der.read_time(reader.take(der.GENERALIZED_TIME), "TSTInfo genTime")
    accuracy = _read_accuracy(reader)
    ordering = _read_ordering(reader)
    nonce = reader.optional(der.INTEGER)
    tsa = reader.optional(der.context(0))
    extensions = reader.optional(der.context(1))
    reader.end()
    if extensions is not None:
        refuse_critical(extensions, "TSTInfo")
    return TSTInfo(
        policy=policy,
        hash_name=hash_name,
        imprint=imprint,
        serial=serial,
        gen_time=gen_time,
        accuracy=accuracy,
        ordering=ordering,
        nonce=None if nonce is None else der.read_integer(nonce, "TSTInfo nonce"),
        tsa=None if tsa is None else tsa.content,
    )


def read_imprint(reader: der.Reader) -> tuple[str, bytes]:
    """Hash name and digest of the MessageImprint that comes next. Does not check that the two fit."""
    inner = reader.inner(der.SEQUENCE, f"{reader.what} message imprint")
    hash_name = read_hash(inner)
    digest = inner.take(der.OCTET_STRING).content
    inner.end()
    return hash_name, digest


def _read_accuracy(reader: der.Reader) -> timedelta | None:
    value = reader.optional(der.SEQUENCE)
    if value is None:
        return None
    inner = der.Reader(value.content, "TSTInfo accuracy")
    seconds = _part(inner, der.INTEGER, 0, 2**31)
    millis = _part(inner, der.implicit(0), 1, 999)
    micros = _part(inner, der.implicit(1), 1, 999)
    inner.end()
    return timedelta(seconds=seconds, milliseconds=millis, microseconds=micros)


def _part(reader: der.Reader, tag: int, low: int, high: int) -> int:
    value = reader.optional(tag)
    if value is None:
        return 0
    number = der.read_integer(value, reader.what)
    if not low <= number <= high:
        raise MalformedError(f"{reader.what}: {number} is not within {low} … {high}")
    return number


def _read_ordering(reader: der.Reader) -> bool:
    value = reader.optional(der.BOOLEAN)
    if value is None:
        return False
    if not der.read_boolean(value, "TSTInfo ordering"):
        raise MalformedError("TSTInfo ordering: a default value is encoded")
    return True


def refuse_critical(extensions: der.Value, what: str) -> None:
    """Walk an Extensions field (implicitly tagged). Raises MalformedError if one is critical: none is known here."""
    for name, critical in read_extensions(extensions, what).items():
        if critical:
            raise MalformedError(f"{what}: critical extension {name} is not known")


def read_extensions(extensions: der.Value, what: str) -> dict[str, bool]:
    """Whether each extension in an Extensions field (implicitly tagged) is critical; their values are only framed."""
    reader = der.Reader(extensions.content, f"{what} extensions")
    if reader.at_end():
        raise MalformedError(f"{reader.what}: there is none in it")
    found: dict[str, bool] = {}
    for value in reader.all():
        if value.tag != der.SEQUENCE:
            raise MalformedError(f"{reader.what}: not a sequence of extensions")
        inner = der.Reader(value.content, reader.what)
        name = der.read_oid(inner.take(der.OBJECT_IDENTIFIER), inner.what)
        if name in found:
            raise MalformedError(f"{reader.what}: {name} is present twice")
        critical = inner.optional(der.BOOLEAN)
        if critical is not None and not der.read_boolean(critical, inner.what):
            raise MalformedError(f"{reader.what}: a default value is encoded")
        found[name] = critical is not None
        inner.take(der.OCTET_STRING)
        inner.end()
    return found
