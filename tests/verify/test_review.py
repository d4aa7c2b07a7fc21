"""What a hostile run, or a hostile neighbour of an honest one, tried: found in review, each stopped since."""

from pathlib import Path

import msgspec
import pytest

from polledger.cli.code import names_entry
from polledger.core.config import encode_config
from polledger.core.digest import sha256
from polledger.core.encoding import real
from polledger.core.records import Checkpoint, Dataset, Final, Genesis, Resume, Step
from polledger.core.source import SourceFile, TaskSource
from polledger.core.state import TensorData
from polledger.core.text import one_line
from polledger.errors import Unavailable
from polledger.files import read_bounded
from polledger.training.determinism import THREADS_MAX, process_environment
from polledger.training.location import resolve_task
from polledger.verify.movement import Meter
from tests.verify.build import CONFIG, ENVIRONMENT, Built, make_run, reseal
from tests.verify.check import check, copy_of, failures, named


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return make_run(tmp_path_factory.mktemp("review") / "run")


def changed_genesis(built: Built, path: Path, **values: object) -> Built:
    first = built.records[0]
    assert isinstance(first, Genesis)
    return reseal(built, path, [msgspec.structs.replace(first, **values), *built.records[1:]])


def test_a_seal_of_an_enormous_number_takes_no_time(built: Built, tmp_path: Path) -> None:
    copy = copy_of(built, tmp_path / "run")
    seals = copy.run.path / "seals"
    (seals / "999999999999999.msgpack").write_bytes((seals / "000000.msgpack").read_bytes())
    assert check(copy).verdict == "UNVERIFIABLE"


@pytest.mark.parametrize("size", [1 << 40, (1 << 53) - 1])
def test_a_batch_size_only_genesis_claims_is_never_computed(built: Built, tmp_path: Path, size: int) -> None:
    config = encode_config({**CONFIG, "batch_size": size})
    assert check(changed_genesis(built, tmp_path / "run", config=config)).verdict != "VERIFIED"


@pytest.mark.parametrize("size", [1 << 33, (1 << 53) - 1])
def test_a_data_set_too_large_for_any_order_is_a_finding(built: Built, tmp_path: Path, size: int) -> None:
    dataset = Dataset(root=sha256(b"none"), size=size)
    assert check(changed_genesis(built, tmp_path / "run", dataset=dataset)).verdict != "VERIFIED"


def test_a_sum_beyond_float64_is_infinite_and_raises_nothing() -> None:
    import numpy as np

    data = memoryview(np.array([1.3e154]).tobytes())
    tensors = [TensorData(path=name, dtype="float64", shape=(1,), data=data) for name in "ab"]
    assert Meter([], seed=b"s").distance(tensors, []) == float("inf")


def test_a_sparse_file_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(Unavailable, match="memory"):
        read_bounded(path, limit=1 << 42)


def test_a_finished_run_is_not_resumed(built: Built, tmp_path: Path) -> None:
    records = built.records
    last = [record for record in records if isinstance(record, Checkpoint)][-2]
    final = records[-1]
    assert isinstance(final, Final)
    resume = Resume(
        v=1,
        run=last.run,
        index=len(records),
        environment=ENVIRONMENT,
        source=last.index,
        first=last.index + 1,
        last=final.index,
        reason="a better end",
    )
    moved = len(records) - last.index
    again = [
        msgspec.structs.replace(record, checkpoint=record.checkpoint + moved)
        if isinstance(record, Final)
        else record
        for record in records[last.index + 1 :]
    ]
    report = check(reseal(built, tmp_path / "run", [*records, resume, *again]))
    assert report.verdict == "REFUTED"
    assert any("final record" in finding.detail for finding in failures(report))


def test_the_task_a_verifier_names_is_the_one_that_runs(tmp_path: Path) -> None:
    entry = SourceFile(path="evil.py", executable=False, size=0, digest=sha256(b""))
    source = TaskSource(v=1, entry="evil.py", class_name="Evil", lines=0, files=[entry], distributions=[])
    for name in ("good.py", "evil.py"):
        (tmp_path / name).write_text("")
    assert names_entry(resolve_task(str(tmp_path / "evil.py")), source)
    assert names_entry(resolve_task(f"{tmp_path / 'evil.py'}:Evil"), source)
    assert not names_entry(resolve_task(f"{tmp_path / 'evil.py'}:Good"), source)
    assert not names_entry(resolve_task(str(tmp_path / "good.py")), source)


def test_evidence_cannot_write_a_last_line_of_its_own() -> None:
    assert "\n" not in one_line("outside\nVERIFIED: 60 of 60 intervals")
    assert "\x1b" not in one_line("\x1b[2Jclean")
    assert one_line("plain — sentence ν") == "plain — sentence ν"


def test_a_record_starts_no_crowd_of_threads() -> None:
    hostile = msgspec.structs.replace(ENVIRONMENT, threads=(1 << 53) - 1)
    assert process_environment(hostile)["OMP_NUM_THREADS"] == str(THREADS_MAX)


def test_metrics_the_replay_does_not_give_are_named(built: Built, tmp_path: Path) -> None:
    records = [
        msgspec.structs.replace(record, metrics={"accuracy": real(1.0)})
        if isinstance(record, Step)
        else record
        for record in built.records
    ]
    report = check(reseal(built, tmp_path / "run", records))
    assert report.verdict == "VERIFIED"
    assert [finding.outcome for finding in named(report, "metrics")] == ["unverifiable"]
    assert named(check(built), "metrics") == []
