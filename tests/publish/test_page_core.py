"""The page's own implementations, run by Chromium, against the vectors that bind every implementation."""

import base64
import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from polledger.core.encoding import RECORD_LIMITS
from polledger.core.head import parse_note
from polledger.core.published import file_root
from polledger.core.state import escape
from polledger.errors import MalformedError
from polledger.publish.page import render_page
from polledger.timestamp import der
from polledger.timestamp.cms import SIGNED_DATA, parse_token
from polledger.timestamp.messages import token_of
from polledger.timestamp.tstinfo import CONTENT_TYPE, parse_tst_info
from tests.browser import Browser, Page
from tests.core.derivation import vectors as derivations
from tests.core.encoding_vectors import Vector, load
from tests.publish.claims import safetensors, tensor

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "vectors" / "merkle"
OWN = ROOT / "tests" / "vectors" / "merkle"
TOKENS = ROOT / "tests" / "vectors" / "timestamp"
HEAD = derivations("head")

OUTCOMES = """
function outcome(call) {
  try {
    return call();
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    return null;
  }
}
"""


@pytest.fixture(scope="module")
def core(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_bytes(render_page(envelope=b"", proof=b"", tokens=[]))
    with chromium.page(path.as_uri()) as page:
        page.evaluate(OUTCOMES)
        yield page


def outcomes(core: Page, function: str, cases: list[Any]) -> list[Any]:
    """What ``function`` gives for each case; None where it refuses one."""
    found: list[Any] = core.evaluate(f"{json.dumps(cases)}.map((one) => outcome(() => ({function})(one)))")
    return found


def inclusion_cases() -> list[tuple[dict[str, Any], bool]]:
    cases = []
    for path in sorted(OWN.joinpath("inclusion").rglob("*.json")):
        vector = json.loads(path.read_text())
        case = {key: vector[key] for key in ("index", "size", "proof", "root")}
        cases.append(({**case, "leaf": vector["leaf_hash"]}, vector["accept"]))
    for path in sorted(SHARED.joinpath("inclusion").rglob("*.json")):
        vector = json.loads(path.read_text())
        case = {"index": vector["leafIdx"], "size": vector["treeSize"]}
        case |= {"leaf": from_base64(vector["leafHash"]), "root": from_base64(vector["root"])}
        case["proof"] = [from_base64(component) for component in vector["proof"] or []]
        cases.append((case, not vector["wantErr"]))
    return cases


def consistency_cases() -> list[tuple[dict[str, Any], bool]]:
    cases = []
    for path in sorted(OWN.joinpath("consistency").rglob("*.json")):
        vector = json.loads(path.read_text())
        cases.append((vector, vector["accept"]))
    for path in sorted(SHARED.joinpath("consistency").rglob("*.json")):
        vector = json.loads(path.read_text())
        case = {"size1": vector["size1"], "size2": vector["size2"]}
        case |= {"root1": from_base64(vector["root1"]), "root2": from_base64(vector["root2"])}
        case["proof"] = [from_base64(component) for component in vector["proof"] or []]
        cases.append((case, not vector["wantErr"]))
    return cases


def from_base64(text: str) -> str:
    return base64.b64decode(text, validate=True).hex()


def test_inclusion_proofs_of_all_vectors(core: Page) -> None:
    cases = inclusion_cases()
    assert len(cases) > 200
    function = """({ leaf, index, size, proof, root }) => verifyInclusion(
      { leaf: fromHex(leaf), index, size, proof: proof.map(fromHex), root: fromHex(root) })"""
    found = outcomes(core, function, [case for case, _ in cases])
    assert found == [expected for _, expected in cases]


def test_consistency_proofs_of_all_vectors(core: Page) -> None:
    cases = consistency_cases()
    assert len(cases) > 200
    function = """({ size1, root1, size2, root2, proof }) => verifyConsistency(
      { size1, root1: fromHex(root1), size2, root2: fromHex(root2), proof: proof.map(fromHex) })"""
    found = outcomes(core, function, [case for case, _ in cases])
    assert found == [expected for _, expected in cases]


def test_sha256_of_every_length_and_division(core: Page) -> None:
    source = random.Random(7)
    data = [source.randbytes(length) for length in (*range(200), 65535, 65536, 65537)]
    cases = [[part.hex(), source.randint(0, len(part))] for part in data]
    function = """([hex, cut]) => {
      const bytes = fromHex(hex);
      return toHex(sha256(bytes.subarray(0, cut), bytes.subarray(cut)));
    }"""
    assert outcomes(core, function, cases) == [hashlib.sha256(part).hexdigest() for part in data]


def records(folder: str) -> list[Vector]:
    return [vector for vector in load(folder) if vector.kind == "record"]


def given(vector: Vector) -> list[Any]:
    """A vector as runs of bytes in hexadecimal: some are megabytes of one byte."""
    return [[part, 1] if isinstance(part, str) else part for part in vector.content["bytes"]]


RECORD = """(runs) => {
  const bytes = joinBytes(runs.flatMap(([hex, times]) => Array(times).fill(fromHex(hex))));
  return toHex(encodePlmp(parseRecord(bytes))) === toHex(bytes);
}"""

VALUE = """([runs, limits]) => {
  const bytes = joinBytes(runs.flatMap(([hex, times]) => Array(times).fill(fromHex(hex))));
  return toHex(encodePlmp(decodePlmp(bytes, limits))) === toHex(bytes);
}"""


def test_records_of_the_vectors_are_read_and_encode_to_their_bytes(core: Page) -> None:
    accepted = records("accept")
    assert len(accepted) >= 9
    assert outcomes(core, RECORD, [given(vector) for vector in accepted]) == [True] * len(accepted)


def test_refused_records_of_the_vectors_are_refused(core: Page) -> None:
    refused = records("reject")
    assert len(refused) > 50
    found = outcomes(core, RECORD, [given(vector) for vector in refused])
    assert {vector.name for vector, one in zip(refused, found, strict=True) if one is not None} == set()


PROOF = """(runs) => {
  const bytes = joinBytes(runs.flatMap(([hex, times]) => Array(times).fill(fromHex(hex))));
  return toHex(encodePlmp(parsePublicProof(bytes))) === toHex(bytes);
}"""


@pytest.mark.parametrize("folder", ["accept", "reject"])
def test_public_proofs_of_the_vectors(core: Page, folder: str) -> None:
    vectors = [vector for vector in load(folder) if vector.kind == "public_proof"]
    assert len(vectors) >= 2
    wanted = {vector.name: True if folder == "accept" else None for vector in vectors}
    found = outcomes(core, PROOF, [given(vector) for vector in vectors])
    assert dict(zip(wanted, found, strict=True)) == wanted


@pytest.mark.parametrize("folder", ["accept", "reject"])
def test_values_of_the_vectors(core: Page, folder: str) -> None:
    vectors = [vector for vector in load(folder) if vector.kind == "value"]
    assert len(vectors) > 20
    cases = [[given(vector), vector.content["limits"]] for vector in vectors]
    wanted = {vector.name: True if folder == "accept" else None for vector in vectors}
    assert dict(zip(wanted, outcomes(core, VALUE, cases), strict=True)) == wanted


def test_limits_of_records_are_those_of_the_library(core: Page) -> None:
    found = core.evaluate("RECORD_LIMITS")
    assert found == {
        "size": RECORD_LIMITS.size,
        "depth": RECORD_LIMITS.depth,
        "count": RECORD_LIMITS.count,
    }


def understood(data: bytes) -> Any:
    """What the library reads in a token or a response, in the page's words; None where it refuses it."""
    try:
        info = parse_tst_info(parse_token(token_of(data)).content)
    except MalformedError:
        return None
    micros = (info.gen_time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    accuracy = None if info.accuracy is None else info.accuracy / timedelta(milliseconds=1)
    name = {"sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}[info.hash_name]
    return [name, info.imprint.hex(), str(micros), accuracy, info.policy]


TOKEN = """(hex) => {
  const { hash, imprint, micros, accuracy, policy } = parseToken(fromHex(hex));
  return [hash, toHex(imprint), String(micros), accuracy, policy];
}"""


def test_tokens_of_the_vectors_are_read_as_the_library_reads_them(core: Page) -> None:
    data = [path.read_bytes() for path in sorted(TOKENS.rglob("*.ts[rt]"))]
    assert len(data) > 200
    cases = [(one, understood(one)) for one in data]
    wanted = [(one, expected) for one, expected in cases if expected is not None]
    assert len(wanted) > 150
    assert outcomes(core, TOKEN, [one.hex() for one, _ in wanted]) == [expected for _, expected in wanted]
    # What the library refuses may be read here, where no signature counts, or be refused: never anything else.
    outcomes(core, TOKEN, [one.hex() for one, expected in cases if expected is None])


def info_in_token(content: bytes) -> bytes:
    """As much of a token as leads to its TSTInfo."""
    inner = der.sequence(der.oid(CONTENT_TYPE), der.encode(der.context(0), der.octets(content)))
    signed = der.sequence(der.integer(3), der.encode(der.SET), inner)
    return der.sequence(der.oid(SIGNED_DATA), der.encode(der.context(0), signed))


def info(**changes: bytes) -> bytes:
    """A TSTInfo with parts replaced."""
    parts = {
        "version": der.integer(1),
        "policy": der.oid("1.2.3"),
        "imprint": der.sequence(der.sequence(der.oid("2.16.840.1.101.3.4.2.1")), der.octets(bytes(32))),
        "serial": der.integer(5),
        "time": der.encode(der.GENERALIZED_TIME, b"20260102030405.25Z"),
        "rest": b"",
    }
    return der.sequence(*{**parts, **changes}.values())


def time(text: bytes) -> dict[str, bytes]:
    return {"time": der.encode(der.GENERALIZED_TIME, text)}


DER_CASES: dict[str, tuple[bytes, bool]] = {
    "good": (info_in_token(info()), True),
    "accuracy": (info_in_token(info(rest=der.sequence(der.integer(1), der.integer(7, 0x80)))), True),
    "fraction-of-nanoseconds": (info_in_token(info(**time(b"20260102030405.123456789Z"))), True),
    "empty": (b"", False),
    "longer": (info_in_token(info()) + b"\0", False),
    "cut": (info_in_token(info())[:-1], False),
    "info-longer": (info_in_token(info() + b"\0"), False),
    "version": (info_in_token(info(version=der.integer(2))), False),
    "field-after-the-last": (info_in_token(info(rest=der.null())), False),
    "imprint-with-more": (
        info_in_token(info(imprint=der.sequence(der.sequence(der.oid("1.2")), der.octets(b""), der.null()))),
        False,
    ),
    "long-length-of-a-short-one": (info_in_token(info(serial=b"\x02\x81\x01\x05")), False),
    "length-with-zero": (info_in_token(info(serial=b"\x02\x82\x00\x81" + b"\x01" * 0x81)), False),
    "length-without-end": (info_in_token(info(serial=b"\x02\x80\x05\0\0")), False),
    "length-beyond": (info_in_token(info(serial=b"\x02\x7f\x05")), False),
    "tag-of-two-bytes": (info_in_token(info(serial=b"\x1f\x81\x01\x01\x05")), False),
    "integer-empty": (info_in_token(info(serial=b"\x02\x00")), False),
    "integer-with-zero": (info_in_token(info(serial=b"\x02\x02\x00\x05")), False),
    "integer-with-ones": (info_in_token(info(serial=b"\x02\x02\xff\x85")), False),
    "oid-empty": (info_in_token(info(policy=b"\x06\x00")), False),
    "oid-with-zeros": (info_in_token(info(policy=b"\x06\x02\x80\x01")), False),
    "oid-cut": (info_in_token(info(policy=b"\x06\x02\x2a\x81")), False),
    "time-with-zero": (info_in_token(info(**time(b"20260102030405.250Z"))), False),
    "time-without-seconds": (info_in_token(info(**time(b"202601020304Z"))), False),
    "time-elsewhere": (info_in_token(info(**time(b"20260102030405+0100"))), False),
    "day-that-is-none": (info_in_token(info(**time(b"20260230030405Z"))), False),
    "leap-second": (info_in_token(info(**time(b"20261231235960Z"))), False),
    "refused": (der.sequence(der.sequence(der.integer(2)), info_in_token(info())), False),
    "granted": (der.sequence(der.sequence(der.integer(0)), info_in_token(info())), True),
    "granted-and-more": (
        der.sequence(der.sequence(der.integer(0)), info_in_token(info()), der.null()),
        False,
    ),
}


def test_der_has_one_spelling(core: Page) -> None:
    found = outcomes(core, TOKEN, [data.hex() for data, _ in DER_CASES.values()])
    read = {name: one is not None for name, one in zip(DER_CASES, found, strict=True)}
    assert read == {name: good for name, (_, good) in DER_CASES.items()}
    assert dict(zip(DER_CASES, found, strict=True))["fraction-of-nanoseconds"][2].endswith("123457")


NOTE = """(hex) => {
  const { origin, size, root, chainpoint, previous, text, signatures } = parseNote(fromHex(hex));
  return [origin, size, toHex(root), toHex(chainpoint), toHex(previous), toHex(text), signatures.length];
}"""


def test_notes_are_read_as_the_library_reads_them(core: Page) -> None:
    note = HEAD["note"]
    words = [
        note,
        note + note.split("\n\n")[1].replace("polledger/", "witness/"),
        note.replace("\n\n", "\n"),
        note[:-1],
        note.replace("\n", "\r\n"),
        note.replace("\n\n", "\n\n\n"),
        note.replace("\u2014", "-"),
        note.replace("=\nprevious", "\nprevious"),
        note.replace(f"\n{HEAD['size']}\n", f"\n0{HEAD['size']}\n"),
        note.replace(f"\n{HEAD['size']}\n", "\n9007199254740992\n"),
        note.replace(f"\n{HEAD['size']}\n", "\n0\n"),
        note.replace(HEAD["run"], HEAD["run"].upper() if HEAD["run"] != HEAD["run"].upper() else "x" * 32),
        note + note.split("\n\n")[1],
        re.sub(r"([A-Za-z0-9+/])=\n(chainpoint)", r"/=\n\2", note),
    ]
    expected = []
    for word in words:
        try:
            parsed = parse_note(word.encode())
        except MalformedError:
            expected.append(None)
        else:
            head = parsed.head
            values = [head.root.hex(), head.chainpoint.hex(), head.previous.hex(), parsed.text.hex()]
            expected.append([head.origin, head.size, *values, len(parsed.signatures)])
    assert expected[0] is not None
    assert expected[1] is not None
    assert expected[2:] == [None] * len(expected[2:])
    assert outcomes(core, NOTE, [word.encode().hex() for word in words]) == expected


BASE64 = {"": True, "AA==": True, "AB==": False, "AA=": False, "A A=": False, "AAAA\n": False, "A-_A": False}


def test_base64_has_one_spelling(core: Page) -> None:
    found = outcomes(core, "(text) => fromBase64(text).length", list(BASE64))
    assert [one is not None for one in found] == list(BASE64.values())


JSON = {
    '{"a":1,"b":{"a":2}}': True,
    '{"a":1,"a":1}': False,
    '{"a":{"b":1,"b":2}}': False,
    '{"__proto__":1,"__proto__":2}': False,
    '{"a":":{\\":"}': True,
    '{"a":1.5}': False,
    '{"a":9007199254740992}': False,
    '{"a":9007199254740991}': True,
    '{"a":9007199254740991.1}': False,
    '{"a":60.0}': False,
    '{"a":6e1}': False,
    '{"a":6E1}': False,
    '{"a":-0}': False,
    '{"a":-10}': True,
    '{"a":"1.5e3 -0","b":[true,false,0]}': True,
    '{"a":"\\\\"}': True,
    '{"a":1}x': False,
    "": False,
}


def test_json_that_readers_could_understand_differently_is_refused(core: Page) -> None:
    found = outcomes(core, "(text) => typeof parseStrictJson(text)", list(JSON))
    assert [one is not None for one in found] == list(JSON.values())


def test_model_roots_are_those_of_the_library(core: Page) -> None:
    tensors = [
        tensor("b", "int64", (1,)),
        tensor("module.a", "float32", ()),
        tensor("module._orig_mod.deep/er~#", "float16", (3, 5)),
        tensor("empty", "float32", (0, 4)),
        tensor("größe", "float32", (70000,)),
        tensor("\U0001f600", "float32", (2,)),
        tensor("\uffee", "float32", (2,)),
        tensor("_orig_mod.many", "int64", (20, 1, 1, 300)),
    ]
    clash = [tensor("a", "float32", (1,)), tensor("module.a", "float32", (2,))]
    for given_tensors in (tensors, clash, tensors[:1], []):
        escaped = [replace(one, path=escape(one.path)) for one in given_tensors]
        data = safetensors(given_tensors)
        found = core.evaluate(f"""(async () => {{
          const file = new File([fromBase64('{base64.b64encode(data).decode()}')], 'x');
          const read = await readModelFile(file, () => null);
          return [toHex(read.modelRoot), toHex(read.sha256)];
        }})()""")
        assert found == [file_root(escaped).hex(), hashlib.sha256(data).hexdigest()]
