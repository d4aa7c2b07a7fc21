"""Every vector file, the shared ones and our own, gives the outcome it states."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polledger.core.merkle import verify_consistency, verify_inclusion

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "vectors" / "merkle"
OWN = ROOT / "tests" / "vectors" / "merkle"

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared/vectors/merkle is not on this machine"
)


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.json"))


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def decoded(document: dict[str, Any], key: str) -> bytes:
    return base64.b64decode(document[key], validate=True)


def shared_outcome(path: Path) -> tuple[bool, bool]:
    """(expected, found) of one shared vector; ``wantErr`` is true where the proof must be refused."""
    document = json.loads(path.read_text())
    proof = [base64.b64decode(component, validate=True) for component in document["proof"] or []]
    if "leafIdx" in document:
        found = verify_inclusion(
            leaf_hash=decoded(document, "leafHash"),
            index=document["leafIdx"],
            size=document["treeSize"],
            proof=proof,
            root=decoded(document, "root"),
        )
    else:
        found = verify_consistency(
            size1=document["size1"],
            root1=decoded(document, "root1"),
            size2=document["size2"],
            root2=decoded(document, "root2"),
            proof=proof,
        )
    return not document["wantErr"], found


@needs_shared
@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_the_shared_vectors_hold_both_outcomes(kind: str) -> None:
    outcomes = [shared_outcome(path)[0] for path in files(SHARED / kind)]
    assert len(outcomes) >= 98
    assert set(outcomes) == {True, False}


@needs_shared
@pytest.mark.parametrize("path", files(SHARED / "inclusion") + files(SHARED / "consistency"), ids=name_of)
def test_shared_vector_gives_the_expected_outcome(path: Path) -> None:
    expected, found = shared_outcome(path)
    assert found == expected


@pytest.mark.parametrize("path", files(OWN / "inclusion"), ids=name_of)
def test_own_inclusion_vector_gives_the_expected_outcome(path: Path) -> None:
    vector = json.loads(path.read_text())
    found = verify_inclusion(
        leaf_hash=bytes.fromhex(vector["leaf_hash"]),
        index=vector["index"],
        size=vector["size"],
        proof=[bytes.fromhex(component) for component in vector["proof"]],
        root=bytes.fromhex(vector["root"]),
    )
    assert found is vector["accept"]


@pytest.mark.parametrize("path", files(OWN / "consistency"), ids=name_of)
def test_own_consistency_vector_gives_the_expected_outcome(path: Path) -> None:
    vector = json.loads(path.read_text())
    found = verify_consistency(
        size1=vector["size1"],
        root1=bytes.fromhex(vector["root1"]),
        size2=vector["size2"],
        root2=bytes.fromhex(vector["root2"]),
        proof=[bytes.fromhex(component) for component in vector["proof"]],
    )
    assert found is vector["accept"]


def test_own_vectors_are_there() -> None:
    assert len(files(OWN / "inclusion")) > 200
    assert len(files(OWN / "consistency")) > 200


@pytest.mark.parametrize("script", ["make_merkle_vectors.py", "make_derivation_vectors.py"])
def test_vectors_on_disk_are_what_the_generator_makes(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
