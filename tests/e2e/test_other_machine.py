"""Verification on a machine of another class: the policy makes this one replay as that one would."""

from collections.abc import Callable
from pathlib import Path

import pytest

from polledger.core.state import encode_state
from polledger.keys import load_key
from polledger.redteam.rewrite import read_records
from polledger.store.run import RunDirectory
from tests.e2e.conftest import TASKS, Cli, Done
from tests.e2e.test_attacks import change_tensor, checkpoints, load, plant

Sealed = Callable[..., Path]

TWO_THREADS = {"OMP_NUM_THREADS": "2"}
VARIANTS = {"one thread": "threads = 1\n", "AVX2": 'capability = "AVX2"\n'}


@pytest.fixture(scope="module")
def chars(sealed: Sealed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("".join(f"{i} bottles of beer on the wall, {i} bottles of beer.\n" for i in range(900)))
    return sealed(
        "polledger.examples.chars", "--input", f"text={text}", "--every", 5, "--steps", 60, env=TWO_THREADS
    ), text


def as_other_machine(cli: Cli, run: Path, replay: str, where: Path, *words: object) -> Done:
    policy = where / "policy.toml"
    policy.write_text(f"[replay]\n{replay}")
    return cli("verify", run, "--policy", policy, "--json", *words)


@pytest.mark.parametrize("variant", VARIANTS)
def test_chars_passes_nine_intervals_in_ten(
    cli: Cli, chars: tuple[Path, Path], tmp_path: Path, variant: str
) -> None:
    run, text = chars
    done = as_other_machine(cli, run, VARIANTS[variant], tmp_path, "--sample", 8, "--input", f"text={text}")
    assert done.code in (0, 3), done.err
    outcomes = [interval["outcome"] for interval in done.json["intervals"]]
    assert "fail" not in outcomes
    assert outcomes.count("pass") >= 0.9 * len(outcomes), done.json["intervals"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_honest_batchnorm_run_is_never_refuted(
    cli: Cli, sealed: Sealed, tmp_path: Path, variant: str
) -> None:
    run = sealed("polledger.examples.digits", "--every", 10, "--steps", 60, env=TWO_THREADS)
    done = as_other_machine(cli, run, VARIANTS[variant], tmp_path, "--sample", 4)
    assert done.code in (0, 3), done.err
    assert done.findings("fail") == []


def test_a_lie_is_refuted_elsewhere_too(cli: Cli, tiny: Path, tmp_path: Path, home: Path) -> None:
    root = checkpoints(read_records(RunDirectory.open(tiny)))[5].root
    state = encode_state(change_tensor(load(tiny, root), "momentum_buffer", lambda value: value + 0.5))
    run = plant(tiny, tmp_path / "planted", load_key(home / "key.pem"), 5, state)
    done = as_other_machine(cli, run, "threads = 2\n", tmp_path, "--sample", 100, "--task", TASKS / "tiny.py")
    assert done.code == 1, done.err
    assert 9 in {finding["step"] for finding in done.findings("fail")}
