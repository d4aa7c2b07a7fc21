"""What a run of many steps takes: counted in bytes, not in seconds."""

import importlib
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from polledger.core.records import Genesis
from polledger.store.run import RunDirectory
from polledger.verify.evidence import read_evidence
from polledger.verify.heads import match_heads, parse_records, step_heads, step_parse
from polledger.verify.lineage import build_lineage
from polledger.verify.policy import Policy
from polledger.verify.structure import step_structure

ROOT = Path(__file__).resolve().parents[2]
RECORDS = 12_000
BYTES_A_RECORD = 200
"""Most of a ledger per record: a learning rate, two metrics and a batch digest take 193 with the frame."""
GROWTH = 5 << 20
"""Most that a process may grow by recording, in bytes of resident memory."""
SHARE = 2.0
"""Most memory of reading and judging the structure, for each byte of ledger; objects of all records would take 7."""


@pytest.fixture(scope="module")
def script() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("bench_ledger")


@pytest.fixture(scope="module")
def measured(
    script: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunDirectory, list[dict[str, Any]]]:
    place = tmp_path_factory.mktemp("ledger")
    rows = script.measure(place, RECORDS, commands=False)["rows"]
    return RunDirectory.open(place / "run"), rows


def test_a_record_takes_few_bytes_and_recording_no_memory(
    measured: tuple[RunDirectory, list[dict[str, Any]]],
) -> None:
    _, rows = measured
    assert [row["records"] // 1000 for row in rows] == [1, 10, 12]
    assert all(row["bytes"] <= BYTES_A_RECORD * row["records"] + 1000 for row in rows)
    assert rows[-1]["resident"] - rows[0]["resident"] <= GROWTH


def test_judging_the_structure_takes_memory_in_proportion_to_the_ledger_and_no_more(
    measured: tuple[RunDirectory, list[dict[str, Any]]],
) -> None:
    run, rows = measured
    tracemalloc.start()
    try:
        evidence = read_evidence(run)
        parsed = parse_records(evidence)
        heads = match_heads(evidence, parsed)
        findings = [*step_parse(evidence, parsed, heads), *step_heads(evidence, parsed, heads)]
        genesis = heads.records[0]
        assert isinstance(genesis, Genesis)
        lineage = build_lineage(genesis, heads.records)
        findings += step_structure(lineage, policy=Policy(), whole=heads.whole).findings
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [finding.outcome for finding in findings] == ["pass"] * 3
    assert peak <= SHARE * rows[-1]["bytes"]


def test_the_table_has_a_row_for_each_size(script: Any) -> None:
    def row(records: int, **values: float) -> dict[str, Any]:
        cost = {"seconds": 1.0, "peak": 50 * script.MIB + records}
        return {"records": records, "resident": 0, "verify": cost, "inspect": cost, **values}

    rows = [
        row(1000, microseconds=4.0, head_microseconds=40.0, bytes=193_000),
        row(1_000_000, microseconds=4.2, head_microseconds=41.0, bytes=193_000_000),
    ]
    text = script.render({"rows": rows})
    assert "| 1,000,000 | 4.2 | 41 |" in text
    assert "over one at the beginning: 1.05." in text
    assert "Bytes a record, frame included: 193." in text
