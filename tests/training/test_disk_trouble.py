"""A disk that fills up or goes away while `polledger seal` runs: one line, exit 4, and --resume finishes the run."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from polledger.core.records import Final
from tests.training.sealing import SMALL, check_seals, of_type, records_of, start_seal

resource = pytest.importorskip("resource")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_home")]

LARGE = ("--set", "width=20000")
"""A state of some 3 MB: written past the page cache."""

WORDS = ("--every", "2", "--warm", "2", "--seal-every", "2", "--set", "steps=30")

Trouble = Callable[[subprocess.Popen[str], Path], None]


def fill(process: subprocess.Popen[str], run: Path) -> None:
    """No file of the process grows any more: what a full disk does, without one."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


def take_away(process: subprocess.Popen[str], run: Path) -> None:
    """Nothing can be stored, whatever the rights of who runs the tests."""
    (run / "objects").rename(run / "away")
    (run / "objects").write_bytes(b"in the way")


@contextmanager
def sealing(run: Path, words: tuple[str, ...], *, seals: int) -> Iterator[subprocess.Popen[str]]:
    """A run that is being sealed and has so many seals."""
    process = start_seal(SMALL, run, *WORDS, *words, pause=0.05)
    try:
        while process.poll() is None and len(list(run.glob("seals/*.msgpack"))) < seals:
            time.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.communicate()


def model_root(run: Path, words: tuple[str, ...], *more: str) -> bytes:
    """Seal to the end; the published model's root."""
    process = start_seal(SMALL, run, *WORDS, *words, *more)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    records = records_of(run)
    assert check_seals(run)[-1].size == len(records)
    (final,) = of_type(records, Final)
    return final.model_root


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process need Linux")
@pytest.mark.parametrize("words", [(), LARGE], ids=["small", "large"])
@pytest.mark.parametrize("trouble", [fill, take_away])
def test_trouble_with_the_disk_ends_a_run_that_can_be_resumed(
    tmp_path: Path, trouble: Trouble, words: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    with sealing(run, words, seals=3) as process:
        trouble(process, run)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 4, errors
    assert "cannot" in errors.splitlines()[-1], errors
    assert "Traceback" not in errors
    if (run / "away").exists():
        (run / "objects").unlink()
        (run / "away").rename(run / "objects")
    # What was sealed before is whole.
    sealed = check_seals(run)
    assert len(sealed) >= 3
    assert model_root(run, words, "--resume") == model_root(tmp_path / "undisturbed", words)


def test_killed_while_large_states_are_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with sealing(run, LARGE, seals=1) as process:
        while process.poll() is None and not list(run.glob("objects/.tmp-*")):
            pass
        assert process.poll() is None
        process.kill()
        process.communicate()
    assert list(run.glob("objects/.tmp-*"))
    assert model_root(run, LARGE, "--resume") == model_root(tmp_path / "undisturbed", LARGE)
    assert not list(run.glob("objects/.tmp-*"))
