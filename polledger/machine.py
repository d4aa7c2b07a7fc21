"""What this machine, or the container on it, lets a process use: cores and memory."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
"""Where Linux shows control groups, and which ones this process is in; read as they are, whoever limits it."""


def usable_cores() -> int:
    """Processor cores that this process may use, one at least; fewer where control groups (version 2) say so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [numbers for numbers in _group_limits("cpu.max") if len(numbers) == 2 and numbers[1] > 0]
    return max(1, min([cores, *(quota // period for quota, period in shares)]))


def memory_limit() -> int:
    """Bytes of memory that this machine has; fewer where control groups (version 2) say so."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(numbers[0] for numbers in _group_limits("memory.max") if len(numbers) == 1)])


def _group_limits(name: str) -> Iterator[list[int]]:
    """The numbers in file ``name`` of the control group of this process and of those above it; nothing else counts."""
    for line in _read_if_there(_OWN_GROUP).splitlines():
        if line.startswith("0::/"):
            own = PurePosixPath(line[4:])
            for place in (own, *own.parents):
                words = _read_if_there(_GROUPS / place / name).split()
                if all(word.isascii() and word.isdigit() for word in words):
                    yield [int(word) for word in words]


def _read_if_there(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
