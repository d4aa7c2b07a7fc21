"""Tree heads: a C2SP tlog-checkpoint in a C2SP signed note. PROTOCOL section 7.

The text of a head is five lines; the note is the text, an empty line and one line per signature. Only the
signature of the run's key counts here. Others (cosignatures of witnesses, further keys) may follow and
are ignored.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from polledger.core.digest import require_digest, sha256
from polledger.errors import MalformedError, UsageError

NOTE_BYTES = 1 << 17
"""Largest note accepted: C2SP asks for room for 16 signatures, and a post-quantum one takes up to 7 kB."""

SIZE_MAX = 2**53 - 1
"""Largest tree size: record indices are PL-MP/1 integers."""

RUN_BYTES = 16

ED25519 = b"\x01"
"""Signature type of C2SP signed notes: plain Ed25519 over the text."""

KEY_ID_BYTES = 4

_ORIGIN = "polledger/run/"

# Admits several spellings of one meaning (leading zeros, base64 padding bits): the parsed head is written
# again and compared, so that only one spelling passes.
_TEXT = re.compile(
    r"polledger/run/([0-9a-f]{32})\n"
    r"([0-9]{1,16})\n"
    r"([A-Za-z0-9+/]{43}=)\n"
    r"chainpoint ([A-Za-z0-9+/]{43}=)\n"
    r"previous ([0-9a-f]{64})\n"
)

_SIGNATURE_LINE = re.compile(r"\u2014 ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")


class SignatureInvalid(MalformedError):
    """The note is well-formed but carries no valid signature of the expected key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a seal signs: the tree of one run at one size.

    ``root`` is the RFC 9162 root, ``chainpoint`` the root of the same leaf hashes under merkletools'
    node, ``previous`` the digest of the previous head (32 zero bytes before the first). Raises UsageError
    when ``run`` does not have 16 bytes, a digest does not have 32 or ``size`` is outside 1 … 2^53−1.
    """

    run: bytes
    size: int
    root: bytes
    chainpoint: bytes
    previous: bytes

    def __post_init__(self) -> None:
        if len(self.run) != RUN_BYTES:
            raise UsageError(f"a run id has {RUN_BYTES} bytes, found {len(self.run)}")
        if not 1 <= self.size <= SIZE_MAX:
            raise UsageError(f"tree size {self.size} is outside 1 … 2^53−1")
        for name in ("root", "chainpoint", "previous"):
            require_digest(getattr(self, name), name)

    @property
    def origin(self) -> str:
        """First line of the text and name of the key that signs it."""
        return _ORIGIN + self.run.hex()

    def text(self) -> bytes:
        """The five lines, each ending in a newline: what is signed and hashed."""
        return (
            f"{self.origin}\n"
            f"{self.size}\n"
            f"{_base64(self.root)}\n"
            f"chainpoint {_base64(self.chainpoint)}\n"
            f"previous {self.previous.hex()}\n"
        ).encode()

    def digest(self) -> bytes:
        """SHA-256 of the text: the imprint of timestamps, ``previous`` of the next head."""
        return sha256(self.text())


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line: the key's name, its 4-byte id, and the signature in the key's own format."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedNote:
    """A parsed note. No signature in it has been checked."""

    head: Head
    text: bytes
    signatures: tuple[NoteSignature, ...]


def key_id(name: str, key: bytes, *, kind: bytes = ED25519) -> bytes:
    """First 4 bytes of SHA-256(name ‖ 0x0A ‖ kind ‖ public key): a hint at the signer, not a proof.

    ``kind`` is the signature type of C2SP signed notes.
    """
    return sha256(name.encode() + b"\n" + kind + key)[:KEY_ID_BYTES]


def verifier_key(name: str, key: bytes, *, kind: bytes = ED25519) -> str:
    """The C2SP vkey of a public key: ``name+key id in hex+base64(kind ‖ key)``."""
    return f"{name}+{key_id(name, key, kind=kind).hex()}+{_base64(kind + key)}"


def sign_head(head: Head, key: Ed25519PrivateKey) -> bytes:
    """The signed note of ``head`` with one signature, by ``key`` under the name of the origin line."""
    text = head.text()
    identity = key_id(head.origin, key.public_key().public_bytes_raw())
    line = f"\u2014 {head.origin} {_base64(identity + key.sign(text))}\n"
    return text + b"\n" + line.encode()


def parse_note(note: bytes) -> SignedNote:
    """Read a note from outside.

    Guarantees that ``head.text()`` equals the signed text byte for byte. Raises MalformedError on every
    spelling but the canonical one and above NOTE_BYTES. Checks no signature.
    """
    if len(note) > NOTE_BYTES:
        raise MalformedError(f"a note has at most {NOTE_BYTES} bytes, found {len(note)}")
    try:
        decoded = note.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError("a note is not UTF-8") from None
    if any(character < " " and character != "\n" for character in decoded):
        raise MalformedError("a note has a control character")
    # C2SP: the last empty line separates. A head's text has none: without or with a second one it does not parse.
    text, _, lines = decoded.rpartition("\n\n")
    head = _parse_text(text + "\n")
    return SignedNote(head=head, text=head.text(), signatures=_parse_signatures(lines))


def open_note(note: bytes, *, key: bytes) -> Head:
    """The head of a note signed by the raw Ed25519 public key ``key`` under the name of the origin line.

    Other keys' signatures are ignored. Raises MalformedError where :func:`parse_note` does; its subclass
    SignatureInvalid unless exactly one line carries the key's name and id and its signature holds; UsageError
    when ``key`` does not have 32 bytes. Does not check that the run is the expected one.
    """
    public = Ed25519PublicKey.from_public_bytes(require_digest(key, "an Ed25519 public key"))
    parsed = parse_note(note)
    name = parsed.head.origin
    wanted = (name, key_id(name, key))
    found = [line.signature for line in parsed.signatures if (line.name, line.key_id) == wanted]
    if len(found) != 1:
        raise SignatureInvalid(f"{name}: expected one signature by the run's key, found {len(found)}")
    try:
        public.verify(found[0], parsed.text)
    except InvalidSignature:
        raise SignatureInvalid(f"{name}: the signature at size {parsed.head.size} does not hold") from None
    return parsed.head


def _parse_text(text: str) -> Head:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise MalformedError("a tree head is not the five lines origin, size, root, chainpoint, previous")
    run, size, root, chainpoint, previous = match.groups()
    if not 1 <= int(size) <= SIZE_MAX:
        raise MalformedError(f"tree size {size} is outside 1 … 2^53−1")
    head = Head(
        run=bytes.fromhex(run),
        size=int(size),
        root=b64decode(root),
        chainpoint=b64decode(chainpoint),
        previous=bytes.fromhex(previous),
    )
    if head.text() != text.encode():
        raise MalformedError("a tree head has a leading zero or stray base64 bits")
    return head


def _parse_signatures(lines: str) -> tuple[NoteSignature, ...]:
    if not lines.endswith("\n"):
        raise MalformedError("a note does not end in a signature line and a newline")
    split = lines[:-1].split("\n")
    if len(set(split)) != len(split):
        raise MalformedError("a note repeats a signature line")
    return tuple(parse_signature(line) for line in split)


def parse_signature(line: str) -> NoteSignature:
    """One signature line without its newline. Raises MalformedError on every spelling but the canonical one."""
    match = _SIGNATURE_LINE.fullmatch(line)
    if match is None:
        raise MalformedError("a signature line is not: em dash, key name, base64")
    name, encoded = match.groups()
    try:
        blob = b64decode(encoded, validate=True)
    except Base64Error:
        raise MalformedError("a signature is not base64") from None
    if _base64(blob) != encoded:
        raise MalformedError("a signature is not in canonical base64")
    if len(blob) <= KEY_ID_BYTES:
        raise MalformedError("a signature line carries no signature")
    return NoteSignature(name=name, key_id=blob[:KEY_ID_BYTES], signature=blob[KEY_ID_BYTES:])


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
