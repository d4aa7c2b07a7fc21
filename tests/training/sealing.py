"""Seals runs in this process or in one of its own, and reads back what came of it."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from polledger.core.digest import ZERO
from polledger.core.head import Head, open_note
from polledger.core.merkle import chainpoint_node, leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.core.records import AnyRecord, Genesis, parse_record
from polledger.store.ledger import read_ledger
from polledger.store.run import RunDirectory
from polledger.training.plan import SealOptions, SealResult
from polledger.training.session import seal

ROOT = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).parent / "tasks" / "small.py"

R = TypeVar("R")


class Listener:
    """Keeps what a session tells."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.warnings: list[str] = []
        self.steps: list[int] = []

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def progress(self, done: int, total: int) -> None:
        assert 0 <= done <= total

    def step(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(done)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def seal_task(task: Path | str, run: Path, listener: Listener | None = None, **options: Any) -> SealResult:
    """Seal ``task`` into ``run`` in this process."""
    return seal(SealOptions(task=str(task), run=run, **options), listener or Listener())


def start_seal(task: Path | str, run: Path, *words: str, pause: float = 0.0) -> subprocess.Popen[str]:
    """``polledger seal`` in a process group of its own, its output to be read by the caller."""
    return subprocess.Popen(
        [sys.executable, "-m", "polledger.cli.app", "seal", str(task), "--run", str(run), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "SMALL_PAUSE": str(pause), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def records_of(run: Path) -> list[AnyRecord]:
    """Every record of the ledger, through the gate; fails if one cannot be read."""
    scan = read_ledger(RunDirectory.open(run).ledger_path)
    assert scan.damage is None
    return [parse_record(record) for record in scan.records if record is not None]


def of_type(records: list[AnyRecord], kind: type[R]) -> list[R]:
    return [record for record in records if isinstance(record, kind)]


def check_seals(run: Path) -> list[Head]:
    """Every head: signed by the genesis key, chained, growing, and equal to the records. Returns them."""
    directory = RunDirectory.open(run)
    records = [record or b"" for record in read_ledger(directory.ledger_path).records]
    genesis = parse_record(records[0])
    assert isinstance(genesis, Genesis)
    leaves = [leaf_hash(hashlib.sha256(record).digest()) for record in records]
    heads: list[Head] = []
    for number in directory.seals():
        head = open_note(directory.read_seal(number).note, key=genesis.key)
        assert head.previous == (heads[-1].digest() if heads else ZERO)
        assert head.size > (heads[-1].size if heads else 0)
        assert head.root == tree_root(leaves[: head.size])
        assert head.chainpoint == tree_root(leaves[: head.size], chainpoint_node)
        heads.append(head)
    assert directory.seals() == list(range(len(heads)))
    return heads
