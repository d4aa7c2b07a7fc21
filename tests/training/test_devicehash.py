"""Roots computed on a device are those of the CPU; the kernel runs in Triton's interpreter here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernel's language is not installed: it comes with torch for CUDA")

ROOT = Path(__file__).resolve().parents[2]


def test_the_kernel_gives_the_roots_of_the_cpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.devicehashing"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "27 roots"
