"""Fine-tuning through the command line: a run that starts from another one, verified down to the first."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.e2e.conftest import NONCE, TASKS, Cli, final_weights

Sealed = Callable[..., Path]
TINY = TASKS / "tiny.py"
SEAL = ("--every", 4, "--warm", 2)


@pytest.fixture
def tuned(cli: Cli, tiny: Path, tmp_path: Path) -> Path:
    """A run that starts from the tiny one, both in one folder of their own."""
    shutil.copytree(tiny, tmp_path / "base")
    done = cli("seal", TINY, "--run", "tuned", "--parent", "base", "--set", "lr=0.01", *SEAL, cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.out.strip() == f"polledger verify tuned --task {TINY} --parent base"
    return tmp_path / "tuned"


def test_a_tuned_run_is_verified_with_its_parent_found_by_hint_or_by_name(
    cli: Cli, tuned: Path, tmp_path: Path
) -> None:
    words = ("--task", TINY, "--nonce", NONCE, "--sample", 3)
    done = cli("verify", tuned, *words, "--json")
    assert done.code == 0, done.err
    assert done.json["origin"]["verdict"] == "VERIFIED"
    assert "itself VERIFIED" in done.last
    drawn = cli("inspect", tuned).out
    assert "└─ final model of run" in drawn
    assert "from scratch, seed 0" in drawn
    moved = tmp_path / "elsewhere"
    (tmp_path / "base").rename(moved)
    lost = cli("verify", tuned, *words)
    assert lost.code == 3
    assert "give the directory of that run with --parent" in lost.last
    assert "a run that is not here" in cli("inspect", tuned).out
    found = cli("verify", tuned, *words, "--parent", moved)
    assert found.code == 0, found.err
    assert "origin the final model of run" in " ".join(found.out.split())


def test_each_run_of_a_chain_has_its_own_code(cli: Cli, tuned: Path, tmp_path: Path) -> None:
    own = tmp_path / "tune.py"
    own.write_text(TINY.read_text().replace("class Tiny", "class Tune"))
    done = cli("seal", own, "--run", tmp_path / "next", "--parent", tuned, "--continue", *SEAL)
    assert done.code == 0, done.err
    words = ("verify", tmp_path / "next", "--nonce", NONCE, "--sample", 2)
    alone = cli(*words, "--task", own)
    assert alone.code == 3
    # It says which code the parent needs, not that the child's is wrong.
    assert "the parent run" in alone.last
    both = cli(*words, "--task", own, "--task", TINY)
    assert both.code == 0, both.err
    assert both.last.count("itself VERIFIED") == 2


def test_a_parent_given_that_is_no_run_is_a_usage_error(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    assert cli("verify", tiny, "--parent", tmp_path / "nowhere").code == 2
    assert cli("verify", tiny, "--external", tmp_path / "nowhere").code == 2


def test_the_command_that_is_printed_names_the_file_a_run_starts_from_resumed_or_not(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    save_file(final_weights(tiny), tmp_path / "model.safetensors")
    seal = ("seal", TINY, "--run", "tuned")
    command = f"polledger verify tuned --task {TINY} --external model.safetensors"
    assert cli(*seal, "--external", "model.safetensors", *SEAL, cwd=tmp_path).out.strip() == command
    assert cli(*seal, "--resume", cwd=tmp_path).out.strip() == command
