"""What the evidence scripts conclude from measured rows: shares, margins, recommendations, statements."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


def interval(first: int, last: int, outcome: str = "pass", **ratios: float) -> dict[str, Any]:
    groups = {f"model/{name}": [value, value] for name, value in ratios.items()}
    return {"steps": [first, last], "outcome": outcome, "exact": False, "groups": groups}


def row(run: str, machine: str, *intervals: dict[str, Any], verdict: str = "VERIFIED") -> dict[str, Any]:
    return {
        "run": run,
        "machine": machine,
        "verdict": verdict,
        "drift": "pass" if machine not in ("as recorded", "interpolation") else "",
        "why": "",
        "intervals": list(intervals),
    }


def test_margin_is_the_smallest_spoof_over_the_largest_error_elsewhere(script: Any) -> None:
    honest = script("honest")
    rows = [
        row("mlp-k10", "as recorded", interval(10, 20, parameters=0.5)),
        row("mlp-k10", "AVX2", interval(10, 20, parameters=1e-6), interval(150, 160, parameters=1e-5)),
        row("mlp-k10", "other threads", interval(20, 30, parameters=4e-6)),
        row("mlp-k10", "interpolation", interval(10, 20, parameters=0.8), interval(30, 40, parameters=0.4)),
    ]
    (found,) = honest.margins(rows, {})
    assert (found["k"], found["phase"], found["honest"], found["spoof"]) == (10, "early", 4e-6, 0.4)
    assert found["margin"] == pytest.approx(1e5)
    (other,) = honest.margins(rows, {("mlp", 10): 0.2})
    assert other["margin"] == pytest.approx(5e4)


def test_red_team_counts_where_intervals_were_made_up(script: Any, tmp_path: Path) -> None:
    def attempt(spoof: str, ratio: float | str | None, every: int | None = 5) -> dict[str, Any]:
        task = "polledger.examples.mlp"
        return {"task": task, "spoof": spoof, "parameters_e_u": ratio, "every": every}

    attempts = [attempt("2+1", 0.9), attempt("27", 0.7), attempt("1", "inf"), attempt("24+0.05", 0.05)]
    attempts += [attempt("10", 0.0), attempt("14+splice", None, None)]
    (tmp_path / "redteam.json").write_text(json.dumps({"attempts": attempts}))
    assert script("honest").redteam_ratios(tmp_path) == {("mlp", 5): 0.7}
    assert script("honest").redteam_ratios(tmp_path / "none") == {}


def test_groups_that_a_spoof_gets_right_have_no_margin(script: Any) -> None:
    rows = [
        row("mlp-k10", "AVX2", interval(10, 20, parameters=1e-6, buffers=1e-7)),
        row("mlp-k10", "interpolation", interval(10, 20, parameters=0.8, buffers=0.0)),
    ]
    assert [item["group"] for item in script("honest").margins(rows, {})] == ["model/parameters"]


def test_recommended_k_is_the_last_before_a_margin_falls_below(script: Any) -> None:
    honest = script("honest")
    worst = [
        {"kind": "resnet BN", "k": k, "margin": margin}
        for k, margin in ((25, 9.0), (1, 1e5), (10, 4.9), (5, 50.0))
    ]
    assert honest.recommended("resnet BN", worst) == (5, 10)
    assert honest.recommended("resnet BN", worst[:2]) == (25, None)
    assert honest.recommended("mlp", worst) == (None, None)


def test_shares_count_other_machines_and_every_refutation(script: Any) -> None:
    honest = script("honest")
    rows = [
        row("mlp-k10", "as recorded", interval(0, 1), verdict="UNVERIFIABLE"),
        row("mlp-k10", "AVX2", interval(0, 1)),
        row("mlp-k10", "no AVX", interval(0, 1), verdict="REFUTED"),
        row("mlp-k10", "interpolation", interval(0, 1), verdict="REFUTED"),
        row("resnet-BN-k5", "AVX2", interval(0, 5), interval(80, 85, "unverifiable"), verdict="UNVERIFIABLE"),
    ]
    found = honest.evaluate(rows)
    assert found["honest_verifications"] == 4
    assert [item["machine"] for item in found["refuted"]] == ["no AVX"]
    assert found["verified_share"] == {"mlp": 0.5}
    late = [item for item in found["unverifiable"] if item["phase"] == "late"]
    assert [(item["kind"], item["k"], item["unverifiable"]) for item in late] == [("resnet BN", 5, 1)]


def test_names_of_runs_are_unique_and_every_kind_has_its_machines(script: Any) -> None:
    honest = script("honest")
    names = [item.name for item in honest.RUNS]
    assert len(set(names)) == len(names)
    counts = [len(list(honest.verifications(item))) for item in honest.RUNS]
    assert sum(counts) >= 100


def measured(
    net: str, machine: str, k: int, e_u: float, *, e: float = 1.0, phase: str = "late"
) -> dict[str, Any]:
    return {"net": net, "machine": machine, "k": k, "phase": phase, "e": e, "e_u": e_u, "e_d_ref": e}


def test_statements_follow_from_the_rows(script: Any) -> None:
    figure1 = script("figure1")
    rows = [
        measured(net, machine, 10, value, e=value * scale, phase=phase)
        for net, elsewhere in (("a", 1e-3), ("b", 0.5))
        for phase, scale in (("early", 1.0), ("late", 3.0))
        for machine, value in ((figure1.SAME, 0.0), ("AVX2", elsewhere), (figure1.SPOOF, 1.0))
    ]
    k_10, same, absolute = figure1.statements(rows)
    assert k_10.holds.startswith("confirmed for a; not for b")
    assert "the error is 0" in same.holds
    # b: honest 1.5 late, spoof 1.0 early.
    assert "not confirmed" in absolute.holds
    assert figure1.margin(rows, "b", 10, "late") == 2.0


def test_evidence_is_json_with_a_line_for_each_entry(script: Any, tmp_path: Path) -> None:
    value = {"machine": {"cpu": "x"}, "rows": [{"a": 1}, {"a": 2}], "empty": [], "number": 1.5}
    path = script("evidence").write_evidence("x", value, directory=tmp_path)
    assert json.loads(path.read_text()) == value
    assert [line.strip(" ,") for line in path.read_text().splitlines() if '"a"' in line] == [
        '{"a": 1}',
        '{"a": 2}',
    ]


def test_the_text_to_train_on_is_the_same_everywhere(script: Any, tmp_path: Path) -> None:
    write_text = script("evidence").write_text
    one, other = (write_text(tmp_path / name, size=5000).read_bytes() for name in "ab")
    assert one == other
    assert len(one) >= 5000


def test_a_figure_has_the_same_bytes_each_time(script: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure1 = script("figure1")
    rows = [
        measured("net", machine, k, value, e=value, phase=phase)
        for k in (1, 10)
        for phase in ("early", "late")
        for machine, value in ((figure1.SAME, 0.0), ("AVX2", 1e-3 * k), (figure1.SPOOF, 1.0))
    ]
    value = {"rows": rows, "machine": {"gpu": "", "cpu": "x", "torch": "2"}}
    drawn = []
    for name in ("one", "two"):
        figure1.draw(value, [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
        drawn.append((tmp_path / f"{name}.svg").read_bytes())
    assert drawn[0] == drawn[1]
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (346428.9, "3.4e+05"),
        (419.99, "4.1e+02"),
        (4.99, "4.9"),
        (5.0, "5"),
        (0.57, "0.57"),
        (0.0, "0"),
        (None, "–"),
    ],
)
def test_margins_are_rounded_down(script: Any, value: float | None, text: str) -> None:
    assert script("evidence").at_least(value) == text
