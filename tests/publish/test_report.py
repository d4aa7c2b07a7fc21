"""The page of a report: it says what the object says, always the same bytes, and nothing in it acts."""

import copy
import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from polledger.core.reportform import VerificationForm
from polledger.core.trajectory import GROUPS, POINTS
from polledger.publish.report import report_page
from polledger.verify.sampling import SampleRequest
from polledger.verify.timeline import SEALS, TOKENS
from tests.publish.html import assert_inert, read
from tests.publish.test_markup import HOSTILE
from tests.verify.build import OTHER_MACHINE, START, Built, Hooks, Weights, make_run
from tests.verify.check import check, copy_of

DIGEST = "ab" * 32
LIMIT = 1_500_000
"""Bytes that a page has at most, whatever the run."""

VERDICTS = ("verified", "elsewhere", "refuted", "records only", "empty")
SECTIONS = ["errors", "time", "way", "sample", "odds", "environment", "findings", "code", "timing", "record"]


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return make_run(tmp_path_factory.mktemp("honest") / "run")


def pushed(step: int, state: Weights) -> None:
    """Move the weights aside once, as no training does."""
    if step == 9:
        state.w = (state.w + np.float32(0.5)).astype(np.float32)


@pytest.fixture(scope="session")
def values(honest: Built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, VerificationForm]:
    """The object of one report of each kind, as it is read from its file."""
    place = tmp_path_factory.mktemp("reports")
    lie = make_run(place / "lie", hooks=Hooks(after_step=pushed))
    gone = copy_of(honest, place / "gone")
    gone.run.ledger_path.unlink()
    made = {0: START, 1: START + timedelta(seconds=50)}
    reports = {
        "verified": check(honest, made=made, sample=SampleRequest(count=2)),
        "elsewhere": check(honest, code=honest.code(actual=OTHER_MACHINE)),
        "refuted": check(lie),
        "records only": check(honest, replay=False, scan=False),
        "empty": check(gone),
    }
    return {name: json.loads(json.dumps(report.to_json())) for name, report in reports.items()}


def page_of(value: VerificationForm) -> str:
    return report_page(value, digest=DIGEST)


def words(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(read(page).text))


@pytest.mark.parametrize("name", VERDICTS)
def test_the_page_is_well_formed_and_inert(values: dict[str, VerificationForm], name: str) -> None:
    page = page_of(values[name])
    assert_inert(page)
    found = read(page)
    ids = [item["id"] for _, item in found.seen if "id" in item]
    assert len(ids) == len(set(ids))
    for _, item in found.seen:
        for key in ("href", "clip-path"):
            if item.get(key):
                target = re.search(r"#([^)]+)", item[key] or "")
                assert target is not None
                assert target[1] in ids


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_comes_first_and_every_part_follows(
    values: dict[str, VerificationForm], name: str
) -> None:
    value = values[name]
    page = page_of(value)
    text = words(page)
    assert text.index(value["verdict"]) < text.index("What this means") < text.index("Reproduction error")
    assert [item["id"] for item in read(page).named("h2") if item.get("id")] == SECTIONS
    for limit in value["limits"]:
        assert limit in text
    assert value["sentence"].split(": ", 1)[1][1:] in text
    assert DIGEST in text
    assert value["policy"] in text


def test_what_a_verdict_means_depends_on_it(values: dict[str, VerificationForm]) -> None:
    verified, refuted, unchecked = (
        words(page_of(values[name])) for name in ("verified", "refuted", "records only")
    )
    exact = len(values["verified"]["intervals"])
    assert f"{exact} gave the recorded state bit for bit" in verified
    assert "would have missed all of them with probability" in verified
    assert "What decided: Step " in refuted
    bad = values["refuted"]["first_bad"]
    assert bad is not None
    assert bad["found"] in refuted
    assert bad["expected"] in refuted
    assert "That is no accusation" in unchecked
    assert "bit for bit" not in unchecked.split("What this means")[1].split("What this does not say")[0]


def test_settings_that_the_tasks_own_code_chose_are_not_called_committed(
    values: dict[str, VerificationForm],
) -> None:
    recipe = json.loads(json.dumps(values["verified"]))
    recipe["code"]["kind"] = "recipe"
    assert "every step that is shown are the committed ones" in words(page_of(recipe))
    custom = json.loads(json.dumps(recipe))
    custom["code"]["kind"] = "custom"
    assert "are the committed ones" not in words(page_of(custom))
    assert "within the bounds of the verifier's policy" in words(page_of(custom))


def test_the_page_shows_what_the_object_holds(values: dict[str, VerificationForm]) -> None:
    value = values["elsewhere"]
    text = words(page_of(value))
    for finding in value["findings"]:
        assert re.sub(r"\s+", " ", finding["detail"]) in text
    assert "threads" in text
    assert "another environment class" in text
    nonce, head = value["sample"], value["head"]
    assert nonce is not None
    assert head is not None
    assert nonce["nonce"] in text
    assert head["root"] in text
    for result in value["intervals"]:
        worst = max(group["e"] for group in result["groups"].values() if isinstance(group["e"], float))
        assert f"{worst:.3g}" in text or f"{value['rules']['margin']:g} times" in text


def test_all_that_is_drawn_is_in_the_figures(values: dict[str, VerificationForm]) -> None:
    page = page_of(values["elsewhere"])
    assert page.count('class="figure"') == 3
    assert page.count('class="map"') == 1
    assert "matplotlib is not installed" not in page
    for series in ("displacement u", "tolerance f", "noise floor ν", "error e, passed", "bit for bit"):
        assert f">{series}</text>" in page
    assert ">group A</text>" in page
    assert "token of the prover" in page
    assert re.search(r"10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+</text>", page)


def rendered(value: VerificationForm, *, hidden: str = "", **environment: str) -> str:
    """The page as another process makes it; ``hidden``: a module that cannot be imported there."""
    program = (
        "import sys, json; from polledger.publish.report import report_page\n"
        f"sys.modules.update({{{hidden!r}: None}} if {hidden!r} else {{}})\n"
        f"sys.stdout.write(report_page(json.load(sys.stdin), digest={DIGEST!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(value),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_the_same_object_gives_the_same_bytes_in_any_process(
    values: dict[str, VerificationForm], tmp_path: Path
) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 40\nsvg.fonttype: path\naxes.grid: False\n")
    for name in ("elsewhere", "refuted"):
        page = page_of(values[name])
        assert page_of(copy.deepcopy(values[name])) == page
        other = rendered(
            values[name],
            PYTHONHASHSEED="7",
            MPLCONFIGDIR=str(tmp_path),
            TZ="Asia/Tokyo",
            SOURCE_DATE_EPOCH="5",
        )
        assert other == page


def test_without_matplotlib_tables_take_the_place_of_figures(values: dict[str, VerificationForm]) -> None:
    page = rendered(values["elsewhere"], hidden="matplotlib")
    assert_inert(page)
    assert page.count("matplotlib is not installed") == 3
    assert 'class="figure"' not in page
    assert 'class="map"' in page
    inside = page.split("<figure>")[1].split("</figure>")[0]
    assert "<details" not in inside
    assert "Opened intervals, those with most to tell first" in inside


def test_verifying_without_a_report_loads_no_matplotlib() -> None:
    program = (
        "import sys, polledger.cli.verify, polledger.publish.report; sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# What evidence says

FIXED = {"schema", "verdict", "outcome", "kind", "assurance", "comparison", "time", "made", "nu", "e", "u", "mode",
         "l1", "l2", "linf", "cosine", "d_ref", "d_ref_normalised", "opened"}  # fmt: skip
"""Fields whose texts polledger chooses or has checked."""


def poisoned(value: Any, text: str, key: str = "") -> Any:
    """``value`` with ``text`` in place of every text that may come from evidence."""
    if isinstance(value, dict):
        return {name: poisoned(item, text, name) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, text, key) for item in value]
    return text if isinstance(value, str) and key not in FIXED else value


@pytest.mark.parametrize("text", [*HOSTILE, "x" * 1_000_000])
def test_hostile_texts_are_texts(values: dict[str, VerificationForm], text: str) -> None:
    value = poisoned(values["elsewhere"], text)
    value["screening"]["flags"] = [
        {"kind": "jump", "intervals": [1, 2], "group": text, "value": "inf", "limit": 0.0, "opened": "all"}
    ]
    value["time"]["waiting"] = [{"seal": 1, "authority": text, "since": text, "attempts": 1, "reason": text}]
    value["time"]["renewals"] = [{"index": 0, "by": text, "operators": [text]}]
    value["time"]["witnesses"] = [
        {"name": text, "operator": text, "heads": 1, "size": 1, "first": None, "last": None, "final": True}
    ]
    value["code"] = {"kind": "custom", "digest": text, "class": text, "lines": 1, "entry": text, "files": 1,
                     "sources": [{"path": text, "size": 1, "sha256": text}], "vouched": text}  # fmt: skip
    value["environment"]["recorded"] = {text: text, "flags": {text: text}}
    value["findings"].append({"step": 77, "name": text, "outcome": "fail", "detail": text, "expected": text})
    page = page_of(value)
    assert_inert(page)
    page.encode()
    assert len(page) < LIMIT
    assert page.count("<style") == 1
    assert "<script" not in page
    assert "<img" not in page


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", 0.0, 5e-324, 1.7e308])
def test_numbers_that_cannot_be_drawn_are_written(values: dict[str, VerificationForm], number: Any) -> None:
    value = cast(Any, copy.deepcopy(values["elsewhere"]))
    for result in value["intervals"]:
        for group in result["groups"].values():
            group.update(e=number, u=number, nu=number)
    for group in value["trajectory"]["groups"]:
        group["distance"] = [number for _ in group["distance"]]
        group["moved"] = [number for _ in group["moved"]]
    page = page_of(value)
    assert_inert(page)
    if isinstance(number, str):
        assert f">{number}<" in page


# Long runs


def long_run(value: VerificationForm, count: int) -> Any:
    """``value`` as if ``count`` intervals had been opened, flagged, and everything else had its largest size."""
    grown = cast(Any, copy.deepcopy(value))
    one = grown["intervals"][0]
    grown["intervals"] = [
        one | {"interval": at, "steps": [at * 5, at * 5 + 5], "exact": at % 2 == 0} for at in range(count)
    ]
    grown["intervals"][count // 3] |= {"outcome": "fail", "exact": False}
    everything = list(range(count))
    grown["sample"] |= {"total": count, "drawn": count, "drawn_intervals": everything[::2],
                        "intervals": everything, "flagged": everything[::3], "top": []}  # fmt: skip
    flag = {"kind": "jump", "group": "model/parameters", "value": 3.0, "limit": 1.0, "opened": "all"}
    grown["screening"]["flags"] = [flag | {"intervals": [at, at]} for at in range(count)]
    away = [float(at) for at in range(POINTS + 1)]
    grown["trajectory"] |= {
        "steps": [at * 5 * count // POINTS for at in range(POINTS + 1)],
        "intervals": [at * count // POINTS for at in range(POINTS + 1)],
        "merged": count // POINTS,
        "groups": [{"name": f"g{at}" * 100, "distance": away, "moved": away} for at in range(GROUPS)],
    }
    token = {"authority": "a" * 256, "operator": "o" * 256, "embedded": False, "time": "2026-03-01T12:00:00Z",
             "accuracy": 1.0, "lag": 2.0}  # fmt: skip
    grown["time"]["timeline"] = {
        "seals": [
            {"seal": at, "size": at + 1, "steps": at, "made": "2026-03-01T11:59:58Z",
             "tokens": [token | {"operator": f"{at % 26}"} for at in range(TOKENS)], "left_out": 3}
            for at in range(SEALS)
        ],
        "left_out": 9,
    }  # fmt: skip
    finding = {
        "step": 9,
        "name": "replay",
        "outcome": "unverifiable",
        "detail": "d" * 5000,
        "remedy": "r" * 5000,
    }
    grown["findings"] += [finding] * 2_000
    return grown


def test_the_page_of_a_long_run_is_small_and_keeps_what_failed(values: dict[str, VerificationForm]) -> None:
    count = 100_000
    page = page_of(long_run(values["elsewhere"], count))
    assert_inert(page)
    assert len(page.encode()) < LIMIT
    exact = sum(at % 2 == 0 and at != count // 3 for at in range(count))
    assert f"{count} intervals replayed, {exact} of them bit for bit; 1 did not pass." in words(page)
    assert page.count('class="c-failed"') == 2  # one in the map, one in its key
    assert f">{count // 3}<" in page
    assert "error e, failed" in page
    assert "A cell is 50 consecutive intervals" in page


def test_a_wide_timeline_keeps_operators_apart(values: dict[str, VerificationForm]) -> None:
    page = page_of(long_run(values["elsewhere"], 50))
    found = [item for item in read(page).named("ul") if item.get("aria-label") == "Operators"]
    assert len(found) == 1
    assert ">token, operator H</text>" in page
