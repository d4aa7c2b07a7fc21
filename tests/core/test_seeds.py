"""Seeds, salts and salted digests, byte for byte."""

import pytest

from polledger.core.digest import sha256
from polledger.core.merkle import leaf_hash
from polledger.core.seeds import RngSeeds, batch_digest, example_leaf, rng_seeds, salt, training_seed
from polledger.errors import UsageError
from tests.core.derivation import vectors

SALT = bytes.fromhex(vectors("salted")["salt"])
SECRET = bytes.fromhex(vectors("salts")["secret"])


@pytest.mark.parametrize("row", vectors("training_seeds"), ids=lambda row: f"{row['seed']}-{row['key'][:4]}")
def test_training_seed_equals_the_second_transcription(row) -> None:
    key = bytes.fromhex(row["key"]) or None
    assert training_seed(int(row["seed"], 16), key) == int(row["s"], 16)


@pytest.mark.parametrize("row", vectors("rng")["seeds"], ids=lambda row: f"{row['purpose']}-{row['n']}")
def test_generator_seeds_equal_the_second_transcription(row) -> None:
    expected = RngSeeds(**{name: int(row[name], 16) for name in ("torch", "numpy", "random")})
    assert rng_seeds(int(vectors("rng")["s"], 16), row["n"], row["purpose"]) == expected


@pytest.mark.parametrize("row", vectors("salts")["salts"], ids=lambda row: f"{row['purpose']}-{row['i']}")
def test_salt_equals_the_second_transcription(row) -> None:
    assert salt(SECRET, row["purpose"], row["i"]).hex() == row["salt"]


@pytest.mark.parametrize("row", vectors("salted")["digests"], ids=lambda row: str(len(row["content"])))
def test_salted_digests_equal_the_second_transcription(row) -> None:
    content = bytes.fromhex(row["content"])
    assert example_leaf(SALT, [content]).hex() == row["example"]
    assert batch_digest(SALT, [content]).hex() == row["batch"]


def test_the_training_seed_depends_on_seed_and_key() -> None:
    keys = [None, bytes(32), sha256(b"key")]
    assert len({training_seed(seed, key) for seed in (0, 1) for key in keys}) == 6


def test_generator_seeds_depend_on_seed_step_and_purpose() -> None:
    seeds = {
        rng_seeds(s, n, purpose) for s in (0, 1) for n in (0, 1) for purpose in ("build", "batch", "step")
    }
    assert len(seeds) == 12


def test_generator_seeds_fit_their_generators() -> None:
    for n in range(200):
        seeds = rng_seeds(5, n, "step")
        assert 0 <= seeds.torch < 2**64
        assert 0 <= seeds.numpy < 2**32
        assert 0 <= seeds.random < 2**160


def test_salts_differ_by_secret_purpose_and_place() -> None:
    secrets = (SECRET, bytes(32))
    salts = {
        salt(secret, purpose, i) for secret in secrets for purpose in ("example", "batch") for i in (0, 1)
    }
    assert len(salts) == 8


def test_content_is_hashed_as_if_joined() -> None:
    whole = b"canonical bytes"
    chunks = [b"canon", memoryview(b"ical "), bytearray(b"bytes"), b""]
    assert example_leaf(SALT, chunks) == example_leaf(SALT, [whole])
    assert batch_digest(SALT, iter(chunks)) == batch_digest(SALT, [whole])


def test_an_example_is_never_a_batch_and_hides_behind_its_salt() -> None:
    assert example_leaf(SALT, [b"x"]) != batch_digest(SALT, [b"x"])
    assert example_leaf(SALT, [b"x"]) != example_leaf(bytes(32), [b"x"])
    assert leaf_hash(example_leaf(SALT, [b"x"])) != example_leaf(SALT, [b"x"])


@pytest.mark.parametrize(
    "call",
    [
        lambda: training_seed(-1, None),
        lambda: training_seed(2**64, None),
        lambda: training_seed(0, bytes(31)),
        lambda: training_seed(0, b""),
        lambda: rng_seeds(-1, 0, "step"),
        lambda: rng_seeds(2**64, 0, "step"),
        lambda: rng_seeds(0, -1, "step"),
        lambda: salt(bytes(31), "batch", 0),
        lambda: salt(bytes(33), "batch", 0),
        lambda: salt(SECRET, "batch", -1),
        lambda: example_leaf(bytes(31), [b"x"]),
        lambda: batch_digest(bytes(33), [b"x"]),
    ],
)
def test_what_would_move_a_boundary_inside_the_hash_is_refused(call) -> None:
    with pytest.raises(UsageError):
        call()
