"""What importing polledger costs: facts that import-linter, which reads imports without running them, cannot see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

HEAVY = {"cryptography", "msgspec", "numpy", "rich", "sklearn", "torch"}

PROBE = """
import json, sys
{code}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(code=code)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules_of(*packages: str) -> list[str]:
    paths = (path for package in packages for path in (ROOT / "polledger" / package).glob("*.py"))
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)


def test_import_polledger_loads_nothing_heavy() -> None:
    assert not loaded_after("import polledger") & HEAVY


def test_task_contract_loads_no_torch() -> None:
    assert "torch" not in loaded_after("from polledger import Task")


@pytest.mark.parametrize("package", ["core", "store", "timestamp", "verify", "cli"])
def test_package_loads_no_torch(package: str) -> None:
    modules = modules_of(package)
    assert modules
    assert "torch" not in loaded_after("\n".join(f"import {name}" for name in modules))


def test_core_loads_no_numpy() -> None:
    assert "numpy" not in loaded_after("\n".join(f"import {name}" for name in modules_of("core")))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["inspect", "no-such-run"], ["verify", "no-such-run", "--no-replay"]]
)
def test_command_that_does_not_replay_loads_no_torch(arguments: list[str]) -> None:
    code = f"""
from polledger.cli.app import main
sys.argv = ["polledger", *{arguments!r}]
try:
    main()
except SystemExit:
    pass
"""
    assert "torch" not in loaded_after(code)


def test_replaying_parent_loads_no_torch() -> None:
    assert "torch" not in loaded_after("import polledger.training.replay")


def test_package_ships_its_type_marker() -> None:
    assert (ROOT / "polledger" / "py.typed").is_file()
