"""The main job: seal a real training run, verify it by replay, bit for bit, through the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import NONCE, TASKS, Cli, Done

Sealed = Callable[..., Path]


def check_verified(done: Done, *, sample: int) -> None:
    assert done.code == 0, done.err
    report = done.json
    assert report["schema"] == "polledger.verify/1"
    assert report["verdict"] == "VERIFIED"
    assert report["exit_code"] == 0
    assert report["comparison"] == "bitwise"
    assert len(report["intervals"]) >= min(sample, report["sample"]["total"])
    assert all(interval["exact"] and interval["outcome"] == "pass" for interval in report["intervals"])
    # Without a trust file the time is only what the prover's own authority says.
    assert [finding["step"] for finding in report["findings"] if finding["outcome"] != "pass"] == [3]
    assert report["time"]["assurance"] == "self-asserted"
    assert done.last.startswith("VERIFIED: ")


def test_digits_verifies_bit_for_bit(cli: Cli, sealed: Sealed) -> None:
    run = sealed("polledger.examples.digits", "--every", 10, "--steps", 60)
    check_verified(cli("verify", run, "--sample", 8, "--json"), sample=8)


def test_chars_verifies_bit_for_bit(
    cli: Cli, sealed: Sealed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("".join(f"{i} bottles of beer on the wall, {i} bottles of beer.\n" for i in range(900)))
    run = sealed("polledger.examples.chars", "--input", f"text={text}", "--every", 5, "--steps", 30)
    check_verified(cli("verify", run, "--sample", 8, "--input", f"text={text}", "--json"), sample=8)


def test_custom_example_verifies_bit_for_bit(cli: Cli, sealed: Sealed) -> None:
    run = sealed("polledger.examples.gan", "--every", 10, "--steps", 40)
    done = cli("verify", run, "--sample", 8, "--json")
    check_verified(done, sample=8)
    assert done.json["code"]["kind"] == "custom"


def test_task_with_everything_that_breaks_replay_verifies(cli: Cli, sealed: Sealed) -> None:
    task = TASKS / "kitchen_sink.py"
    run = sealed(task, "--every", 5, "--warm", 3)
    check_verified(cli("verify", run, "--sample", 50, "--task", task, "--json"), sample=50)


def test_training_that_changes_more_than_tensors_verifies(cli: Cli, sealed: Sealed) -> None:
    task = TASKS / "unfreezing.py"
    run = sealed(task, "--every", 4, "--warm", 2)
    check_verified(cli("verify", run, "--sample", 50, "--task", task, "--json"), sample=50)
    check_verified(cli("verify", run, "--sample", 1, "--task", task, "--json"), sample=1)


def test_inspect_describes_the_run(cli: Cli, tiny: Path) -> None:
    found = cli("inspect", tiny, "--json").json
    assert (found["steps"], found["every"], found["warm"], found["kind"]) == (24, 4, 2, "recipe")
    # Checkpoints at 0, 1, 2, 4, 8, 12, 16, 20, 24: eight intervals.
    assert found["intervals"] == 8
    assert found["final"]["step"] == 24
    assert found["seals"][-1]["size"] == found["records"]


def test_the_same_nonce_draws_the_same_sample(cli: Cli, tiny: Path) -> None:
    task = TASKS / "tiny.py"
    words = ("verify", tiny, "--sample", 2, "--task", task, "--nonce", NONCE, "--json")
    first, second = cli(*words).json, cli(*words).json
    assert first["sample"] == second["sample"]
    assert first["sample"]["nonce"] == NONCE
    assert first["sample"]["drawn"] == 2


def test_without_the_task_its_code_does_not_run(cli: Cli, tiny: Path) -> None:
    done = cli("verify", tiny, "--sample", 2)
    assert done.code == 3
    assert "replay would run your code" in done.err + done.out


def test_committed_source_runs_when_its_digest_is_trusted(cli: Cli, tiny: Path) -> None:
    code = cli("verify", tiny, "--sample", 2, "--json").json["code"]
    check_verified(cli("verify", tiny, "--sample", 8, "--trust-code", code["digest"], "--json"), sample=8)


def test_help_answers_without_torch(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for verb in ("seal", "verify", "inspect", "export", "timestamp", "keygen"):
        assert verb in done.out
