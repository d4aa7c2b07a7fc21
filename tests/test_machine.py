"""What this machine lets a process use."""

from pathlib import Path

import pytest

from polledger import machine
from polledger.machine import memory_limit, usable_cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of control groups; this process is in ``/a/b`` of them."""
    own = tmp_path / "own"
    own.write_text("4:memory:/elsewhere\n0::/a/b\n")
    monkeypatch.setattr(machine, "_OWN_GROUP", own)
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "groups")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    return tmp_path / "groups"


@pytest.fixture
def here(groups: Path) -> tuple[int, int]:
    """Cores and memory where no group limits them."""
    return usable_cores(), memory_limit()


def test_without_limits_all_is_there(groups: Path, here: tuple[int, int]) -> None:
    (groups / "a" / "cpu.max").write_text("max 100000\n")
    (groups / "a" / "memory.max").write_text("max\n")
    assert (usable_cores(), memory_limit()) == here
    assert here[0] >= 1
    assert here[1] > 1 << 20


@pytest.mark.parametrize("place", [".", "a", "a/b"])
def test_the_least_of_all_groups_counts(groups: Path, place: str) -> None:
    for name in (".", "a", "a/b"):
        (groups / name / "memory.max").write_text("4096\n" if name == place else "8192\n")
        (groups / name / "cpu.max").write_text("150000 100000\n" if name == place else "900000 100000\n")
    assert (usable_cores(), memory_limit()) == (1, 4096)


def test_a_share_of_one_core_is_one(groups: Path) -> None:
    (groups / "a" / "cpu.max").write_text("50000 100000\n")
    assert usable_cores() == 1


def test_a_limit_above_what_there_is_adds_nothing(groups: Path, here: tuple[int, int]) -> None:
    (groups / "cpu.max").write_text("100000000 100000\n")
    (groups / "memory.max").write_text(f"{1 << 62}\n")
    assert (usable_cores(), memory_limit()) == here


def test_where_there_are_no_groups_all_is_there(
    here: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_OWN_GROUP", Path("/nowhere/at/all"))
    assert (usable_cores(), memory_limit()) == here


@pytest.mark.parametrize(
    "text", ["", "\n", "100000\n", "50000 0\n", "1 2 3\n", "-1 100000\n", "many 100000\n", "²\n"]
)
def test_what_cannot_be_read_limits_nothing(groups: Path, here: tuple[int, int], text: str) -> None:
    (groups / "cpu.max").write_text(text, encoding="utf-8")
    (groups / "memory.max").write_text(text if len(text.split()) != 1 else "1 1\n", encoding="utf-8")
    assert (usable_cores(), memory_limit()) == here
