"""Verifying the time of a run is linear in its seals: counted in calls and in bytes, not in seconds."""

import cProfile
import importlib
import json
import pathlib
import pstats
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from polledger.store.run import RunDirectory
from polledger.timestamp import certificates, cms
from polledger.timestamp.trust import load_trust
from polledger.verify.evidence import read_evidence

ROOT = Path(__file__).resolve().parents[2]
SIZES = (20, 40, 80)
KIB_A_SEAL = 12
"""Most memory for a seal with two tokens; 4.5 KiB were measured, of which a seal's own file has 1.5."""


@pytest.fixture(scope="module")
def script() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("time_cost")


@pytest.fixture(scope="module")
def whole(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cost")
    script.build(place, SIZES[-1])
    return place


def measured(script: Any, whole: Path, seals: int) -> tuple[int, int]:
    """Calls of functions in one verification with nothing known before, and bytes that evidence and outcome hold."""
    trust = load_trust(whole / "trust.toml")
    script.forget_everything()
    with script.part(whole, seals) as path:
        profile = cProfile.Profile()
        profile.runcall(script.judge, path, trust)
        tracemalloc.start()
        kept = read_evidence(RunDirectory.open(path)), script.judge(path, trust)
        snapshot = tracemalloc.take_snapshot()
        tracemalloc.stop()
    # Names of files are interned, in one table for the whole process, which at times grows by megabytes.
    traces = snapshot.filter_traces([tracemalloc.Filter(False, pathlib.__file__)]).traces
    held = sum(trace.size for trace in traces)
    assert len(kept[0].seals) == seals
    return pstats.Stats(profile).total_calls, held  # type: ignore[attr-defined]


def test_calls_and_memory_grow_with_the_seals_and_no_faster(script: Any, whole: Path) -> None:
    calls, held = zip(*(measured(script, whole, seals) for seals in SIZES), strict=True)
    assert calls[2] - calls[1] == pytest.approx(2 * (calls[1] - calls[0]), rel=0.05)
    assert 0 < held[1] - held[0] < 1024 * KIB_A_SEAL * (SIZES[1] - SIZES[0])
    assert 0 < held[2] - held[1] < 1024 * KIB_A_SEAL * (SIZES[2] - SIZES[1])


def test_a_token_is_parsed_once_and_its_chain_looked_for_once_for_all(script: Any, whole: Path) -> None:
    script.forget_everything()
    with script.part(whole, 40) as path:
        found = script.verify_once(path, whole / "trust.toml")
    assert found["tokens"] == 80
    assert cms.parse_token.cache_info().misses == 80
    # Two signers, each asked about with the roots of every entry.
    assert certificates._find_chain.cache_info().misses <= 2 * (script.STRANGERS + 2)


def test_every_kind_of_signature_is_measured(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "REPEATS", 3)
    rows = script.tokens()
    assert [row["algorithm"] for row in rows] == list(script.ALGORITHMS)
    assert all(row["first"] > 0 and row["next"] > 0 for row in rows)


def test_the_evidence_has_every_kind_of_signature(script: Any) -> None:
    found = json.loads((ROOT / "docs" / "evidence" / "time_cost.json").read_text(encoding="utf-8"))
    assert set(script.ALGORITHMS) == {row["algorithm"] for row in found["tokens"]}
