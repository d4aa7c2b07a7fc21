"""What is promised about speed, counted from figures as they are kept; of the figures only bytes are held here."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

ALWAYS = 12
"""States that every run of these stores: the first, ten warm ones, and the last."""


@pytest.fixture(scope="module")
def scripts() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    """Of two sections, one of which lacks a size."""
    ratios = {
        "blocking / torch.save": [0.1, 0.3, 0.11],
        "blocking / async_save": [0.2, 0.2, 0.2],
        "durable / (torch.save, fsync, SHA-256)": [0.4, 0.4, 0.4],
        "durable / max(SHA-256, disk)": [1.0, 1.1, 1.2],
    }
    slow = {**ratios, "blocking / async_save": [0.7, 0.8, 0.7]}
    sizes = [{"megabytes": 10, "ratios": slow}, {"megabytes": 100, "ratios": ratios}]
    (tmp_path / "checkpoints.json").write_text(json.dumps({"sizes": sizes}))
    spare = {"case": "one core spare", "every": 10, "overhead": {"polledger.Recorder": [0.02]}}
    both = {"polledger.Recorder": [0.1, 0.2], "torch.save, fsync, SHA-256": [0.4, 0.4]}
    cases = [spare, {"case": "all cores busy", "every": 10, "overhead": both}]
    (tmp_path / "overhead.json").write_text(json.dumps({"cases": cases}))
    return tmp_path


def test_promises_are_counted_from_the_figures_that_there_are(scripts: Any, figures: Path) -> None:
    bench = scripts("bench")
    found = list(bench.kept(figures))
    assert {(item["promise"], *item["rounds"]) for item in found} == {
        ("blocking time of a checkpoint / torch.save, 100 MB", 0.1, 0.3, 0.11),
        ("blocking time of a checkpoint / async_save, worst size", 0.7, 0.8, 0.7),
        ("overhead of a training, one core spare, k = 10", 0.02),
        ("overhead, all cores busy / that of torch.save + fsync + SHA-256", 0.25, 0.5),
    }
    lines = bench.render({"promises": found}).splitlines()
    assert [line.rpartition("| ")[2] for line in lines[2:]] == ["yes |", "no |", "yes |", "yes |"]
    assert lines[2].split(" | ")[2] == "0.11 (0.1 to 0.3)"


def test_the_plot_is_the_same_each_time(scripts: Any, figures: Path) -> None:
    pytest.importorskip("matplotlib")
    bench = scripts("bench")
    value = {"machine": {"cpu": "one"}, "promises": list(bench.kept(figures))}
    for name in ("a.svg", "b.svg"):
        bench.draw(value, figures / name)
    assert (figures / "a.svg").read_bytes() == (figures / "b.svg").read_bytes()


def test_a_run_stores_one_kth_of_the_bytes_and_what_is_always_stored(scripts: Any, tmp_path: Path) -> None:
    storage = scripts("bench_storage")
    checkpoints = 200
    rows = storage.measure(tmp_path, megabytes=0.5, checkpoints=checkpoints, keeps=(10, 100))
    for row in rows:
        most = 1 / row["keep"] + ALWAYS / checkpoints
        # Packed; step records, seals and the manifest of every state are another hundredth at this size.
        assert 0.6 * most < row["ratio"] < 0.95 * most, row
