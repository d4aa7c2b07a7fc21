"""What is left of a ledger when its writer dies or its disk is full: real processes, really killed."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path
from random import Random

import pytest

from polledger.store.ledger import LedgerWriter, read_ledger

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from pathlib import Path
from random import Random
from polledger.store.ledger import LedgerWriter

random = Random(int(sys.argv[2]))
with LedgerWriter.open(Path(sys.argv[1])) as writer:
    print("open", flush=True)
    while True:
        for _ in range(random.randrange(1, 60)):
            index = writer.records
            # A kill falls mostly into the long writes, and tears them.
            writer.append(b"%08d" % index * (100_000 if index % 9 == 5 else 1 + index % 97))
        writer.sync()
        print(writer.records, flush=True)
"""

FULL = """
import resource, signal, sys
from pathlib import Path
from polledger.errors import Unavailable
from polledger.store.ledger import LedgerWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = LedgerWriter.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for attempt in ("append", "again", "sync"):
    try:
        while True:
            if attempt == "sync":
                writer.sync()
            index = writer.records
            writer.append(b"%08d" % index * 20)
    except Unavailable as error:
        print(attempt, error)
writer.close()
"""

SMALL = """
import resource, signal, sys
from pathlib import Path
from polledger.errors import Unavailable
from polledger.store.ledger import LedgerWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = LedgerWriter.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
writer.append(bytes(200))
try:
    getattr(writer, sys.argv[2])()
except Unavailable as error:
    print(error)
writer.close()
"""


def content(index: int) -> bytes:
    return b"%08d" % index * (100_000 if index % 9 == 5 else 1 + index % 97)


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_after(path: Path, seed: int) -> int:
    """Let a writer run for a moment, kill it, and return how many records it had said were synced."""
    child = start(WRITER, path, seed)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        told = [child.stdout.readline() for _ in range(Random(seed).randrange(4))]
        time.sleep(Random(seed).uniform(0, 0.03))
    finally:
        child.kill()
        rest, _ = child.communicate()
    told += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    return int(told[-1]) if told else 0


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_writer_leaves_a_prefix_with_everything_it_synced(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "ledger.log"
    synced = kill_after(path, seed)
    scan = read_ledger(path)
    assert len(scan.records) >= synced
    assert list(scan.records) == [content(index) for index in range(len(scan.records))]
    with LedgerWriter.open(path, sealed=synced) as writer:
        assert writer.records == len(scan.records)
        assert path.stat().st_size == scan.end
        writer.append(content(writer.records))
    after = read_ledger(path)
    assert after.damage is None
    assert list(after.records) == [content(index) for index in range(len(scan.records) + 1)]


def test_a_writer_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.log"
    reached = 0
    for seed in range(100, 106):
        reached = max(reached, kill_after(path, seed))
        LedgerWriter.open(path, sealed=reached).close()
        scan = read_ledger(path)
        assert scan.damage is None
        assert len(scan.records) >= reached
        assert list(scan.records) == [content(index) for index in range(len(scan.records))]


def test_a_full_disk_is_one_line_and_stops_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "ledger.log"
    with start(FULL, path) as child:
        output, _ = child.communicate(timeout=60)
    first, again, sync = output.splitlines()
    assert child.returncode == 0
    assert first == f"append cannot write {path}: File too large"
    assert again == f"again an earlier write to {path} failed, open it again"
    assert sync == f"sync an earlier write to {path} failed, open it again"
    scan = read_ledger(path)
    assert list(scan.records) == [b"%08d" % index * 20 for index in range(len(scan.records))]
    assert scan.records
    with LedgerWriter.open(path) as writer:
        assert writer.records == len(scan.records)


@pytest.mark.parametrize("last", ["sync", "close"])
def test_what_cannot_be_written_out_at_the_end_is_one_line(tmp_path: Path, last: str) -> None:
    path = tmp_path / "ledger.log"
    with start(SMALL, path, last) as child:
        output, _ = child.communicate(timeout=60)
    assert (child.returncode, output) == (0, f"cannot write {path}: File too large\n")
    scan = read_ledger(path)
    assert list(scan.records) == []
    assert scan.damage is not None
