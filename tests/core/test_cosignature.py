"""Cosignatures: a real one and the specification's examples, every bound, and no bit that can be changed."""

import base64
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from polledger.core.cosignature import (
    RESPONSE_BYTES,
    RESPONSE_LINES,
    Cosignature,
    WitnessKey,
    cosigned_message,
    parse_cosignature,
    parse_witness_key,
    split_lines,
    verify_cosignature,
)
from polledger.core.head import Head, SignatureInvalid, sign_head
from polledger.core.records import COSIGNATURE_BYTES
from polledger.errors import MalformedError, UsageError
from tests.timestamp.witness import cosign, vkey

REAL_TEXT = b"""\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=
"""
REAL_LINE = (
    "— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxt"
    "qB0DrAWfBw==\n"
).encode()
REAL_KEY = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
"""A checkpoint of a public CT log as a public witness cosigned it in May 2026, and that witness's published vkey."""

SPECIFIED = (
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0"
    "xUe+mbIUBkBIfZ+qnA==\n"
).encode()
"""The example of C2SP tlog-cosignature, whose key is not published."""

KEY = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
WITNESS = WitnessKey(name="witness.example/w1", key=KEY.public_key().public_bytes_raw())
HEAD = Head(run=bytes(16), size=7, root=b"r" * 32, chainpoint=b"c" * 32, previous=b"p" * 32)
SECONDS = 1_790_000_000
LINE = cosign(WITNESS.name, KEY, HEAD.text(), SECONDS).encode()


def verify(line: bytes, *, text: bytes = HEAD.text(), witness: WitnessKey = WITNESS) -> Cosignature:
    cosignature = parse_cosignature(line)
    verify_cosignature(cosignature, witness=witness, text=text)
    return cosignature


def test_a_real_cosignature_holds() -> None:
    found = verify(REAL_LINE, text=REAL_TEXT, witness=parse_witness_key(REAL_KEY))
    assert found.time == datetime(2026, 5, 23, 21, 50, 24, tzinfo=UTC)


def test_a_real_cosignature_is_of_one_text() -> None:
    with pytest.raises(SignatureInvalid):
        verify(
            REAL_LINE,
            text=REAL_TEXT.replace(b"1432088532", b"1432088533"),
            witness=parse_witness_key(REAL_KEY),
        )


def test_the_example_of_the_specification_is_framed_as_it_says() -> None:
    found = parse_cosignature(SPECIFIED)
    assert (found.name, found.key_id.hex()) == ("witness.example.com/w1", "8d66cf3f")
    assert found.seconds == 1679315147
    text = b"example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    assert cosigned_message(found.seconds, text) == b"cosignature/v1\ntime 1679315147\n" + text


def test_a_cosignature_of_the_test_witness_holds() -> None:
    assert verify(LINE).seconds == SECONDS


@pytest.mark.parametrize("field", ["size", "root", "chainpoint", "previous"])
def test_every_line_of_a_head_is_covered(field: str) -> None:
    values = {"size": 8, "root": b"x" * 32, "chainpoint": b"x" * 32, "previous": b"x" * 32}
    changed = {name: getattr(HEAD, name) for name in ("run", "size", "root", "chainpoint", "previous")}
    other = Head(**{**changed, field: values[field]})
    with pytest.raises(SignatureInvalid, match=r"w1 does not hold for this head"):
        verify(LINE, text=other.text())


def test_another_key_under_the_same_name_is_not_the_witness() -> None:
    other = WitnessKey(name=WITNESS.name, key=bytes(range(32)))
    with pytest.raises(SignatureInvalid, match="not by the key"):
        verify(LINE, witness=other)


def test_the_same_key_under_another_name_is_not_the_witness() -> None:
    other = WitnessKey(name="witness.example/w2", key=WITNESS.key)
    with pytest.raises(SignatureInvalid, match="not by the key"):
        verify(LINE, witness=other)


def test_a_line_that_only_names_the_key_does_not_hold() -> None:
    line = cosign(WITNESS.name, Ed25519PrivateKey.generate(), HEAD.text(), SECONDS, claim=WITNESS.key)
    with pytest.raises(SignatureInvalid, match="does not hold"):
        verify(line.encode())


def test_a_log_signature_is_no_cosignature() -> None:
    line = sign_head(HEAD, KEY).splitlines(keepends=True)[-1]
    with pytest.raises(MalformedError, match="not a time and an Ed25519 signature"):
        parse_cosignature(line)


def test_no_bit_of_a_cosignature_can_be_changed() -> None:
    for line, text, witness in (
        (LINE, HEAD.text(), WITNESS),
        (REAL_LINE, REAL_TEXT, parse_witness_key(REAL_KEY)),
    ):
        for bit in range(8 * len(line)):
            mutant = bytearray(line)
            mutant[bit // 8] ^= 1 << bit % 8
            with pytest.raises(MalformedError):
                verify(bytes(mutant), text=text, witness=witness)


def test_no_bit_of_a_cosigned_text_can_be_changed() -> None:
    for bit in range(8 * len(HEAD.text())):
        mutant = bytearray(HEAD.text())
        mutant[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignatureInvalid):
            verify(LINE, text=bytes(mutant))


def stated(seconds: int) -> bytes:
    return cosign(WITNESS.name, KEY, HEAD.text(), seconds).encode()


def test_times_are_from_1970_to_9999() -> None:
    latest = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
    assert verify(stated(1)).time == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert verify(stated(latest)).time.year == 9999
    for seconds in (0, latest + 1, 1 << 63, (1 << 64) - 1):
        with pytest.raises(MalformedError, match="which is no time"):
            parse_cosignature(stated(seconds))


def bent(change: Callable[[str], str]) -> bytes:
    return change(LINE.decode()).encode()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE[:-1], "does not end in a newline"),
        (LINE + b"\n", "signature line is not"),
        (LINE + LINE, "signature line is not"),
        (b"\n", "signature line is not"),
        (b"\xff\n", "not UTF-8"),
        (bent(lambda line: line.replace("—", "-")), "signature line is not"),
        (bent(lambda line: line.replace("w1", "w+1")), "signature line is not"),
        (bent(lambda line: line.replace("w1 ", "w1  ")), "signature line is not"),
        (bent(lambda line: line.replace("w1", "w\x001")), "control character"),
        (bent(lambda line: line[:-3] + "\n"), "not base64|canonical|not a time"),
        (bent(lambda line: line[:-5] + "\n"), "not a time and an Ed25519 signature"),
        (bent(lambda line: line[:-1] + "AAAA\n"), "not base64|not a time|signature line is not"),
        (bent(lambda line: line.replace("w1", "w" * 600)), "at most 512 bytes"),
    ],
)
def test_other_spellings_are_refused(line: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        parse_cosignature(line)


@pytest.mark.parametrize("length", [0, 8, 71, 73, 8 + 2420])
def test_a_cosignature_has_72_bytes(length: int) -> None:
    """A post-quantum one has more; those of other kinds are not ours to read."""
    blob = (WITNESS.key_id + SECONDS.to_bytes(8, "big") + bytes(3000))[: 4 + length]
    line = f"— {WITNESS.name} {base64.b64encode(blob).decode()}\n".encode()
    with pytest.raises(
        MalformedError, match=r"not a time and an Ed25519|at most 512 bytes|carries no signature"
    ):
        parse_cosignature(line)


def test_the_longest_line_is_read_and_no_longer_one() -> None:
    room = COSIGNATURE_BYTES - len(cosign("", KEY, b"", SECONDS).encode())
    fits = cosign("n" * room, KEY, HEAD.text(), SECONDS).encode()
    assert len(fits) == COSIGNATURE_BYTES
    parse_cosignature(fits)
    with pytest.raises(MalformedError, match="at most 512 bytes"):
        parse_cosignature(cosign("n" * (room + 1), KEY, HEAD.text(), SECONDS).encode())


@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda text: f"— w {text}\n".encode()))
def test_reading_a_line_never_crashes(line: bytes) -> None:
    with contextlib.suppress(MalformedError):
        parse_cosignature(line)


def test_a_key_is_written_as_it_is_read() -> None:
    assert parse_witness_key(REAL_KEY).vkey() == REAL_KEY
    assert parse_witness_key(vkey(WITNESS.name, KEY)) == WITNESS
    assert WITNESS.vkey() == vkey(WITNESS.name, KEY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "written name"),
        ("remora.n621.de", "written name"),
        (REAL_KEY.replace("remora", "remo ra"), "written name"),
        (REAL_KEY.replace("da77ade7", "DA77ADE7"), "written name"),
        (REAL_KEY.replace("da77ade7", "da77ade8"), "its id is da77ade7, not da77ade8"),
        (REAL_KEY.replace("remora", "demora"), "its id is"),
        (REAL_KEY + "=", "written name"),
        (REAL_KEY[:-1] + "=", "written name"),
        (REAL_KEY[:-4], "written name"),
        ("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", "this one has type 01"),
        (vkey("w", KEY, kind=6), "this one has type 06"),
        (vkey("n" * 257, KEY), "a name of 1 to 256 bytes"),
    ],
)
def test_other_keys_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_witness_key(text)


def test_a_name_of_256_bytes_is_taken() -> None:
    assert parse_witness_key(vkey("n" * 256, KEY)).name == "n" * 256


def test_an_answer_is_split_within_bounds() -> None:
    assert split_lines(LINE + LINE) == [LINE, LINE]
    assert len(split_lines(b"x\n" * RESPONSE_LINES)) == RESPONSE_LINES
    assert split_lines(bytes(RESPONSE_BYTES - 1) + b"\n") == [bytes(RESPONSE_BYTES - 1) + b"\n"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "does not end in a newline"),
        (LINE[:-1], "does not end in a newline"),
        (b"x\n" * (RESPONSE_LINES + 1), "at most 64 lines"),
        (bytes(RESPONSE_BYTES) + b"\n", "at most 65536 bytes"),
    ],
)
def test_an_answer_beyond_bounds_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        split_lines(body)
