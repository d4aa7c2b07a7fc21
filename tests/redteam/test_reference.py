"""The verifier of the published kind: what it accepts, what it refuses, and what it does not look at."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.encoding import real
from polledger.core.records import AnyRecord, Checkpoint, GroupValues, Step
from polledger.core.state import encode_state
from polledger.examples.digits import load_examples
from polledger.keys import load_key
from polledger.redteam.reference import (
    ReferenceVerdict,
    distances,
    kolmogorov_tail,
    ks_two_sample,
    published_hash,
    reference_verdict,
)
from polledger.redteam.rewrite import read_records, rewrite_run
from polledger.store.run import RunDirectory
from polledger.training.plan import SealOptions
from polledger.training.session import seal
from polledger.verify.states import load_state
from tests.states import change_tensor

TASK = "polledger.examples.mlp"
Change = Callable[[np.ndarray], np.ndarray]


class Quiet:
    """A watcher that wants to know nothing."""

    def phase(self, text: str) -> None: ...
    def progress(self, done: int, total: int) -> None: ...
    def step(self, done: int, total: int, metrics: Mapping[str, float]) -> None: ...
    def warn(self, text: str) -> None: ...


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home for keys and the embedded authority."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("home")
        patch.setenv("POLLEDGER_HOME", str(path))
        yield path


@pytest.fixture(scope="module")
def honest(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 steps of the perceptron. Unbound: the test of its first weights rejects some seeds by chance."""
    run = tmp_path_factory.mktemp("honest") / "run"
    options = SealOptions(
        task=TASK, run=run, every=10, warm=2, seed=1, unbound=True, settings=("steps=60", "warmup=2")
    )
    seal(options, Quiet())
    return run


@pytest.fixture
def forged(honest: Path, home: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the honest run with the states at some steps, and values of every step record, replaced."""
    key: Ed25519PrivateKey = load_key(home / "key.pem")
    run = RunDirectory.open(honest)

    def make(
        *, part: str = "", changes: Mapping[int, Change], hyperparameters: Mapping[str, float] = {}
    ) -> Path:
        states = {
            record.step: encode_state(
                change_tensor(load_state(run.objects, record.root).flat, part, changes[record.step])
            )
            for record in read_records(run)
            if isinstance(record, Checkpoint) and record.step in changes
        }
        values = [
            GroupValues(
                optimizer="optimizer", index=0, values={k: real(v) for k, v in hyperparameters.items()}
            )
        ]

        def edit(records: list[AnyRecord]) -> list[AnyRecord]:
            return [
                msgspec.structs.replace(record, root=states[record.step].root)
                if isinstance(record, Checkpoint) and record.step in states
                else msgspec.structs.replace(record, groups=values)
                if isinstance(record, Step) and hyperparameters
                else record
                for record in records
            ]

        return rewrite_run(honest, tmp_path / "forged", key=key, edit=edit, states=states.values()).path

    return make


def verdict(run: Path, **values: object) -> ReferenceVerdict:
    return reference_verdict(run, task=TASK, **values)  # type: ignore[arg-type]


def test_accepts_an_honest_run_with_no_error(honest: Path) -> None:
    found = verdict(honest)
    assert found.accepts, found.why
    assert found.largest_error == 0.0
    assert found.smallest_p >= 0.01
    assert set(found.p_values) == {"1.weight", "1.bias", "3.weight", "3.bias"}


def test_opens_the_intervals_that_moved_most(honest: Path) -> None:
    found = verdict(honest, top=1)
    # 45 steps are an epoch, and the union over four distances may hold more than one of each.
    assert {item.first * 32 // 1437 for item in found.intervals} == {0, 1}
    moved = [item.displacement.l2 for item in verdict(honest, top=100).intervals if item.first < 45]
    assert max(moved) in [item.displacement.l2 for item in found.intervals]
    assert len(found.intervals) < len(verdict(honest, top=100).intervals) == 8


def test_refuses_a_random_checkpoint(forged: Callable[..., Path]) -> None:
    def scatter(values: np.ndarray) -> np.ndarray:
        return np.random.default_rng(3).standard_normal(values.shape)

    found = verdict(forged(part="model/", changes={30: scatter}))
    assert not found.accepts
    assert "steps 20 to 30 end too far" in found.why
    assert found.largest_error > 10


def test_refuses_a_first_checkpoint_that_is_no_initialisation(forged: Callable[..., Path]) -> None:
    found = verdict(forged(part="model/1.weight", changes={0: lambda v: 3 * v}))
    assert not found.accepts
    assert "does not look initialised" in found.why
    assert found.p_values["1.weight"] < 0.01 <= found.p_values["3.weight"]


def test_a_bound_may_be_given(forged: Callable[..., Path]) -> None:
    run = forged(part="model/", changes={30: lambda values: values + 0.002})
    assert verdict(run).accepts
    assert not verdict(run, delta=0.001).accepts
    assert verdict(run, delta=20.0).accepts


def test_believes_recorded_hyperparameters_and_optimizer_state(forged: Callable[..., Path]) -> None:
    # With a momentum planted and a rate that no schedule of the task has, the replay goes where the prover wants.
    with_rate = forged(changes={}, hyperparameters={"lr": 1e-9})
    found = verdict(with_rate, top=100)
    late = next(item for item in found.intervals if item.first == 20)
    assert late.error.l2 == pytest.approx(late.displacement.l2, rel=1e-3)


def test_looks_at_parameters_alone(forged: Callable[..., Path]) -> None:
    run = forged(part="momentum_buffer", changes={60: lambda values: values + 100})
    found = verdict(run, top=100)
    assert found.accepts
    assert found.largest_error == 0.0


def test_the_data_hash_misses_labels_and_the_inside_of_an_image() -> None:
    examples = load_examples(held_out=False)[:4]
    labels = [(image, 9 - label) for image, label in examples]
    assert published_hash(examples) == published_hash(labels)
    small = [(image.flip(0, 1, 2), label) for image, label in examples]
    assert published_hash(examples) != published_hash(small)
    large = torch.zeros(3, 32, 32, dtype=torch.uint8)
    inside = large.clone()
    inside[:, 3:-3, :] = 1
    assert published_hash([(large, 1)]) == published_hash([(inside, 1)])


def test_another_data_hash_is_refused(honest: Path) -> None:
    published = published_hash(load_examples(held_out=False))
    assert verdict(honest, data_hash=published).accepts
    assert not verdict(honest, data_hash="0" * 64).accepts


def test_kolmogorov_smirnov_has_its_level() -> None:
    # Tabulated: P(K > 1.3581) = 0.05, P(K > 1.6276) = 0.01.
    assert kolmogorov_tail(1.3581) == pytest.approx(0.05, abs=1e-4)
    assert kolmogorov_tail(1.6276) == pytest.approx(0.01, abs=1e-4)
    assert kolmogorov_tail(0.1) == 1.0
    made = np.random.default_rng(0)
    p = [ks_two_sample(made.random(200), made.random(6400)) for _ in range(400)]
    # 400 draws at level 0.05: 20 expected, the seed is fixed.
    assert 5 <= sum(value < 0.05 for value in p) <= 40
    assert ks_two_sample(made.random(200) * 1.3, made.random(6400)) < 0.01


def test_distances() -> None:
    found = distances(np.array([3.0, 4.0]), np.array([3.0, 0.0]))
    assert (found.l1, found.l2, found.linf) == (4.0, 4.0, 4.0)
    assert found.cosine == pytest.approx(1 - 9 / 25)


@pytest.fixture(autouse=True)
def threads_stay() -> Iterator[None]:
    """What the verdict switches in this process is switched back."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def test_needs_no_private_files(honest: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(honest, tmp_path / "copy", ignore=shutil.ignore_patterns("private"))
    assert verdict(copy).accepts
