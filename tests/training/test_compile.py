"""torch.compile: what the compiler writes is no source, and a replay can compile again."""

import shutil
from pathlib import Path

import pytest

from polledger.core.records import Final, Genesis
from polledger.core.source import parse_source
from polledger.store.run import RunDirectory
from tests.training.sealing import SMALL, Listener, records_of, seal_task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("own_home", "switches"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: g++"),
]


def test_compiled_module_is_sealed_and_replays(tmp_path: Path) -> None:
    text = SMALL.read_text().replace("return nn.Sequential(", "return torch.compile(nn.Sequential(")
    text = text.replace("nn.Linear(width, 3))", "nn.Linear(width, 3)))")
    (tmp_path / "compiled.py").write_text(text)
    listener, run = Listener(), tmp_path / "run"
    seal_task(tmp_path / "compiled.py", run, listener, every=2, warm=2, settings=("steps=4", "optimizer=SGD"))
    records = records_of(run)
    genesis = records[0]
    assert isinstance(genesis, Genesis)
    assert isinstance(records[-1], Final)
    source = parse_source(RunDirectory.open(run).objects.get(genesis.task, limit=1 << 20))
    assert [entry.path for entry in source.files] == ["compiled.py"]
    # The first intervals were replayed by isolated processes, and nothing differed.
    assert listener.warnings == []
