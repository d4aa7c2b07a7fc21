"""The policy file: every bound, no unknown key, one digest."""

import re
from pathlib import Path

import msgspec
import pytest

from polledger.core.sampling import draw, sample_seed
from polledger.errors import UsageError
from polledger.verify.policy import DEFAULT_BOUNDS, Policy, load_policy, parse_policy


def test_an_empty_file_is_the_default_policy() -> None:
    assert parse_policy("") == Policy()
    assert load_policy(None) == Policy()


def test_defaults_are_those_of_the_protocol() -> None:
    policy = Policy()
    assert policy.structure.every == 100
    assert policy.structure.still_share == 0.05
    assert (policy.comparison.margin, policy.comparison.rho, policy.comparison.replicas) == (3.0, 0.5, 4)
    assert (policy.sample.odds, policy.sample.bogus, policy.sample.seconds) == (0.99, 0.10, 300.0)
    assert policy.time.accuracy == 60.0
    assert policy.require == type(policy.require)()
    assert not any(msgspec.structs.astuple(policy.require))


def test_values_are_read() -> None:
    policy = parse_policy("[structure]\nevery = 50\n[comparison]\nmargin = 4\n[replay]\nthreads = 2")
    assert (policy.structure.every, policy.comparison.margin, policy.replay.threads) == (50, 4.0, 2)


def test_bounds_that_are_not_given_keep_their_default() -> None:
    bounds = parse_policy("[hyperparameters.bounds]\nlr = [0, 1]").hyperparameters.bounds
    assert bounds == {**DEFAULT_BOUNDS, "lr": (0.0, 1.0)}


def test_digest_is_of_the_values_not_of_the_text() -> None:
    assert parse_policy("# x\n[structure]\nevery = 100").digest() == Policy().digest()
    assert parse_policy("[structure]\nevery = 99").digest() != Policy().digest()


@pytest.mark.parametrize(
    "text",
    [
        "[structure]\nevery = 7",
        "[structure]\nstill_share = 0.06",
        "[hyperparameters.bounds]\nlr = [0, 9]",
        "[comparison]\nrho = 0.4",
        "[sample]\nseconds = 1",
        "[time]\nquorum = 2",
        "[time]\nwitnesses = 1",
        "[require]\nbitwise = true",
        "[require]\nisolation = true",
        f'[code]\ntrusted = ["{"a" * 64}"]',
        "[replay]\nthreads = 1",
    ],
)
def test_every_table_enters_the_digest(text: str) -> None:
    assert parse_policy(text).digest() != Policy().digest()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[structur]\nevery = 1", "structure"),
        ("[structure]\nevry = 1", "every"),
        ("[comparison]\nunheard = 1", "comparison.unheard"),
        ("every = 1", "every"),
    ],
)
def test_unknown_keys_are_refused_with_near_names(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=re.escape(named)):
        parse_policy(text)


@pytest.mark.parametrize(
    "text",
    [
        "[structure]\nevery = 0",
        "[structure]\nevery = 1.5",
        '[structure]\nevery = "10"',
        "[structure]\nstill_share = 1.1",
        "[structure]\ndisplacement = -1.0",
        "[hyperparameters.bounds]\nlr = [1, 0]",
        "[hyperparameters.bounds]\nlr = [1]",
        "[comparison]\nmargin = 0.5",
        "[comparison]\nrho = 1.0",
        "[comparison]\nrho = nan",
        "[comparison]\nnoise_seconds = inf",
        "[comparison]\nreplicas = 3",
        "[comparison]\nlean_margin = 0.0",
        "[sample]\nodds = 1.0",
        "[sample]\nbogus = 0.0",
        "[sample]\nseconds = 0",
        "[time]\nquorum = 0",
        "[time]\nwitnesses = -1",
        "[time]\nwitnesses = 1.5",
        "[time]\nskew = -1",
        "[time]\nskew = 1e12",
        "[time]\naccuracy = 1e300",
        '[time.sunset]\nrsa2048 = "0001-01-01"',
        "[require]\nbitwise = 1",
        '[code]\ntrusted = ["abc"]',
        "[replay]\nthreads = 0",
        '[replay]\ncapability = "SSE"',
        '[replay]\ndevice = "cuda:1"',
        "not toml",
    ],
)
def test_values_out_of_bounds_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="policy"):
        parse_policy(text)


def test_a_policy_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_policy(tmp_path / "missing.toml")


def test_the_documented_default_policy_is_the_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
    block = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    assert parse_policy(block[1]) == Policy()


def test_the_documented_digest_and_sample_are_those_of_the_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    policy = Policy().digest()
    seed = sample_seed(nonce=bytes(16), head=bytes(32), policy=policy)
    sample = ", ".join(map(str, draw(seed, total=60, count=8)))
    for said in (policy.hex(), seed.hex(), f"of N = 60, n = 8 the sample {sample}."):
        assert said in text
