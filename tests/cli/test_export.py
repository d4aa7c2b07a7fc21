"""``polledger export``: proofs that others check."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from polledger.core.digest import sha256
from polledger.core.encoding import encode
from polledger.core.merkle import leaf_hash, verify_inclusion
from polledger.store.run import RunDirectory
from tests.cli.conftest import Command
from tests.verify.build import Built, write_ledger, write_seals


def proofs(command: Command, built: Built, form: str) -> list[dict[str, object]]:
    return [
        json.loads(command("export", built.run.path, i, "--format", form).out)
        for i in range(len(built.records))
    ]


def test_target_is_the_leaf_hash_of_the_record(command: Command, sealed: Built) -> None:
    for i, proof in enumerate(proofs(command, sealed, "chainpoint")):
        assert proof["target_hash"] == leaf_hash(sha256(encode(sealed.records[i]))).hex()
        assert set(proof) == {"target_hash", "proof", "merkle_root"}


def test_stock_merkletools_validates_every_chainpoint_proof(command: Command, sealed: Built) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merkletools = pytest.importorskip("merkletools")
        tools = merkletools.MerkleTools()
    for proof in proofs(command, sealed, "chainpoint"):
        assert tools.validate_proof(proof["proof"], proof["target_hash"], proof["merkle_root"])


def test_rfc9162_proofs_verify(command: Command, sealed: Built) -> None:
    for i, proof in enumerate(proofs(command, sealed, "rfc9162")):
        assert proof["leaf_index"] == i
        path = proof["inclusion_path"]
        assert isinstance(path, list)
        assert verify_inclusion(
            leaf_hash=bytes.fromhex(str(proof["leaf_hash"])),
            index=i,
            size=int(str(proof["tree_size"])),
            proof=[bytes.fromhex(item) for item in path],
            root=bytes.fromhex(str(proof["root_hash"])),
        )
        assert str(proof["note"]).startswith("polledger/run/")


def test_json_adds_schema_and_exit_code(command: Command, sealed: Built) -> None:
    said = command("export", sealed.run.path, 3, "--json").json
    assert (said["schema"], said["exit_code"]) == ("polledger.export/1", 0)
    assert said["target_hash"]


def resealed(built: Built, path: Path, **changes: bytes) -> RunDirectory:
    run = RunDirectory.create(path)
    write_ledger(run, built.records, sizes=[])
    write_seals(
        run,
        [encode(item) for item in built.records],
        sizes=[2, 20],
        stamp=False,
        change=lambda n, head: replace(head, **changes) if n == 1 else head,
    )
    return run


def test_a_wrong_chainpoint_line_exports_nothing(command: Command, sealed: Built, tmp_path: Path) -> None:
    run = resealed(sealed, tmp_path / "run", chainpoint=b"\x01" * 32)
    said = command("export", run.path, 3)
    assert (said.code, said.out) == (1, "")
    assert "chainpoint line" in said.last
    assert command("export", run.path, 3, "--format", "rfc9162").code == 0


def test_records_that_do_not_give_the_newest_head_export_nothing(
    command: Command, sealed: Built, tmp_path: Path
) -> None:
    run = resealed(sealed, tmp_path / "run", root=b"\x01" * 32)
    for form in ("chainpoint", "rfc9162"):
        said = command("export", run.path, 1, "--format", form)
        assert (said.code, said.out) == (1, "")


def test_an_empty_ledger_cannot_be_exported_and_is_not_invalid(command: Command, copied: Built) -> None:
    copied.run.ledger_path.write_bytes(b"")
    said = command("export", copied.run.path, 0)
    assert (said.code, said.out) == (4, "")
    assert "no genesis record" in said.last


def test_a_record_that_is_not_sealed_is_a_usage_error(command: Command, sealed: Built) -> None:
    said = command("export", sealed.run.path, len(sealed.records))
    assert said.code == 2
    assert "not sealed" in said.last


@pytest.mark.parametrize("words", [["-1"], ["x"], ["0", "--format", "xml"]])
def test_wrong_arguments_are_usage_errors(command: Command, sealed: Built, words: list[str]) -> None:
    assert command("export", sealed.run.path, *words).code == 2
