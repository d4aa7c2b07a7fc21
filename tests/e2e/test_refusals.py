"""Everything a user can get wrong: one clear line, the right exit code, one JSON object, never a traceback."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import TASKS, Cli

TINY = str(TASKS / "tiny.py")

REFUSALS = {
    "no such task file": (["seal", "nowhere.py", "--run", "R"], 2, "nowhere.py"),
    "no such module": (["seal", "polledger.examples.digit", "--run", "R"], 2, "digits"),
    "no such class": (["seal", f"{TINY}:Tinny", "--run", "R"], 2, "Tiny"),
    "a directory as task": (["seal", str(TASKS), "--run", "R"], 2, "directory"),
    "unknown config name": (["seal", TINY, "--run", "R", "--set", "lrr=0.1"], 2, "lr"),
    "config value of another type": (["seal", TINY, "--run", "R", "--set", "lr='x'"], 2, "lr"),
    "config value that is no TOML": (["seal", TINY, "--run", "R", "--set", "lr=="], 2, "lr"),
    "undeclared input": (["seal", TINY, "--run", "R", "--input", "data=/x"], 2, "data"),
    "interval of no steps": (["seal", TINY, "--run", "R", "--every", "0"], 2, "every"),
    "no steps": (["seal", TINY, "--run", "R", "--steps", "0"], 2, "steps"),
    "no such device": (["seal", TINY, "--run", "R", "--device", "cuda"], 2, "cuda"),
    "run directory is a file": (["seal", TINY, "--run", "FILE"], 2, "FILE"),
    "key that is no key": (["seal", TINY, "--run", "R", "--key", "FILE"], 2, "FILE"),
    "nothing to resume": (["seal", "nowhere.py", "--run", "R", "--resume"], 2, "nowhere.py"),
    "missing option": (["seal", TINY], 2, "--run"),
    "unknown option": (["verify", "R", "--sampel", "8"], 2, "--sampel"),
    "unknown verb": (["verfy", "R"], 2, "verify"),
    "no such run": (["verify", "nowhere"], 2, "nowhere"),
    "run that is a file": (["verify", "FILE"], 2, "FILE"),
    "run that is an empty directory": (["verify", "EMPTY"], 2, "EMPTY"),
    "sample that is no number": (["verify", "EMPTY", "--sample", "many"], 2, "many"),
    "sample of nothing": (["verify", "EMPTY", "--sample", "0"], 2, "0"),
    "nonce that is not hex": (["verify", "EMPTY", "--nonce", "xyz"], 2, "xyz"),
    "policy that is not there": (["verify", "EMPTY", "--policy", "nowhere.toml"], 2, "nowhere.toml"),
    "policy with an unknown key": (["verify", "EMPTY", "--policy", "POLICY"], 2, "generosity"),
    "trust file that is not there": (["verify", "EMPTY", "--trust", "nowhere.toml"], 2, "nowhere.toml"),
    "inspect nothing": (["inspect", "nowhere"], 2, "nowhere"),
    "export nothing": (["export", "nowhere", "0"], 2, "nowhere"),
    "token that is not there": (
        ["timestamp", "verify", "nowhere.tsr", "--digest", "00" * 32, "--roots", "FILE"],
        2,
        "nowhere.tsr",
    ),
    "retry without a run": (["timestamp", "retry", "nowhere"], 2, "nowhere"),
}

WITH_JSON = {"seal", "verify", "inspect"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("place")
    (where / "FILE").write_text("not what you think\n")
    (where / "EMPTY").mkdir()
    (where / "POLICY").write_text("generosity = 1\n")
    return where


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_is_one_clear_line(cli: Cli, place: Path, name: str) -> None:
    words, code, hint = REFUSALS[name]
    done = cli(*words, cwd=place, env={"PYTHONPATH": str(Path.cwd())})
    assert done.code == code, done.err
    assert hint in done.last
    assert "Traceback" not in done.err
    assert not (place / "R").exists()


@pytest.mark.parametrize("name", [name for name, (words, _, _) in REFUSALS.items() if words[0] in WITH_JSON])
def test_refusal_is_one_json_object(cli: Cli, place: Path, name: str) -> None:
    words, code, _ = REFUSALS[name]
    done = cli(*words, "--json", cwd=place, env={"PYTHONPATH": str(Path.cwd())})
    assert done.code == code
    said = done.json
    assert said["exit_code"] == code
    assert said["schema"].startswith("polledger.")
    assert said["error"]


def test_crash_of_the_task_is_one_line_and_one_object(cli: Cli, tmp_path: Path) -> None:
    task = tmp_path / "broken.py"
    task.write_text(
        Path(TINY).read_text().replace("nn.functional.cross_entropy(model(x), y)", "model(x) / oops")
    )
    done = cli("seal", task, "--run", tmp_path / "run", "--json")
    assert done.code in (2, 4)
    assert "oops" in done.last
    assert "Traceback" not in done.err
    assert json.loads(done.out)["exit_code"] == done.code


def test_existing_run_is_not_overwritten(cli: Cli, tiny: Path) -> None:
    before = (tiny / "ledger.log").read_bytes()
    done = cli("seal", TINY, "--run", tiny)
    assert done.code == 2
    assert "--resume" in done.last
    assert (tiny / "ledger.log").read_bytes() == before


def test_resuming_a_finished_run_says_so(cli: Cli, tiny: Path) -> None:
    done = cli("seal", TINY, "--run", tiny, "--resume")
    assert done.code == 0
    assert "polledger verify" in done.err + done.out


def test_resuming_with_other_settings_is_refused(cli: Cli, tiny: Path) -> None:
    done = cli("seal", TINY, "--run", tiny, "--resume", "--set", "lr=0.4")
    assert done.code == 2
    assert "lr" in done.last
