"""One honest run of each kind per session; tests that change a run work on a copy."""

import pytest

from tests.verify.build import Built, Spec, make_run


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A finished recipe run of 12 steps in 5 intervals, under three timestamped seals. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("honest") / "run")


@pytest.fixture(scope="session")
def custom(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The same as a custom task that makes its own batches. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("custom") / "run", Spec(kind="custom"))
