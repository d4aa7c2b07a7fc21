"""Evidence damaged by somebody without the key: never VERIFIED, never REFUTED, and the finding names the place."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from polledger.core.records import Checkpoint, Genesis
from polledger.redteam.rewrite import read_records
from polledger.store.ledger import read_ledger
from polledger.store.run import RunDirectory
from tests.e2e.conftest import TASKS, Cli, Done

TASK = TASKS / "tiny.py"


@pytest.fixture
def copy(tiny: Path, copy_of: Callable[[Path], Path]) -> RunDirectory:
    return RunDirectory.open(copy_of(tiny))


@pytest.fixture
def verdict(cli: Cli) -> Callable[[RunDirectory], Done]:
    def verify(run: RunDirectory) -> Done:
        return cli("verify", run.path, "--sample", 100, "--task", TASK, "--json")

    return verify


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def check_unverifiable(done: Done, name: str) -> None:
    assert done.code == 3, done.err
    assert done.json["verdict"] == "UNVERIFIABLE"
    assert done.findings("fail") == []
    blamed = " ".join(str(finding) for finding in done.findings("unverifiable"))
    assert name in blamed, blamed


@pytest.mark.parametrize("record", [0, 5, -1])
def test_changed_record_is_named(
    copy: RunDirectory, verdict: Callable[[RunDirectory], Done], record: int
) -> None:
    scan = read_ledger(copy.ledger_path)
    index = record % len(scan.records)
    # 12 bytes into the frame: behind its length and checksum.
    flip(copy.ledger_path, scan.offsets[index] + 12)
    check_unverifiable(verdict(copy), str(index))


def test_changed_seal_is_named(copy: RunDirectory, verdict: Callable[[RunDirectory], Done]) -> None:
    flip(copy.seal_path(1), 200)
    check_unverifiable(verdict(copy), "seal 1")


@pytest.mark.parametrize("place", [0.0, 0.2, 0.99])
def test_changed_state_is_named(
    copy: RunDirectory, verdict: Callable[[RunDirectory], Done], place: float
) -> None:
    states = [record.root for record in read_records(copy) if isinstance(record, Checkpoint)]
    path = copy.objects.path(states[3])
    flip(path, int(place * (path.stat().st_size - 1)))
    check_unverifiable(verdict(copy), states[3].hex())


def test_missing_state_is_named(copy: RunDirectory, verdict: Callable[[RunDirectory], Done]) -> None:
    states = [record.root for record in read_records(copy) if isinstance(record, Checkpoint)]
    copy.objects.path(states[4]).unlink()
    check_unverifiable(verdict(copy), states[4].hex())


def test_missing_seal_is_named(copy: RunDirectory, verdict: Callable[[RunDirectory], Done]) -> None:
    copy.seal_path(1).unlink()
    check_unverifiable(verdict(copy), "seal 1")


def test_missing_token_is_named(copy: RunDirectory, verdict: Callable[[RunDirectory], Done]) -> None:
    token = copy.read_seal(1).tokens[0].response
    copy.objects.path(token).unlink()
    check_unverifiable(verdict(copy), token.hex())


def test_changed_example_leaves_are_named(
    copy: RunDirectory, verdict: Callable[[RunDirectory], Done]
) -> None:
    genesis = read_records(copy)[0]
    assert isinstance(genesis, Genesis)
    root = genesis.dataset.root  # type: ignore[union-attr]
    flip(copy.objects.path(root), 5)
    check_unverifiable(verdict(copy), root.hex())


def test_without_the_private_directory_opened_data_cannot_be_checked(
    copy: RunDirectory, verdict: Callable[[RunDirectory], Done]
) -> None:
    shutil.rmtree(copy.path / "private")
    check_unverifiable(verdict(copy), "secret")


def test_changed_secret_is_damage_not_a_lie(
    copy: RunDirectory, verdict: Callable[[RunDirectory], Done]
) -> None:
    flip(copy.path / "private" / "secret", 3)
    check_unverifiable(verdict(copy), "secret")


def test_hints_change_no_verdict(copy: RunDirectory, verdict: Callable[[RunDirectory], Done]) -> None:
    (copy.path / "run.toml").write_text("task = 'elsewhere.py'\n")
    assert verdict(copy).code == 0
