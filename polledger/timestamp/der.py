"""Strict DER: the subset of X.690 that timestamp tokens, requests and certificates are framed in.

Reading accepts one encoding per value: definite lengths in their shortest form, one-byte tags, minimal integers,
TRUE as 0xFF, no trailing bytes. Structures are walked field by field; nothing is decoded recursively, so depth
is bounded by the caller's code. Every reader raises MalformedError, every writer UsageError for values it cannot
carry. Not checked: the order of SET OF (callers who need it compare themselves).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from polledger.errors import MalformedError, UsageError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
UTF8_STRING: Final = 0x0C
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

LENGTH_OCTETS: Final = 4
"""Most octets a length may take: 4 GiB, far above every limit on the input as a whole."""

INTEGER_BYTES: Final = 64
"""Longest INTEGER read: serial numbers end at 20 bytes, nonces of real authorities at 32."""

OID_BYTES: Final = 64
"""Longest OBJECT IDENTIFIER read: those in use end at about 30, with an arc of a UUID. A number of thousands of digits
would cost its square in time, and Python writes none."""

OID_CHARACTERS: Final = 4 * OID_BYTES
"""Longest text of one: no byte of it takes more than three digits and a dot."""

_TIME = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.(\d{0,8}[1-9]))?Z")


def implicit(number: int) -> int:
    """Tag of a primitive field ``[number] IMPLICIT``."""
    return 0x80 | number


def context(number: int) -> int:
    """Tag of a constructed field ``[number]``, explicit, or implicit over a SEQUENCE or SET."""
    return 0xA0 | number


@dataclass(frozen=True, slots=True)
class Value:
    """One tag-length-value. ``raw`` is the whole encoding, ``content`` what the length covers."""

    tag: int
    raw: bytes
    content: bytes


class Reader:
    """Reads the values in ``data`` one after the other; ``what`` names the structure in error messages."""

    __slots__ = ("_data", "_position", "what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._position = 0
        self.what = what

    def at_end(self) -> bool:
        return self._position == len(self._data)

    def next(self) -> Value:
        """The next value of any tag."""
        data, start = self._data, self._position
        if start + 2 > len(data):
            raise MalformedError(f"{self.what}: {'truncated' if start < len(data) else 'a field is missing'}")
        tag, length, content = data[start], data[start + 1], start + 2
        if tag & 0x1F == 0x1F:
            raise MalformedError(f"{self.what}: a tag of more than one byte")
        if length >= 0x80:
            length, content = self._long_length(start)
        end = content + length
        if end > len(data):
            raise MalformedError(f"{self.what}: truncated")
        self._position = end
        return Value(tag, data[start:end], data[content:end])

    def _long_length(self, start: int) -> tuple[int, int]:
        count = self._data[start + 1] & 0x7F
        content = start + 2 + count
        octets = self._data[start + 2 : content]
        if not 0 < count <= LENGTH_OCTETS or len(octets) != count:
            raise MalformedError(f"{self.what}: a length is indefinite, too long or truncated")
        length = int.from_bytes(octets, "big")
        if length < 0x80 or octets[0] == 0:
            raise MalformedError(f"{self.what}: a length is not in its shortest form")
        return length, content

    def take(self, tag: int) -> Value:
        """The next value, which must have ``tag``."""
        value = self.next()
        if value.tag != tag:
            raise MalformedError(f"{self.what}: expected tag 0x{tag:02x}, found 0x{value.tag:02x}")
        return value

    def optional(self, tag: int) -> Value | None:
        """The next value if it has ``tag``."""
        if self._position < len(self._data) and self._data[self._position] == tag:
            return self.next()
        return None

    def inner(self, tag: int, what: str | None = None) -> "Reader":
        """A reader over the content of the next value, which must have ``tag``."""
        return Reader(self.take(tag).content, what or self.what)

    def end(self) -> None:
        """Raise MalformedError if anything is left."""
        if not self.at_end():
            raise MalformedError(
                f"{self.what}: {len(self._data) - self._position} bytes after the last field"
            )

    def all(self) -> list[Value]:
        """The values that are left."""
        values = []
        while not self.at_end():
            values.append(self.next())
        return values


def read_one(data: bytes, tag: int, what: str) -> Reader:
    """A reader over the content of the one value that ``data`` is; it must have ``tag``."""
    outer = Reader(data, what)
    inner = outer.inner(tag)
    outer.end()
    return inner


def read_integer(value: Value, what: str) -> int:
    """The number in an INTEGER (or an implicitly tagged one): two's complement, shortest form."""
    content = value.content
    if not content or len(content) > INTEGER_BYTES:
        raise MalformedError(f"{what}: an integer of {len(content)} bytes")
    if len(content) > 1 and (content[0], content[1] >> 7) in ((0x00, 0), (0xFF, 1)):
        raise MalformedError(f"{what}: an integer is not in its shortest form")
    return int.from_bytes(content, "big", signed=True)


def read_boolean(value: Value, what: str) -> bool:
    if value.content not in (b"\x00", b"\xff"):
        raise MalformedError(f"{what}: a boolean is neither 00 nor FF")
    return value.content == b"\xff"


def read_oid(value: Value, what: str) -> str:
    """The dotted form of an OBJECT IDENTIFIER."""
    content = value.content
    if not content or content[-1] & 0x80:
        raise MalformedError(f"{what}: an object identifier is empty or truncated")
    if len(content) > OID_BYTES:
        raise MalformedError(f"{what}: an object identifier of {len(content)} bytes")
    text = _dotted(content)
    if text is None:
        raise MalformedError(f"{what}: an object identifier is not in its shortest form")
    return text


@lru_cache(maxsize=128)
def _dotted(content: bytes) -> str | None:
    """The text of the arcs; None if one of them begins with zeros. A token has a dozen, the same in each token."""
    arcs: list[int] = []
    number, fresh = 0, True
    for byte in content:
        if fresh and byte == 0x80:
            return None
        number = number << 7 | byte & 0x7F
        fresh = byte < 0x80
        if fresh:
            arcs.append(number)
            number = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def read_octets_of_bits(value: Value, what: str) -> bytes:
    """The octets of a BIT STRING that holds whole octets (a signature, a key)."""
    if not value.content or value.content[0] != 0:
        raise MalformedError(f"{what}: a bit string does not hold whole octets")
    return value.content[1:]


def read_named_bits(value: Value, what: str) -> list[int]:
    """Numbers of the bits set in a named BIT STRING; trailing zeros are refused, as DER demands."""
    content = value.content
    if not content or content[0] > 7 or (len(content) == 1 and content[0]):
        raise MalformedError(f"{what}: a bit string has a wrong count of unused bits")
    length = 8 * (len(content) - 1) - content[0]
    number = int.from_bytes(content[1:], "big")
    if number & ((1 << content[0]) - 1) or (length and not number >> content[0] & 1):
        raise MalformedError(f"{what}: a named bit string has trailing zeros or unused bits that are set")
    return [bit for bit in range(length) if number >> (8 * (len(content) - 1) - 1 - bit) & 1]


def read_time(value: Value, what: str) -> datetime:
    """A GeneralizedTime in the DER form of RFC 3161 section 2.4.2: seconds always, fraction without final zeros, Z.

    Fractions finer than a microsecond are rounded up: a timestamp is an upper bound. Leap seconds are refused.
    """
    match = _TIME.fullmatch(value.content)
    if match is None:
        raise MalformedError(f"{what}: the time is not in DER form")
    fraction = match[7] or b""
    micros = -(-int(fraction) * 1_000_000 // 10 ** len(fraction)) if fraction else 0
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        return moment + timedelta(microseconds=micros)
    except (ValueError, OverflowError):
        raise MalformedError(f"{what}: the time does not exist") from None


def encode(tag: int, *contents: bytes) -> bytes:
    """One value with ``tag`` whose content is ``contents`` in order."""
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def sequence(*contents: bytes) -> bytes:
    return encode(SEQUENCE, *contents)


def set_of(*contents: bytes) -> bytes:
    """A SET OF: elements in ascending order of their encodings."""
    return encode(SET, *sorted(contents))


def integer(number: int, tag: int = INTEGER) -> bytes:
    size = (number if number >= 0 else ~number).bit_length() // 8 + 1
    return encode(tag, number.to_bytes(size, "big", signed=True))


def octets(data: bytes) -> bytes:
    return encode(OCTET_STRING, data)


def boolean(value: bool) -> bytes:
    return encode(BOOLEAN, b"\xff" if value else b"\x00")


def null() -> bytes:
    return b"\x05\x00"


def named_bit(bit: int) -> bytes:
    """A named BIT STRING with just this bit set."""
    return encode(BIT_STRING, bytes((7 - bit % 8,)) + bytes(bit // 8) + bytes((0x80 >> bit % 8,)))


@lru_cache(maxsize=128)
def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER. Raises UsageError unless ``dotted`` is one in its canonical text form."""
    if len(dotted) > OID_CHARACTERS:
        raise UsageError(
            f"an object identifier of {len(dotted)} characters, at most {OID_CHARACTERS} are read"
        )
    if not re.fullmatch(r"[012](\.(0|[1-9]\d*))+", dotted, re.ASCII):
        raise UsageError(f"not an object identifier: {dotted!r}")
    first, second, *rest = map(int, dotted.split("."))
    if first < 2 and second >= 40:
        raise UsageError(f"not an object identifier: {dotted!r}")
    return encode(OBJECT_IDENTIFIER, *map(_base128, (40 * first + second, *rest)))


def _base128(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(0x80 | number & 0x7F)
    return bytes(reversed(groups))


def time(moment: datetime) -> bytes:
    """A GeneralizedTime in DER form, down to the microsecond. Raises UsageError for a time without zone."""
    if moment.tzinfo is None:
        raise UsageError("a time needs a time zone")
    moment = moment.astimezone(UTC)
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    # strftime does not pad years below 1000 on every platform.
    text = f"{moment.year:04d}{moment:%m%d%H%M%S}{fraction}Z"
    return encode(GENERALIZED_TIME, text.encode("ascii"))
