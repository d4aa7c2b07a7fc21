"""Steps 1 and 2: what is authenticated, what contradicts, and what is only damaged."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.encoding import encode
from polledger.core.head import Head, sign_head
from polledger.core.records import AnyRecord, Checkpoint, Seal
from polledger.core.report import Finding
from polledger.store.ledger import LedgerWriter
from polledger.store.run import RunDirectory
from polledger.verify.evidence import read_evidence
from polledger.verify.heads import Heads, match_heads, parse_records, step_heads, step_parse
from tests.verify.build import KEY, RUN, Built, write_ledger, write_seals
from tests.verify.check import copy_of


def examine(run: RunDirectory) -> tuple[Heads, list[Finding], list[Finding]]:
    evidence = read_evidence(run)
    parsed = parse_records(evidence)
    heads = match_heads(evidence, parsed)
    return heads, step_parse(evidence, parsed, heads), step_heads(evidence, parsed, heads)


def outcomes(findings: list[Finding]) -> set[str]:
    return {finding.outcome for finding in findings}


def fresh(path: Path, built: Built) -> RunDirectory:
    """A copy of ``built`` without ledger and seals."""
    shutil.copytree(built.run.path, path, ignore=shutil.ignore_patterns("ledger.log", "seals"))
    (path / "ledger.log").write_bytes(b"")
    (path / "seals").mkdir()
    return RunDirectory.open(path)


def sealed_with(
    honest: Built, path: Path, change: Callable[[int, Head], Head], *, sizes: tuple[int, ...] = (2, 10, 20)
) -> RunDirectory:
    run = fresh(path, honest)
    write_ledger(run, honest.records, sizes=[])
    encoded = [encode(record) for record in honest.records]
    write_seals(run, encoded, sizes=sizes, stamp=False, change=change)
    return run


def test_honest_seals_pass_both_steps(honest: Built) -> None:
    heads, parse, head_findings = examine(honest.run)
    assert outcomes(parse) == outcomes(head_findings) == {"pass"}
    assert heads.whole
    assert heads.sealed == len(honest.records)
    assert list(heads.records) == honest.records


def test_a_wrong_chainpoint_line_is_refuted(honest: Built, tmp_path: Path) -> None:
    run = sealed_with(honest, tmp_path / "run", lambda n, head: replace(head, chainpoint=b"\x01" * 32))
    _, _, findings = examine(run)
    assert outcomes(findings) == {"fail"}
    assert "chainpoint" in findings[0].detail


def test_a_head_inconsistent_with_a_later_one_is_equivocation(honest: Built, tmp_path: Path) -> None:
    run = sealed_with(
        honest, tmp_path / "run", lambda n, head: replace(head, root=b"\x01" * 32) if n == 1 else head
    )
    _, _, findings = examine(run)
    assert [finding.outcome for finding in findings if "equivocation" in finding.detail] == ["fail"]


def test_two_heads_of_one_size_with_different_roots_are_equivocation(honest: Built, tmp_path: Path) -> None:
    # Both were signed by the prover; neither need match the records that are shown.
    run = fresh(tmp_path / "run", honest)
    write_ledger(run, honest.records, sizes=[2, 20], stamp=False)
    seal = run.read_seal(1)
    twin = Head(run=RUN, size=20, root=b"\x02" * 32, chainpoint=b"\x03" * 32, previous=b"\x04" * 32)
    run.write_seal(Seal(v=1, index=2, note=sign_head(twin, KEY), tokens=seal.tokens))
    _, _, findings = examine(run)
    assert any(finding.outcome == "fail" and "equivocation" in finding.detail for finding in findings)


def test_a_root_that_no_record_set_gives_is_damage_not_contradiction(honest: Built, tmp_path: Path) -> None:
    run = sealed_with(
        honest, tmp_path / "run", lambda n, head: replace(head, root=b"\x01" * 32) if n == 2 else head
    )
    heads, _, findings = examine(run)
    assert outcomes(findings) == {"unverifiable"}
    assert heads.sealed == 10
    assert not heads.whole
    assert findings[0].record == 10


def test_records_exchanged_with_their_checksum_are_damage_of_a_named_range(
    honest: Built, tmp_path: Path
) -> None:
    run = fresh(tmp_path / "run", honest)
    write_ledger(run, honest.records, sizes=[2, 10, 20], stamp=False)
    other = list(honest.records)
    changed = other[12]
    assert not isinstance(changed, Checkpoint)
    other[12] = msgspec.structs.replace(changed, batch=b"\x09" * 32)
    (run.path / "ledger.log").write_bytes(b"")
    with LedgerWriter.open(run.ledger_path) as ledger:
        for record in other:
            ledger.append(encode(record))
    heads, _, findings = examine(run)
    assert outcomes(findings) == {"unverifiable"}
    assert "10 to 19" in findings[0].detail
    assert len(heads.records) == 10


def test_a_tree_that_does_not_grow_is_refuted(honest: Built, tmp_path: Path) -> None:
    run = fresh(tmp_path / "run", honest)
    write_ledger(run, honest.records, sizes=[2, 20], stamp=False)
    heads, _, _ = examine(run)
    shrunk = replace(heads.heads[0].head, previous=heads.heads[1].head.digest())
    run.write_seal(Seal(v=1, index=2, note=sign_head(shrunk, KEY), tokens=[]))
    _, _, findings = examine(run)
    assert any(finding.outcome == "fail" and "does not grow" in finding.detail for finding in findings)


def test_a_broken_chain_of_heads_is_unverifiable(honest: Built, tmp_path: Path) -> None:
    run = sealed_with(
        honest, tmp_path / "run", lambda n, head: replace(head, previous=b"\x07" * 32) if n == 1 else head
    )
    _, _, findings = examine(run)
    assert outcomes(findings) == {"unverifiable"}
    assert "000001" in findings[0].detail


def test_genesis_sealed_only_after_training_began_is_refuted(honest: Built, tmp_path: Path) -> None:
    run = sealed_with(honest, tmp_path / "run", lambda n, head: head, sizes=(5, 20))
    _, _, findings = examine(run)
    assert [(finding.outcome, finding.record) for finding in findings] == [("fail", 2)]


def test_a_first_seal_that_was_removed_is_damage(honest: Built, tmp_path: Path) -> None:
    # The number in a manifest is not signed: moving seal 1 to place 0 must not look like a late genesis.
    run = copy_of(honest, tmp_path / "run").run
    for number in (1, 2):
        seal = run.read_seal(number)
        run.seal_path(number - 1).write_bytes(encode(msgspec.structs.replace(seal, index=number - 1)))
    run.seal_path(2).unlink()
    _, _, findings = examine(run)
    assert outcomes(findings) == {"unverifiable"}


def test_a_missing_seal_is_named(honest: Built, tmp_path: Path) -> None:
    run = copy_of(honest, tmp_path / "run").run
    run.seal_path(1).unlink()
    _, _, findings = examine(run)
    assert [finding.detail for finding in findings] == ["seal 1 is missing from seals/"]


def test_the_newest_seal_removed_leaves_the_end_unsealed(honest: Built, tmp_path: Path) -> None:
    run = copy_of(honest, tmp_path / "run").run
    run.seal_path(2).unlink()
    heads, parse, findings = examine(run)
    assert outcomes(findings) == {"pass"}
    assert [finding.name for finding in parse if finding.outcome == "unverifiable"] == ["unsealed"]
    assert len(heads.records) < len(honest.records)


def test_a_head_of_another_run_of_the_same_key_is_no_contradiction(honest: Built, tmp_path: Path) -> None:
    run = copy_of(honest, tmp_path / "run").run
    foreign = Head(run=b"\x55" * 16, size=20, root=b"\x01" * 32, chainpoint=b"\x01" * 32, previous=bytes(32))
    run.seal_path(2).write_bytes(encode(Seal(v=1, index=2, note=sign_head(foreign, KEY), tokens=[])))
    heads, _, findings = examine(run)
    assert outcomes(findings) == {"unverifiable"}
    assert not heads.whole


def test_a_head_of_another_run_is_no_equivocation_either(honest: Built, tmp_path: Path) -> None:
    run = copy_of(honest, tmp_path / "run").run
    foreign = Head(run=b"\x55" * 16, size=10, root=b"\x01" * 32, chainpoint=b"\x01" * 32, previous=bytes(32))
    run.seal_path(1).write_bytes(encode(Seal(v=1, index=1, note=sign_head(foreign, KEY), tokens=[])))
    _, _, findings = examine(run)
    assert outcomes(findings) == {"unverifiable"}


def test_a_head_signed_by_another_key_counts_for_nothing(honest: Built, tmp_path: Path) -> None:
    run = fresh(tmp_path / "run", honest)
    other = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
    write_ledger(run, honest.records, sizes=[2, 20], stamp=False, key=other)
    heads, _, findings = examine(run)
    assert list(heads.records) == []
    assert outcomes(findings) == {"unverifiable"}


def raw_run(honest: Built, path: Path, records: list[bytes], sizes: list[int]) -> RunDirectory:
    run = fresh(path, honest)
    with LedgerWriter.open(run.ledger_path) as ledger:
        for record in records:
            ledger.append(record)
    write_seals(run, records, sizes=sizes, stamp=False)
    return run


def test_a_signed_record_with_a_wrong_index_is_refuted(honest: Built, tmp_path: Path) -> None:
    records: list[AnyRecord] = list(honest.records)
    records[7] = msgspec.structs.replace(records[7], index=8)
    run = raw_run(honest, tmp_path / "run", [encode(item) for item in records], [2, 20])
    _, parse, _ = examine(run)
    assert [(finding.outcome, finding.record) for finding in parse] == [("fail", 7)]


def test_a_signed_record_of_another_run_is_refuted(honest: Built, tmp_path: Path) -> None:
    records: list[AnyRecord] = list(honest.records)
    records[7] = msgspec.structs.replace(records[7], run=b"\x77" * 16)
    run = raw_run(honest, tmp_path / "run", [encode(item) for item in records], [2, 20])
    _, parse, _ = examine(run)
    assert [(finding.outcome, finding.record) for finding in parse] == [("fail", 7)]


def test_a_wrong_index_beyond_the_matching_heads_is_only_damage(honest: Built, tmp_path: Path) -> None:
    encoded = [encode(item) for item in honest.records]
    run = raw_run(honest, tmp_path / "run", encoded, [2, 20])
    (run.path / "ledger.log").write_bytes(b"")
    encoded[7] = encode(msgspec.structs.replace(honest.records[7], index=8))
    with LedgerWriter.open(run.ledger_path) as ledger:
        for record in encoded:
            ledger.append(record)
    _, parse, _ = examine(run)
    assert outcomes(parse) == {"unverifiable"}


def test_signed_bytes_that_are_no_record_are_unverifiable_and_cut_the_evidence_short(
    honest: Built, tmp_path: Path
) -> None:
    encoded = [encode(item) for item in honest.records]
    encoded[9] = b"\x81\xa1a\x01"
    run = raw_run(honest, tmp_path / "run", encoded, [2, 20])
    heads, parse, _ = examine(run)
    assert [(finding.outcome, finding.record) for finding in parse] == [("unverifiable", 9)]
    assert len(heads.records) == 9
    assert not heads.whole


def test_a_run_whose_first_record_is_not_genesis_is_unverifiable(honest: Built, tmp_path: Path) -> None:
    encoded = [encode(item) for item in honest.records[1:]]
    run = raw_run(honest, tmp_path / "run", encoded, [2, 19])
    heads, parse, findings = examine(run)
    assert list(heads.records) == []
    assert outcomes(parse) == outcomes(findings) == {"unverifiable"}


def test_an_empty_ledger_and_no_seals_are_unverifiable(honest: Built, tmp_path: Path) -> None:
    run = fresh(tmp_path / "run", honest)
    heads, parse, findings = examine(run)
    assert heads.newest is None
    assert outcomes(parse) == outcomes(findings) == {"unverifiable"}


def test_a_truncated_ledger_names_the_first_missing_record(honest: Built, tmp_path: Path) -> None:
    run = copy_of(honest, tmp_path / "run").run
    scan_end = read_evidence(run)
    data = run.ledger_path.read_bytes()
    run.ledger_path.write_bytes(data[: len(data) - 40])
    _, parse, _ = examine(run)
    assert [finding.record for finding in parse] == [len(scan_end.records) - 1]


@pytest.mark.parametrize("name", ["seals", "ledger.log"])
def test_a_directory_without_seals_or_a_link_for_a_ledger_does_not_crash(
    honest: Built, tmp_path: Path, name: str
) -> None:
    run = copy_of(honest, tmp_path / "run").run
    if name == "seals":
        shutil.rmtree(run.path / "seals")
        _, _, findings = examine(run)
        assert outcomes(findings) == {"unverifiable"}
    else:
        (run.path / "seals" / "000009.msgpack").write_bytes(b"\xc1")
        _, parse, _ = examine(run)
        assert any("000009" in finding.detail or "seal 9" in finding.detail for finding in parse)
