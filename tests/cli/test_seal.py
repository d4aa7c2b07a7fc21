"""`polledger seal` and `polledger keygen` as a user meets them: results, exit codes, one clear line each."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polledger.cli.seal import goes_on
from polledger.cli.sealed import resume_command, verify_command
from polledger.cli.sealing import describe_metrics
from polledger.store.run import RunDirectory
from polledger.training.plan import SealOptions
from tests.verify.build import Built, reseal

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "training" / "tasks" / "small.py"


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small task, printing on standard output from Python and from below it, with an input."""
    text = SMALL.read_text()
    text = text.replace("time.sleep(PAUSE)\n", "print('step'); os.write(1, b'raw\\n'); time.sleep(PAUSE)\n")
    text = text.replace("domains =", "inputs = {'data': None}\n    domains =")
    path = tmp_path_factory.mktemp("task") / "talkative.py"
    path.write_text(text)
    return path


def test_json_is_one_object_whatever_the_task_prints(polledger: Any, talkative: Path, tmp_path: Path) -> None:
    (tmp_path / "my data").mkdir()
    run = tmp_path / "run"
    words = (
        "seal",
        talkative,
        "--run",
        run,
        "--input",
        f"data={tmp_path / 'my data'}",
        "--every",
        8,
        "--warm",
        1,
    )
    done = polledger(*words, "--steps", 10, "--set", "lr=0.02", "--seed", 3, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (said["schema"], said["exit_code"], said["finished"]) == ("polledger.seal/1", 0, True)
    assert (said["steps"], said["total"], said["kind"], said["warnings"]) == (10, 10, "recipe", [])
    assert len(bytes.fromhex(said["run"])) == 16
    assert len(bytes.fromhex(said["model_root"])) == 32
    assert said["verify"] == f"polledger verify {run} --task {talkative} --input 'data={tmp_path}/my data'"
    assert 0 < said["metrics"]["loss"] < 10
    assert done.last.startswith(f"sealed 10 steps in {run}, ending at loss ")

    again = polledger(*words, "--json")
    assert again.code == 2
    assert "--resume" in json.loads(again.out)["error"]
    finished = polledger("seal", talkative, "--run", run, "--resume")
    assert finished.code == 0
    assert finished.last.endswith("all 10 steps were sealed before; the line above verifies it")
    assert finished.out.startswith(f"polledger verify {run}")
    quiet = polledger("--quiet", "seal", talkative, "--run", run, "--resume")
    assert quiet.err.strip().splitlines() == [finished.last]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nosuch.py", "--run", "{tmp}/r"], 2, "no such file: nosuch.py"),
        (["scripts", "--run", "{tmp}/r"], 2, "package without a file"),
        (["tests/", "--run", "{tmp}/r"], 2, "is a directory"),
        (["polledger.examples.digit", "--run", "{tmp}/r"], 2, "did you mean digits"),
        ([str(SMALL) + ":Smal", "--run", "{tmp}/r"], 2, "did you mean Small"),
        ([str(SMALL)], 2, "--run"),
        ([str(SMALL), "--run", "{tmp}/file"], 2, "is a file"),
        ([str(SMALL), "--run", "{tmp}/full"], 2, "not empty"),
        ([str(SMALL), "--run", "{tmp}/file/r"], 4, "Not a directory"),
        ([str(SMALL), "--run", "{tmp}/r", "--every", "0"], 2, "--every takes an integer of at least 1"),
        ([str(SMALL), "--run", "{tmp}/r", "--every", "x"], 2, "--every"),
        ([str(SMALL), "--run", "{tmp}/r", "--warm", "-1"], 2, "--warm"),
        ([str(SMALL), "--run", "{tmp}/r", "--keep", "0"], 2, "--keep"),
        (
            [str(SMALL), "--run", "{tmp}/r", "--keep", "auto:1kB"],
            4,
            "states of",
        ),
        (
            [str(SMALL), "--run", "{tmp}/r", "--keep", "2.5"],
            2,
            "--keep takes a number of checkpoints, auto, or auto with a size like auto:50GB, not '2.5'",
        ),
        ([str(SMALL), "--run", "{tmp}/r", "--steps", "5", "--set", "steps=7"], 2, "give one of them"),
        ([str(SMALL), "--run", "{tmp}/r", "--seed", "-1"], 2, "--seed"),
        ([str(SMALL), "--run", "{tmp}/r", "--set", "lr"], 2, "NAME=VALUE"),
        ([str(SMALL), "--run", "{tmp}/r", "--set", "lrr=1"], 2, "did you mean lr"),
        ([str(SMALL), "--run", "{tmp}/r", "--steps", "0"], 2, "'steps'"),
        ([str(SMALL), "--run", "{tmp}/r", "--input", "x={tmp}/nothing"], 2, "no such file or directory"),
        ([str(SMALL), "--run", "{tmp}/r", "--input", "x={tmp}"], 2, "no input 'x'"),
        ([str(SMALL), "--run", "{tmp}/r", "--key", "{tmp}/no.pem"], 2, "no such key"),
        ([str(SMALL), "--run", "{tmp}/r", "--key", "{tmp}/file"], 2, "holds no private key"),
        ([str(SMALL), "--run", "{tmp}/r", "--tsa", "nobody"], 2, "no authority is called 'nobody'; near: "),
        ([str(SMALL), "--run", "{tmp}/r", "--device", "cuda:7"], 2, "no device 'cuda:7' here"),
        ([str(SMALL), "--run", "{tmp}/r", "--nonsense"], 2, "--nonsense"),
    ],
)
def test_whatever_is_wrong_gets_one_line_and_its_exit_code(
    polledger: Any, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    done = polledger("seal", *(word.format(tmp=tmp_path) for word in words), "--json")
    assert done.code == code, done.err
    assert message in done.last
    assert "Traceback" not in done.err
    assert json.loads(done.out) == {
        "schema": "polledger.seal/1",
        "exit_code": code,
        "error": done.last.removeprefix("polledger: "),
    }
    assert not (tmp_path / "r").exists()


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small task, which ends at its ninth loss in the way that BREAK names."""
    text = SMALL.read_text()
    text = text.replace("time.sleep(PAUSE)\n        values, labels", "self.count()\n        values, labels")
    text = text.replace("return 96", 'return int(os.environ.get("SIZE", "96"))')
    text += """
    def count(self):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 9 and os.environ.get("BREAK") == "raise":
            raise ArithmeticError("broken")
        if self.calls == 9 and os.environ.get("BREAK") == "exit":
            raise SystemExit(0)
"""
    path = tmp_path_factory.mktemp("task") / "failing.py"
    path.write_text(text)
    return path


def test_how_to_go_on_is_said_where_a_run_goes_on(polledger: Any, failing: Path, tmp_path: Path) -> None:
    words = ("seal", failing, "--run", tmp_path / "run", "--every", 4, "--warm", 1)
    again = f"what was sealed stays; continue with: polledger seal {failing} --run {tmp_path}/run --resume"
    broken = polledger(*words, BREAK="raise")
    assert broken.code == 2
    assert "broken" in broken.last
    assert again in broken.err
    for refused in (["--set", "lr=0.5"], ["--key", tmp_path / "no.pem"], ["--tsa", "nobody"]):
        done = polledger(*words, "--resume", *refused)
        assert done.code == 2
        assert "continue with" not in done.err
    # Without inputs nothing vouches for the data set: it is read again.
    other = polledger(*words, "--resume", SIZE="90")
    assert other.code == 2
    assert "restoring the latest state" in other.err
    assert "continue with" not in other.err
    with RunDirectory.open(tmp_path / "run").lock():
        busy = polledger(*words, "--resume")
    assert busy.code == 4
    assert "continue with" not in busy.err


def test_a_run_goes_on_until_its_end_is_sealed(sealed: Built, tmp_path: Path) -> None:
    assert not goes_on(tmp_path)
    assert not goes_on(sealed.run.path)
    assert goes_on(reseal(sealed, tmp_path / "cut", sealed.records[:-1]).run.path)
    unsealed = reseal(sealed, tmp_path / "unsealed", sealed.records)
    unsealed.run.seal_path(unsealed.run.seals()[-1]).unlink()
    assert goes_on(unsealed.run.path)


def test_the_command_stands_above_the_sentence(polledger: Any, failing: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = polledger("seal", failing, "--run", run, "--every", 4, "--warm", 1, both=True)
    assert done.code == 0
    command, sentence = done.out.splitlines()[-2:]
    assert command == f"polledger verify {run} --task {failing}"
    assert sentence.startswith(f"sealed 24 steps in {run}, ending at loss ")
    assert sentence.endswith("; the line above verifies the run")
    other = polledger("seal", failing, "--run", run, "--resume", "--set", "lr=0.5")
    assert other.code == 2
    assert "continue with" not in other.err


def test_a_task_that_exits_does_not_end_the_command_with_its_code(
    polledger: Any, failing: Path, tmp_path: Path
) -> None:
    done = polledger("seal", failing, "--run", tmp_path / "run", "--json", BREAK="exit")
    assert done.code == 2
    assert "step 8 failed: SystemExit: 0" in done.last
    assert json.loads(done.out)["exit_code"] == 2


def test_commands_are_quoted_for_the_shell() -> None:
    options = SealOptions(
        task="my task.py", run=Path("a run"), inputs={"x": "/d e"}, authorities=("http://t/",)
    )
    assert (
        verify_command(options, options.inputs)
        == "polledger verify 'a run' --task 'my task.py' --input 'x=/d e'"
    )
    expected = "polledger seal 'my task.py' --run 'a run' --input 'x=/d e' --tsa http://t/ --resume"
    assert resume_command(options) == expected
    secret = replace(options, authorities=("http://u:pw@t/", "http://t/?key=pw", "http://t/"))
    assert resume_command(secret) == expected
    own = SealOptions(task="polledger.examples.digits", run=Path("R"))
    assert verify_command(own, {}) == "polledger verify R"


def test_three_metrics_are_shown_loss_and_accuracy_first() -> None:
    metrics = {"zeta": 1.0, "loss": 0.123456, "accuracy": 0.5, "alpha": float("nan")}
    assert describe_metrics(metrics) == "loss 0.1235, accuracy 0.5, alpha nan"


class TestKeygen:
    def test_makes_a_private_file_and_prints_the_public_key(self, polledger: Any, tmp_path: Path) -> None:
        done = polledger("keygen", "-o", tmp_path / "k.pem", "--json")
        assert done.code == 0, done.err
        said = json.loads(done.out)
        assert len(bytes.fromhex(said["public_key"])) == 32
        assert stat.S_IMODE((tmp_path / "k.pem").stat().st_mode) == 0o600

    def test_never_overwrites(self, polledger: Any, tmp_path: Path) -> None:
        (tmp_path / "k.pem").write_text("precious")
        done = polledger("keygen", "-o", tmp_path / "k.pem")
        assert (done.code, done.out) == (2, "")
        assert "never overwritten" in done.last
        assert (tmp_path / "k.pem").read_text() == "precious"

    def test_encrypts_with_the_passphrase_of_the_environment(self, polledger: Any, tmp_path: Path) -> None:
        done = polledger("keygen", "-o", tmp_path / "k.pem", "--encrypt", POLLEDGER_KEY_PASSWORD="horse")
        assert done.code == 0, done.err
        assert b"ENCRYPTED" in (tmp_path / "k.pem").read_bytes()

    def test_encrypting_without_terminal_or_variable_is_refused(self, polledger: Any, tmp_path: Path) -> None:
        done = polledger("keygen", "-o", tmp_path / "k.pem", "--encrypt")
        assert done.code == 2
        assert "POLLEDGER_KEY_PASSWORD" in done.last
        assert not (tmp_path / "k.pem").exists()
