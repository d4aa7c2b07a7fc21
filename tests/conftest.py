"""For every test: one thread per process (the suite runs a process per core, and torch's threads wait spinning), and an
interrupt that arrives (a shell that starts the suite in the background has it ignored, in every process below). No
property fails because the machine is busy.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where threads spin while they wait, two processes on two cores keep each other from working.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths that the operating system was asked to sync, in order. Real calls, written down."""
    paths: list[Path] = []

    def recorded(call: Callable[[int], None]) -> Callable[[int], None]:
        def wrapper(descriptor: int) -> None:
            paths.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
            call(descriptor)

        return wrapper

    monkeypatch.setattr(os, "fsync", recorded(os.fsync))
    monkeypatch.setattr(os, "fdatasync", recorded(os.fdatasync))
    return paths
