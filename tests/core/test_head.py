"""Tree heads as C2SP signed notes: exact bytes, strict parsing, signatures."""

from base64 import b64decode, b64encode
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.core.digest import ZERO, sha256
from polledger.core.head import (
    NOTE_BYTES,
    SIZE_MAX,
    Head,
    SignatureInvalid,
    key_id,
    open_note,
    parse_note,
    sign_head,
)
from polledger.errors import MalformedError, UsageError
from tests.core.derivation import vectors

VECTOR = vectors("head")
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["private"]))
KEY = bytes.fromhex(VECTOR["key"])
NOTE = VECTOR["note"].encode()
TEXT = VECTOR["text"].encode()
HEAD = Head(
    run=bytes.fromhex(VECTOR["run"]),
    size=VECTOR["size"],
    root=bytes.fromhex(VECTOR["root"]),
    chainpoint=bytes.fromhex(VECTOR["chainpoint"]),
    previous=bytes.fromhex(VECTOR["previous"]),
)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER_KEY = OTHER.public_key().public_bytes_raw()


def signature_line(name: str, blob: bytes) -> bytes:
    return f"\u2014 {name} {b64encode(blob).decode()}\n".encode()


def note_of(text: bytes, *, name: str = HEAD.origin) -> bytes:
    """``text`` properly signed by the run's key, whatever it says."""
    return text + b"\n" + signature_line(name, key_id(name, KEY) + PRIVATE.sign(text))


def changed(old: str, new: str) -> bytes:
    """The head's text with one replacement."""
    text = TEXT.decode()
    assert text.count(old) == 1
    return text.replace(old, new).encode()


def test_text_digest_and_note_are_the_bytes_of_the_vector() -> None:
    assert HEAD.text() == TEXT
    assert HEAD.digest().hex() == VECTOR["digest"]
    assert HEAD.origin == "polledger/run/" + VECTOR["run"]
    assert key_id(HEAD.origin, KEY).hex() == VECTOR["key_id"]
    assert sign_head(HEAD, PRIVATE) == NOTE


def test_a_signed_head_opens_to_itself() -> None:
    assert open_note(NOTE, key=KEY) == HEAD
    first = replace(HEAD, size=1, previous=ZERO)
    assert open_note(sign_head(first, PRIVATE), key=KEY) == first


def test_parsing_gives_text_and_signatures_without_checking_them() -> None:
    junk = signature_line("witness.example/w", b"\x01\x02\x03\x04junk")
    parsed = parse_note(NOTE + junk)
    assert parsed.head == HEAD
    assert parsed.text == TEXT
    ours, theirs = parsed.signatures
    assert (ours.name, ours.key_id.hex(), len(ours.signature)) == (HEAD.origin, VECTOR["key_id"], 64)
    assert (theirs.name, theirs.key_id, theirs.signature) == (
        "witness.example/w",
        b"\x01\x02\x03\x04",
        b"junk",
    )


def test_key_id_and_signature_scheme_are_those_of_the_go_implementation() -> None:
    """The verifier key and the note printed in the documentation of golang.org/x/mod/sumdb/note."""
    name, identity, encoded = ["PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
    key = b64decode(encoded)
    assert key[:1] == b"\x01"
    assert key_id(name, key[1:]).hex() == identity
    text = (
        b"If you think cryptography is the answer to your problem,\n"
        b"then you don't know what your problem is.\n"
    )
    line = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    blob = b64decode(line)
    assert blob[:4].hex() == identity
    Ed25519PublicKey.from_public_bytes(key[1:]).verify(blob[4:], text)


@pytest.mark.parametrize(
    "field",
    [
        {"run": bytes(15)},
        {"run": bytes(17)},
        {"size": 0},
        {"size": -1},
        {"size": SIZE_MAX + 1},
        {"root": bytes(31)},
        {"chainpoint": bytes(33)},
        {"previous": b""},
    ],
    ids=str,
)
def test_a_head_out_of_bounds_cannot_be_made(field: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        replace(HEAD, **field)


def test_the_largest_size_is_accepted_and_the_next_refused() -> None:
    largest = replace(HEAD, size=SIZE_MAX)
    assert open_note(sign_head(largest, PRIVATE), key=KEY) == largest
    text = largest.text().replace(str(SIZE_MAX).encode(), str(SIZE_MAX + 1).encode())
    with pytest.raises(MalformedError, match="outside"):
        parse_note(note_of(text))


ROOT64 = b64encode(HEAD.root).decode()
CHAINPOINT64 = b64encode(HEAD.chainpoint).decode()
RUN = HEAD.run.hex()
PREVIOUS = HEAD.previous.hex()


def stray_bits(encoded: str) -> str:
    """The same 32 bytes with a bit set that decoding throws away."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    changed_last = alphabet[alphabet.index(encoded[-2]) | 1]
    assert b64decode(encoded[:-2] + changed_last + "=") == b64decode(encoded)
    return encoded[:-2] + changed_last + "="


BAD_TEXTS = {
    "other-origin": changed("polledger/run/", "polledger/ruin/"),
    "origin-uppercase": changed("polledger/run/", "Polledger/run/"),
    "run-uppercase": changed(RUN, RUN.upper()),
    "run-short": changed(RUN, RUN[:-2]),
    "run-long": changed(RUN, RUN + "00"),
    "size-leading-zero": changed("\n1234567\n", "\n01234567\n"),
    "size-zero": changed("\n1234567\n", "\n0\n"),
    "size-negative": changed("\n1234567\n", "\n-1234567\n"),
    "size-plus": changed("\n1234567\n", "\n+1234567\n"),
    "size-space": changed("\n1234567\n", "\n 1234567\n"),
    "size-underscore": changed("\n1234567\n", "\n1_234_567\n"),
    "size-hex": changed("\n1234567\n", "\n0x12d687\n"),
    "size-arabic-digits": changed("\n1234567\n", "\n١٢٣٤٥٦٧\n"),
    "size-empty": changed("\n1234567\n", "\n\n"),
    "size-huge": changed("\n1234567\n", "\n" + "9" * 5000 + "\n"),
    "root-stray-bits": changed(ROOT64, stray_bits(ROOT64)),
    "root-without-padding": changed(ROOT64, ROOT64[:-1]),
    "root-short": changed(ROOT64, b64encode(bytes(31)).decode()),
    "root-long": changed(ROOT64, b64encode(bytes(33)).decode()),
    "root-hex": changed(ROOT64, HEAD.root.hex()),
    "root-urlsafe": changed(ROOT64, "_" + ROOT64[1:]),
    "chainpoint-stray-bits": changed(CHAINPOINT64, stray_bits(CHAINPOINT64)),
    "chainpoint-other-keyword": changed("chainpoint ", "Chainpoint "),
    "chainpoint-two-spaces": changed("chainpoint ", "chainpoint  "),
    "chainpoint-missing": changed(f"chainpoint {CHAINPOINT64}\n", ""),
    "previous-uppercase": changed(PREVIOUS, PREVIOUS.upper()),
    "previous-short": changed(PREVIOUS, PREVIOUS[:-2]),
    "previous-missing": changed(f"previous {PREVIOUS}\n", ""),
    "lines-swapped": changed(
        f"chainpoint {CHAINPOINT64}\nprevious {PREVIOUS}\n",
        f"previous {PREVIOUS}\nchainpoint {CHAINPOINT64}\n",
    ),
    "line-repeated": changed(f"previous {PREVIOUS}\n", f"previous {PREVIOUS}\nprevious {PREVIOUS}\n"),
    "line-added": TEXT + b"extension\n",
    "line-before": b"extension\n" + TEXT,
    "empty-line-inside": changed("chainpoint ", "\nchainpoint "),
    "empty-line-at-the-end": TEXT + b"\n",
    "trailing-space": changed("\n1234567\n", "\n1234567 \n"),
    "carriage-returns": TEXT.replace(b"\n", b"\r\n"),
    "carriage-return": changed("\n1234567\n", "\n1234567\r\n"),
    "tab": changed("chainpoint ", "chainpoint\t"),
    "nul": changed("\n1234567\n", "\n1234567\0\n"),
    "line-separator": changed("\n1234567\n", "\n1234567\u2028"),
    "byte-order-mark": b"\xef\xbb\xbf" + TEXT,
    "no-final-newline": TEXT[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_head_spelled_otherwise_is_refused_although_signed(name: str) -> None:
    with pytest.raises(MalformedError) as caught:
        open_note(note_of(BAD_TEXTS[name]), key=KEY)
    # Refused for its spelling: the signature over these very bytes is good.
    assert not isinstance(caught.value, SignatureInvalid)


GOOD_LINE = NOTE[len(TEXT) + 1 :]
GOOD_BLOB = b64decode(GOOD_LINE.split()[2])


BAD_NOTES = {
    "no-signature": TEXT + b"\n",
    "text-only": TEXT,
    "no-empty-line": TEXT + GOOD_LINE,
    "two-empty-lines": TEXT + b"\n\n" + GOOD_LINE,
    "no-final-newline": NOTE[:-1],
    "empty-line-at-the-end": NOTE + b"\n",
    "empty-line-between-signatures": NOTE + b"\n" + signature_line("w", bytes(8)),
    "text-after-signatures": NOTE + b"more\n",
    "line-repeated": NOTE + GOOD_LINE,
    "other-line-repeated": NOTE + signature_line("w", bytes(8)) * 2,
    "carriage-returns": NOTE.replace(b"\n", b"\r\n"),
    "carriage-return-at-the-end": NOTE[:-1] + b"\r\n",
    "hyphen-for-dash": NOTE.replace(b"\xe2\x80\x94", b"-"),
    "en-dash-for-dash": NOTE.replace(b"\xe2\x80\x94", b"\xe2\x80\x93"),
    "two-spaces": NOTE.replace(b"\xe2\x80\x94 ", b"\xe2\x80\x94  "),
    "trailing-space": NOTE[:-1] + b" \n",
    "line-without-name": NOTE + "\u2014 AAAAAAAA\n".encode(),
    "name-with-plus": NOTE + signature_line("a+b", bytes(8)),
    "name-with-space": NOTE + signature_line("a b", bytes(8)),
    "name-with-no-break-space": NOTE + signature_line("a\u00a0b", bytes(8)),
    "base64-stray-bits": NOTE + "\u2014 w AAAAAAB=\n".encode(),
    "base64-without-padding": NOTE + "\u2014 w AAAAAAA\n".encode(),
    "base64-urlsafe": NOTE + "\u2014 w AAAAAA__\n".encode(),
    "base64-length": NOTE + "\u2014 w AAAAAAAAA\n".encode(),
    "key-id-alone": NOTE + signature_line("w", bytes(4)),
    "key-id-cut": NOTE + signature_line("w", bytes(3)),
    "not-utf-8": NOTE + b"\xe2\x80\x94 \xff AAAAAAAA\n",
    "nul-in-name": NOTE + signature_line("a\0b", bytes(8)),
    "nothing": b"",
    "two-newlines": b"\n\n",
}


@pytest.mark.parametrize("name", BAD_NOTES)
def test_a_note_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(MalformedError) as caught:
        open_note(BAD_NOTES[name], key=KEY)
    assert not isinstance(caught.value, SignatureInvalid)


def padded_note(length: int) -> bytes:
    """A well-formed note of ``length`` bytes: cosignatures of many keys after ours."""
    lines = [NOTE]
    while (left := length - sum(map(len, lines))) > 400:
        lines.append(signature_line(f"w{len(lines)}", bytes(150)))
    # What is missing is made up by the last key's name.
    shortest = len(signature_line("", bytes(8)))
    lines.append(signature_line("w" * (left - shortest), bytes(8)))
    return b"".join(lines)


def test_a_note_of_the_largest_length_is_read_and_one_byte_more_refused() -> None:
    assert len(padded_note(NOTE_BYTES)) == NOTE_BYTES
    assert open_note(padded_note(NOTE_BYTES), key=KEY) == HEAD
    with pytest.raises(MalformedError, match="at most"):
        parse_note(padded_note(NOTE_BYTES + 1))


def test_sixteen_post_quantum_cosignatures_fit() -> None:
    note = NOTE + b"".join(signature_line(f"w{i}.example", bytes(4 + 4627)) for i in range(16))
    assert open_note(note, key=KEY) == HEAD


def test_signatures_of_other_keys_are_ignored() -> None:
    own_name_other_key = signature_line(HEAD.origin, key_id(HEAD.origin, OTHER_KEY) + OTHER.sign(TEXT))
    own_id_other_name = signature_line("witness", key_id(HEAD.origin, KEY) + bytes(64))
    for extra in (own_name_other_key, own_id_other_name):
        assert open_note(NOTE + extra, key=KEY) == HEAD
        assert open_note(TEXT + b"\n" + extra + GOOD_LINE, key=KEY) == HEAD


def test_a_note_signed_by_another_key_is_refused() -> None:
    with pytest.raises(SignatureInvalid, match="found 0"):
        open_note(sign_head(HEAD, OTHER), key=KEY)
    with pytest.raises(SignatureInvalid, match="found 0"):
        open_note(NOTE, key=OTHER_KEY)


def test_a_signature_by_another_key_under_our_key_id_is_refused() -> None:
    forged = signature_line(HEAD.origin, key_id(HEAD.origin, KEY) + OTHER.sign(TEXT))
    with pytest.raises(SignatureInvalid, match="does not hold"):
        open_note(TEXT + b"\n" + forged, key=KEY)


def test_a_signature_under_another_name_is_refused() -> None:
    with pytest.raises(SignatureInvalid, match="found 0"):
        open_note(note_of(TEXT, name="polledger/run/" + "0" * 32), key=KEY)


def test_a_signature_over_another_head_is_refused() -> None:
    for other in (
        replace(HEAD, size=HEAD.size + 1),
        replace(HEAD, root=ZERO),
        replace(HEAD, chainpoint=ZERO),
    ):
        with pytest.raises(SignatureInvalid, match="does not hold"):
            open_note(other.text() + b"\n" + GOOD_LINE, key=KEY)


def test_two_signatures_under_our_key_id_are_refused() -> None:
    """One may be valid: a verifier that takes the first it likes would read the same note in two ways."""
    second = signature_line(HEAD.origin, GOOD_BLOB[:4] + bytes(64))
    for note in (NOTE + second, TEXT + b"\n" + second + GOOD_LINE):
        with pytest.raises(SignatureInvalid, match="found 2"):
            open_note(note, key=KEY)


@pytest.mark.parametrize("length", [1, 63, 65])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    line = signature_line(HEAD.origin, (GOOD_BLOB + b"\0")[: 4 + length])
    with pytest.raises(SignatureInvalid, match="does not hold"):
        open_note(TEXT + b"\n" + line, key=KEY)


def test_the_signature_covers_the_text_without_the_empty_line() -> None:
    wrong = signature_line(HEAD.origin, GOOD_BLOB[:4] + PRIVATE.sign(TEXT + b"\n"))
    with pytest.raises(SignatureInvalid, match="does not hold"):
        open_note(TEXT + b"\n" + wrong, key=KEY)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_the_callers_error(length: int) -> None:
    with pytest.raises(UsageError):
        open_note(NOTE, key=bytes(length))


def test_any_flipped_bit_of_a_note_is_rejected() -> None:
    for bit in range(8 * len(NOTE)):
        mutant = bytearray(NOTE)
        mutant[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MalformedError):
            open_note(bytes(mutant), key=KEY)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_parsing_arbitrary_bytes_never_crashes(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_note(data)


@given(st.text(max_size=60), st.integers(0, len(NOTE)), st.integers(0, 40))
@settings(max_examples=500, deadline=None)
def test_what_parses_is_spelled_canonically(inserted: str, at: int, cut: int) -> None:
    mutant = NOTE[:at] + inserted.encode("utf-8", "replace") + NOTE[at + cut :]
    try:
        parsed = parse_note(mutant)
    except MalformedError:
        return
    lines = [signature_line(line.name, line.key_id + line.signature) for line in parsed.signatures]
    assert parsed.head.text() + b"\n" + b"".join(lines) == mutant


heads = st.builds(
    Head,
    run=st.binary(min_size=16, max_size=16),
    size=st.integers(1, SIZE_MAX),
    root=st.binary(min_size=32, max_size=32),
    chainpoint=st.binary(min_size=32, max_size=32),
    previous=st.binary(min_size=32, max_size=32),
)


@given(heads)
@settings(max_examples=100, deadline=None)
def test_any_head_survives_signing_and_opening(head: Head) -> None:
    assert open_note(sign_head(head, PRIVATE), key=KEY) == head
    assert head.digest() == sha256(head.text())
