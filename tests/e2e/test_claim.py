"""A claim about the digits run, through the command line: made, verified, published, and held against model files."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.e2e.conftest import NONCE, Cli, final_weights

DIGITS = "polledger.examples.digits"
Sealed = Callable[..., Path]
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def run(sealed: Sealed) -> Path:
    return sealed(DIGITS)


@pytest.fixture(scope="module")
def weights(run: Path) -> Weights:
    """The state_dict that the run ends with, made from the stored state."""
    return final_weights(run)


@pytest.fixture(scope="module")
def model(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def claim(run: Path, model: Path, cli: Cli, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A claim that names the safetensors file. Not to be changed."""
    file = tmp_path_factory.mktemp("claim") / "digits" / "claim.dsse.json"
    done = cli(
        "claim",
        run,
        "--key",
        home / "key.pem",
        "-o",
        file,
        "--model",
        model,
        "--name",
        "A. Example",
        "--json",
    )
    assert done.code == 0, done.err
    assert done.json["file"] == str(file)
    assert done.json["authorities"] == ["embedded"]
    return file


def test_the_claim_is_small(claim: Path) -> None:
    assert claim.stat().st_size < 100_000
    assert stat.S_IMODE(claim.stat().st_mode) & stat.S_IROTH == stat.S_IROTH & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_claim_verifies_with_its_run(claim: Path, run: Path, cli: Cli, model: Path) -> None:
    done = cli("verify", claim, "--run", run, "--model", model, "--sample", 2, "--nonce", NONCE, "--json")
    assert done.json["verdict"] == "VERIFIED", done.err
    assert "the claim agrees with the run in every field that the run records" in done.json["sentence"]
    passed = {finding["name"] for finding in done.findings("pass")}
    assert passed >= {"claim", "claim.files", "binding"}


def test_the_claim_alone_is_checked_by_its_proof(claim: Path, cli: Cli, model: Path) -> None:
    done = cli("verify", claim, "--model", model, "--json")
    assert (done.code, done.json["verdict"]) == (3, "UNVERIFIABLE")
    assert {finding["name"] for finding in done.findings("pass")} >= {"parse", "heads", "claim", "binding"}
    assert done.last.endswith("(polledger challenge)")


def test_a_torch_file_of_the_same_tensors_is_bound_as_well(
    claim: Path, cli: Cli, weights: Weights, tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "model.pt")
    done = cli("verify", claim, "--model", tmp_path / "model.pt", "--json")
    [binding] = [finding for finding in done.json["findings"] if finding["name"] == "binding"]
    assert binding["outcome"] == "pass"
    [files] = [finding for finding in done.json["findings"] if finding["name"] == "claim.files"]
    assert files["outcome"] == "unverifiable"


def changed(weights: Weights, how: str) -> Weights:
    """Every parameter and float buffer changed; whole numbers stay."""
    generator = torch.Generator().manual_seed(1)

    def one(value: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(value.shape, generator=generator)
        pruned = torch.where(value.abs() < value.abs().median(), torch.zeros(()), value)
        tuned = value + 0.01 * value.square().mean().sqrt() * noise
        half, brain = value.half(), value.bfloat16()
        return {"half": half, "bfloat16": brain, "pruned": pruned, "tuned": tuned, "other": noise}[how]

    return {name: one(value) if value.is_floating_point() else value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("half", "a copy in another format: the same numbers, rounded to float16"),
        ("bfloat16", "a copy in another format: the same numbers, rounded to bfloat16"),
        ("pruned", "a pruned copy: "),
        ("tuned", "close to it, as a fine-tuned copy would be: relative distance 0.01"),
        ("other", "far from it"),
    ],
)
def test_a_model_that_is_close_is_told_so_and_never_verified(
    claim: Path, run: Path, cli: Cli, weights: Weights, tmp_path: Path, how: str, words: str
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in changed(weights, how).items()}, file)
    done = cli("verify", claim, "--run", run, "--model", file, "--no-replay", "--no-scan", "--json")
    assert done.json["verdict"] == "UNVERIFIABLE"
    [binding] = [finding for finding in done.json["findings"] if finding["name"] == "binding"]
    assert binding["outcome"] == "unverifiable"
    assert words in binding["detail"]
    tensors = [finding for finding in done.json["findings"] if finding["name"] == "binding.tensor"]
    assert tensors
    assert all(len(one["expected"]) == len(one["found"]) == 64 for one in tensors)


def test_only_the_key_of_the_run_claims_it(run: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("keygen", "-o", tmp_path / "thief.pem").code == 0
    done = cli("claim", run, "--key", tmp_path / "thief.pem", "-o", tmp_path / "c" / "claim.dsse.json")
    assert done.code == 2
    assert "this key did not seal the run" in done.last
    assert not (tmp_path / "c").exists()


def test_a_file_that_is_not_the_model_is_not_claimed(
    run: Path, cli: Cli, home: Path, weights: Weights, tmp_path: Path
) -> None:
    file = tmp_path / "half.safetensors"
    save_file(changed(weights, "half"), file)
    out = tmp_path / "c" / "claim.dsse.json"
    done = cli("claim", run, "--key", home / "key.pem", "-o", out, "--model", file)
    assert (done.code, "is not the model that this run ends with" in done.last) == (2, True)


def test_a_claim_is_never_overwritten(claim: Path, run: Path, cli: Cli, home: Path) -> None:
    before = claim.read_bytes()
    done = cli("claim", run, "--key", home / "key.pem", "-o", claim)
    assert (done.code, "never overwritten" in done.last) == (2, True)
    assert claim.read_bytes() == before


def test_published_and_superseded(
    claim: Path, run: Path, model: Path, cli: Cli, home: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    done = cli("publish", claim, site, "--json")
    assert done.code == 0, done.err
    files = {"claim.dsse.json", "proof.msgpack", "index.html", "model.sig", "model.pub.pem", "mlbom.cdx.json"}
    assert files <= set(done.json["files"])
    assert all((site / name).exists() for name in done.json["files"])
    assert cli("verify", site / "claim.dsse.json", "--json").json["head"] is not None
    newer = tmp_path / "newer" / "claim.dsse.json"
    words = ("claim", run, "--key", home / "key.pem", "-o", newer, "--name", "B. Example")
    assert cli(*words, "--supersedes", claim).code == 0
    assert cli("publish", newer, site, "--json").json["folder"] == "next/"
    assert (site / "next" / "claim.dsse.json").read_bytes() == newer.read_bytes()


def test_a_damaged_claim_is_not_published_and_not_verified(claim: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(claim.parent, tmp_path / "c")
    file = tmp_path / "c" / "claim.dsse.json"
    envelope = json.loads(file.read_text())
    envelope["signatures"][0]["sig"] = "A" * 86 + "=="
    file.write_text(json.dumps(envelope))
    done = cli("publish", file, tmp_path / "site")
    assert (done.code, "is not published" in done.last) == (2, True)
    done = cli("verify", file)
    assert done.code == 3
    assert "it was changed after it was signed, or somebody else wrote it" in done.last
    file.write_text("{" + file.read_text())
    done = cli("verify", file, "--json")
    assert (done.code, done.json["verdict"]) == (3, "UNVERIFIABLE")
    assert "it was damaged or changed" in done.last


def test_a_run_without_a_claim_takes_no_other_run(run: Path, cli: Cli) -> None:
    done = cli("verify", run, "--run", run)
    assert (done.code, "is no claim" in done.last) == (2, True)


def test_a_second_key_signs_besides_and_keys_are_private(
    run: Path, cli: Cli, home: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa")
    secret = {"POLLEDGER_KEY_PASSWORD": "correct horse"}
    made = cli("keygen", "--ml-dsa-44", "--encrypt", "-o", tmp_path / "pq.pem", env=secret)
    assert made.code == 0, made.err
    assert stat.S_IMODE((tmp_path / "pq.pem").stat().st_mode) == 0o600
    assert b"ENCRYPTED" in (tmp_path / "pq.pem").read_bytes()
    out = tmp_path / "c" / "claim.dsse.json"
    words = ("claim", run, "--key", home / "key.pem", "-o", out, "--second-key", tmp_path / "pq.pem")
    assert cli(*words).code == 2
    done = cli(*words, "--json", env=secret)
    assert (done.code, len(done.json["signatures"])) == (0, 2), done.err
    assert out.stat().st_size < 100_000
