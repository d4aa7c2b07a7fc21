"""`polledger seal` and `polledger keygen` as a user meets them: results, exit codes, one clear line each."""

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from polledger.cli.seal import describe_metrics, resume_command, verify_command
from polledger.training.plan import SealOptions

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "training" / "tasks" / "small.py"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def polledger(home: Path) -> Any:
    def run(*words: object, **env: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "polledger.cli.app", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "POLLEDGER_HOME": str(home), "OMP_NUM_THREADS": "1", **env},
            stdin=subprocess.DEVNULL,
            timeout=600,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


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
    assert "all 10 steps were sealed before" in finished.last
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
        ([str(SMALL), "--run", "{tmp}/r", "--seed", "-1"], 2, "--seed"),
        ([str(SMALL), "--run", "{tmp}/r", "--set", "lr"], 2, "NAME=VALUE"),
        ([str(SMALL), "--run", "{tmp}/r", "--set", "lrr=1"], 2, "did you mean lr"),
        ([str(SMALL), "--run", "{tmp}/r", "--steps", "0"], 2, "'steps'"),
        ([str(SMALL), "--run", "{tmp}/r", "--input", "x={tmp}/nothing"], 2, "no such file or directory"),
        ([str(SMALL), "--run", "{tmp}/r", "--input", "x={tmp}"], 2, "no input 'x'"),
        ([str(SMALL), "--run", "{tmp}/r", "--key", "{tmp}/no.pem"], 2, "no such key"),
        ([str(SMALL), "--run", "{tmp}/r", "--key", "{tmp}/file"], 2, "holds no private key"),
        ([str(SMALL), "--run", "{tmp}/r", "--tsa", "nobody"], 2, "'nobody'"),
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
