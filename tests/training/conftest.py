"""What sealing in this process needs: a home of its own, and switches put back afterwards."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from polledger.training.switches import SWITCHES


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for keys and the embedded authority."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLLEDGER_HOME", str(home))
    return home


@pytest.fixture
def switches() -> Iterator[None]:
    """Puts torch's switches, thread count and sys.path back."""
    before = [(switch, switch.read()) for switch in SWITCHES]
    threads, path = torch.get_num_threads(), list(sys.path)
    yield
    for switch, value in before:
        switch.write(value)
    torch.set_num_threads(threads)
    sys.path[:] = path
