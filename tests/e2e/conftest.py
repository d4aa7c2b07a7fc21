"""Real runs, sealed once per session through the command line, and the command line itself as a fixture."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polledger.core.published import published_model
from polledger.publish.claim import finished_run
from polledger.store.run import RunDirectory
from polledger.verify.evidence import read_evidence
from polledger.verify.states import load_state

TASKS = Path(__file__).parent / "tasks"
NONCE = "5e" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a finished command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which has to be exactly one JSON object."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def last(self) -> str:
        """The last line on standard error."""
        return self.err.strip().splitlines()[-1]

    def findings(self, outcome: str) -> list[dict[str, Any]]:
        """Findings of a verify report with that outcome."""
        return [finding for finding in self.json["findings"] if finding["outcome"] == outcome]


Cli = Callable[..., Done]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for keys and the embedded authority."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def cli(home: Path) -> Cli:
    """Run ``polledger`` with the words given, as a user would."""

    def run(*words: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "polledger.cli.app", *map(str, words)],
            capture_output=True,
            text=True,
            env={**os.environ, "POLLEDGER_HOME": str(home), **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            timeout=600,
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    return run


@pytest.fixture(scope="session")
def sealed(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Seal a task into a new run directory and return it; the same words give the same, cached, run."""
    cache: dict[tuple[str, ...], Path] = {}

    def seal(task: object, *words: object, env: dict[str, str] | None = None) -> Path:
        key = (str(task), *map(str, words), json.dumps(env))
        if key not in cache:
            run = tmp_path_factory.mktemp("sealed") / "run"
            done = cli("seal", task, "--run", run, *words, env=env)
            assert done.code == 0, done.err
            cache[key] = run
        return cache[key]

    return seal


@pytest.fixture(scope="session")
def tiny(sealed: Callable[..., Path]) -> Path:
    """A sealed run of the tiny recipe; copy it before changing it."""
    return sealed(TASKS / "tiny.py", "--every", 4, "--warm", 2, "--seal-every", 3)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A private copy of a run directory."""

    def copy(run: Path) -> Path:
        return Path(shutil.copytree(run, tmp_path / "copy"))

    return copy


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    """The state_dict of the model that a run ends with, made from the stored state."""
    finished = finished_run(read_evidence(RunDirectory.open(run)))
    state = load_state(finished.evidence.objects, finished.lineage.checkpoints[-1].root)
    model = published_model(state.flat, finished.facts.final.object)
    return {
        tensor.path: torch.from_numpy(
            np.frombuffer(tensor.data, dtype=tensor.dtype).reshape(tensor.shape).copy()
        )
        for tensor in model.tensors
    }
