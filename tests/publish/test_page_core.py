"""The page's own implementations, run by Chromium, against the vectors that bind every implementation."""

import base64
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polledger.core.encoding import RECORD_LIMITS
from polledger.publish.page import render_page
from tests.browser import Browser, Page
from tests.core.encoding_vectors import Vector, load

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "vectors" / "merkle"
OWN = ROOT / "tests" / "vectors" / "merkle"

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
