"""What a child that replays inherits of its parent's environment."""

from pathlib import Path

import pytest

from polledger.training import childprocess


def test_only_what_libraries_and_threads_need_is_taken_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PYTHONPATH", "POLLEDGER_KEY", "HTTP_PROXY", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "here")
    for name in ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "taken over")
    found = childprocess._clean_environment(tmp_path)
    assert "here" not in found.values()
    assert sorted(name for name, value in found.items() if value == "taken over") == sorted(
        childprocess._KEPT
    )
    assert found["HOME"] == found["TMPDIR"] == str(tmp_path)
