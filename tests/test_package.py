"""What `import polledger` offers."""

import tomllib
from pathlib import Path

import pytest

import polledger


def test_version_is_that_of_the_project() -> None:
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    assert polledger.__version__ == tomllib.loads(text)["project"]["version"]


def test_names_load_on_first_use() -> None:
    assert {"Recorder", "Task", "__version__"} <= set(dir(polledger))
    assert polledger.Task.__module__ == "polledger.training.task"
    assert polledger.Recorder.__module__ == "polledger.training.recorder"


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Tsak'"):
        polledger.Tsak  # noqa: B018
