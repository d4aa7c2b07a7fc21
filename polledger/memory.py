"""Large memory that is written again and again."""

import contextlib
import mmap
import sys
from typing import Final

WIPE_ON_FORK: Final = 18
"""MADV_WIPEONFORK of Linux 4.14, which Python has no name for."""


def large_memory(size: int) -> memoryview:
    """``size`` bytes, at least one, of zeros that begin at a page, every page touched. Raises OSError for no memory.

    In large pages where there are such: copying into them takes less time, and a disk is asked once where it would be
    asked for many small ones. A forked process finds zeros: if it shared these pages, what is written here after the
    fork would go to other ones, and an accelerator might go on with the old.
    """
    memory = memoryview(_private(size) or mmap.mmap(-1, size))
    begins = memory[:: mmap.PAGESIZE]
    begins[:] = bytes(len(begins))
    return memory


def _private(size: int) -> mmap.mmap | None:
    """Memory that may have large pages, which memory shared with forked processes rarely has; None if it is shared."""
    if sys.platform != "linux":
        return None
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(WIPE_ON_FORK)
    except OSError:
        memory.close()
        return None
    with contextlib.suppress(OSError):
        # There may be no large pages.
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
