"""Memory for copies and blocks: touched, page-aligned, in large pages where there are any, not a forked process's."""

import ctypes
import mmap
import os
import re
import sys
from pathlib import Path

import pytest

from polledger import memory
from polledger.memory import large_memory

SMAPS = Path("/proc/self/smaps")
MB = 1 << 20


def address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def flags(view: memoryview) -> list[str]:
    """What the kernel notes about the mapping in which ``view`` lies."""
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", SMAPS.read_text(), flags=re.MULTILINE)[1:]:
        begin, end = (int(text, 16) for text in mapping.split(" ", 1)[0].split("-"))
        if begin <= address(view) < end:
            found = re.search(r"VmFlags: (.*)", mapping)
            return found.group(1).split() if found else []
    raise AssertionError("no such mapping")


@pytest.mark.parametrize("size", [1, mmap.PAGESIZE, 5 * MB + 3])
def test_it_is_as_long_as_asked_for_begins_at_a_page_and_can_be_written(size: int) -> None:
    view = large_memory(size)
    assert len(view) == size
    assert address(view) % mmap.PAGESIZE == 0
    assert bytes(view) == bytes(size)
    view[-1] = 7
    assert view[-1] == 7


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is shared")
def test_a_forked_process_finds_zeros_and_changes_nothing_here() -> None:
    view = large_memory(3 * MB)
    view[:] = b"x" * len(view)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        found = bytes(view[:: mmap.PAGESIZE])
        view[:] = b"y" * len(view)
        os.write(writer, found[:1] + found[-1:])
        os._exit(0)
    os.close(writer)
    view[:5] = b"after"
    assert os.waitpid(child, 0)[1] == 0
    with open(reader, "rb") as file:
        seen = file.read()
    assert seen == b"\0\0"
    assert bytes(view[:6]) == b"afterx"


@pytest.mark.skipif(not SMAPS.exists() or "VmFlags" not in SMAPS.read_text(), reason="needs smaps of Linux")
def test_the_kernel_is_asked_for_large_pages_that_a_forked_process_does_not_share() -> None:
    found = flags(large_memory(4 * MB))
    assert "wf" in found
    assert "hg" in found or not Path("/sys/kernel/mm/transparent_hugepage").exists()


def test_a_kernel_that_cannot_keep_it_from_a_forked_process_gives_memory_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "WIPE_ON_FORK", 12345)
    view = large_memory(4 * MB)
    view[:] = b"x" * len(view)
    assert bytes(view[:1]) == b"x"
    if SMAPS.exists():
        # Shared: private memory would be copied page by page after a fork.
        assert "sh" in flags(view)


def test_a_kernel_without_large_pages_gives_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 12345, raising=False)
    view = large_memory(4 * MB)
    view[:] = b"x" * len(view)
    assert bytes(view[:1]) == b"x"


@pytest.mark.skipif(not SMAPS.exists(), reason="needs smaps of Linux")
def test_every_page_is_there_at_once() -> None:
    size = 20 * MB
    before = resident()
    view = large_memory(size)
    assert resident() - before > size * 0.9
    assert len(view) == size


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * mmap.PAGESIZE


def test_more_than_there_is_raises() -> None:
    with pytest.raises(OSError, match="memory"):
        large_memory(1 << 60)
