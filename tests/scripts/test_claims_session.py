"""docs/claims.md says what its commands say."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.claims_session import masked

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "claims_session.py"


@pytest.mark.slow
def test_the_sessions_of_the_page_are_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_only_what_differs_from_run_to_run_is_masked() -> None:
    assert masked("public key 09ac79af…") == masked("public key 11111111…")
    assert masked("8 of 15 intervals") == masked("7 of 15 intervals")
    assert masked("8 of 15 intervals") != masked("8 of 16 intervals")
    assert masked("VERIFIED: x") != masked("UNVERIFIABLE: x")
