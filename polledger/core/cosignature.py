"""Cosignatures of witnesses over tree heads: C2SP tlog-cosignature v1, Ed25519. PROTOCOL sections 1 and 7.

A witness states that the head belongs to the largest tree it has seen of this run, consistent with all it signed
before, and when it looked. It sees roots and sizes only. Its time is the clock of a machine: information, and no
timestamp.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from polledger.core.digest import require_digest
from polledger.core.head import SignatureInvalid, key_id, parse_signature, verifier_key
from polledger.core.records import COSIGNATURE_BYTES
from polledger.errors import MalformedError, UsageError

COSIGNATURE_ED25519: Final = b"\x04"
"""Signature type of C2SP signed notes: a timestamped Ed25519 cosignature."""

NAME_BYTES: Final = 256

RESPONSE_BYTES: Final = 1 << 16
RESPONSE_LINES: Final = 64
"""Largest answer of a witness that is read; it may sign with several keys, a post-quantum line takes 3.3 kB."""

_LATEST: Final = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
_TIME_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64

_VKEY: Final = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})")


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessKey:
    """The name and raw Ed25519 key of a witness. Raises UsageError for a name or key that no note can carry."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        require_digest(self.key, "an Ed25519 public key")
        if not re.fullmatch(r"[^\s+]+", self.name) or len(self.name.encode()) > NAME_BYTES:
            raise UsageError(
                f"a witness has a name of 1 to {NAME_BYTES} bytes without spaces and +, not {self.name[:80]!r}"
            )

    @property
    def key_id(self) -> bytes:
        """The 4 bytes by which its signature lines name it."""
        return key_id(self.name, self.key, kind=COSIGNATURE_ED25519)

    def vkey(self) -> str:
        """The key as C2SP writes it."""
        return verifier_key(self.name, self.key, kind=COSIGNATURE_ED25519)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosignature:
    """One cosignature line. Nothing in it has been checked; ``seconds`` is its time since 1970 UTC."""

    name: str
    key_id: bytes
    seconds: int
    signature: bytes

    @property
    def time(self) -> datetime:
        """When the witness says it signed."""
        return datetime.fromtimestamp(self.seconds, UTC)

    def is_by(self, witness: WitnessKey) -> bool:
        """Whether the line names ``witness`` and its key: a claim, not a proof."""
        return (self.name, self.key_id) == (witness.name, witness.key_id)


def parse_witness_key(vkey: str) -> WitnessKey:
    """The key in a C2SP vkey. Raises UsageError with the reason unless it is an Ed25519 cosignature key."""
    match = _VKEY.fullmatch(vkey)
    if match is None:
        raise UsageError("a witness key is written name+8 hexadecimal digits+44 characters of base64")
    name, identity, encoded = match.groups()
    try:
        blob = b64decode(encoded, validate=True)
    except Base64Error:
        raise UsageError("the base64 of a witness key cannot be read") from None
    kind, key = blob[:1], blob[1:]
    if kind != COSIGNATURE_ED25519:
        raise UsageError(
            f"a witness key has type 04 (Ed25519 cosignatures), this one has type {kind.hex()}: "
            "other kinds are not part of this version"
        )
    found = WitnessKey(name=name, key=key)
    if found.key_id.hex() != identity:
        raise UsageError(f"the witness key {name} is damaged: its id is {found.key_id.hex()}, not {identity}")
    return found


def parse_cosignature(line: bytes) -> Cosignature:
    """Read a cosignature line, its newline included, from outside.

    Raises MalformedError on everything but the one canonical spelling, within COSIGNATURE_BYTES, of an Ed25519
    cosignature with a time from 1970 to 9999. Checks no signature.
    """
    if len(line) > COSIGNATURE_BYTES:
        raise MalformedError(f"a cosignature line has at most {COSIGNATURE_BYTES} bytes, found {len(line)}")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError("a cosignature line is not UTF-8") from None
    if not text.endswith("\n"):
        raise MalformedError("a cosignature line does not end in a newline")
    parsed = parse_signature(text[:-1])
    if any(character < " " for character in parsed.name):
        raise MalformedError("a cosignature line has a control character")
    blob = parsed.signature
    if len(blob) != _TIME_BYTES + _SIGNATURE_BYTES:
        raise MalformedError("a cosignature is not a time and an Ed25519 signature")
    seconds = int.from_bytes(blob[:_TIME_BYTES], "big")
    if not 0 < seconds <= _LATEST:
        raise MalformedError(f"a cosignature states {seconds} s since 1970, which is no time")
    return Cosignature(name=parsed.name, key_id=parsed.key_id, seconds=seconds, signature=blob[_TIME_BYTES:])


def verify_cosignature(cosignature: Cosignature, *, witness: WitnessKey, text: bytes) -> None:
    """Check that ``witness`` cosigned the head with this ``text`` at the time that the line states.

    Raises SignatureInvalid, also for a line that names another key. Does not check the time against any clock, nor
    that the text is a head.
    """
    if not cosignature.is_by(witness):
        raise SignatureInvalid(f"the cosignature is not by the key of {witness.name}")
    try:
        Ed25519PublicKey.from_public_bytes(witness.key).verify(
            cosignature.signature, cosigned_message(cosignature.seconds, text)
        )
    except InvalidSignature:
        raise SignatureInvalid(f"the cosignature of {witness.name} does not hold for this head") from None


def cosigned_message(seconds: int, text: bytes) -> bytes:
    """What a witness signs over the head with this ``text``."""
    return b"cosignature/v1\ntime %d\n" % seconds + text


def split_lines(body: bytes) -> list[bytes]:
    """The signature lines of a witness's answer, each with its newline, none of them parsed.

    Raises MalformedError above RESPONSE_BYTES or RESPONSE_LINES, for an empty answer or one that ends mid-line.
    """
    if len(body) > RESPONSE_BYTES:
        raise MalformedError(f"an answer of a witness has at most {RESPONSE_BYTES} bytes, found {len(body)}")
    if not body.endswith(b"\n"):
        raise MalformedError("an answer of a witness does not end in a newline")
    lines = body[:-1].split(b"\n")
    if len(lines) > RESPONSE_LINES:
        raise MalformedError(f"an answer of a witness has at most {RESPONSE_LINES} lines, found {len(lines)}")
    return [line + b"\n" for line in lines]
