"""One honest run of a tiny perceptron, written by the forger's bench, and what a thief has of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from polledger.redteam.forge import forging, thief_key
from polledger.redteam.spoof import Attempt, Target
from polledger.redteam.target import target_of
from polledger.training.plan import SealOptions
from tests.redteam.judging import Judge, Pool

TASK = "polledger.examples.mlp"
STEPS = 40


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for the embedded authority."""
    directory = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setenv("POLLEDGER_HOME", str(directory))
    return directory


@pytest.fixture(scope="session")
def honest(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that lies about nothing. Not to be changed."""
    run = tmp_path_factory.mktemp("honest") / "run"
    options = SealOptions(task=TASK, run=run, every=4, warm=4, settings=(f"steps={STEPS}",))
    with forging(options, thief_key(0, "owner")) as forge:
        forge.begin()
        forge.train_through(0, forge.steps)
        forge.finish()
    return run


@pytest.fixture(scope="session")
def target(honest: Path) -> Target:
    """What a thief has of :func:`honest`."""
    return target_of(honest, task=TASK)


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    """A place for one forgery."""
    return Attempt(directory=tmp_path, seed=0)


@pytest.fixture(scope="session")
def judge() -> Iterator[Judge]:
    """A verifier who runs polledger's own tasks, and others where a forgery's arguments say so."""
    pool = Pool()
    yield Judge(pool=pool)
    pool.close()
