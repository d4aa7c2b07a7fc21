"""The command line in this process and in one of its own, and one sealed run without a task's code."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from polledger.cli.app import main
from polledger.cli.output import output
from tests.verify.build import Built, make_run


@dataclass(frozen=True, kw_only=True)
class Said:
    """Exit code and both streams of one command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def last(self) -> str:
        return self.err.strip().splitlines()[-1]


ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.err.strip().splitlines()[-1]


Command = Callable[..., Said]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``polledger`` with the words given."""

    def run(*words: object) -> Said:
        monkeypatch.setattr(output, "emitted", False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        streams = capsys.readouterr()
        return Said(code=int(ended.value.code or 0), out=streams.out, err=streams.err)

    return run


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A sealed run. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("cli") / "run")


@pytest.fixture
def copied(sealed: Built, tmp_path: Path) -> Built:
    from tests.verify.check import copy_of

    return copy_of(sealed, tmp_path / "run")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def polledger(home: Path) -> Any:
    """Run ``polledger`` with the words given in a process of its own, with a home that the tests of one file share."""

    def run(*words: object, both: bool = False, **env: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "polledger.cli.app", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "POLLEDGER_HOME": str(home), "OMP_NUM_THREADS": "1", **env},
            stdin=subprocess.DEVNULL,
            timeout=600,
        )
        return Done(done.returncode, done.stdout, done.stderr or "")

    return run
