"""Well-formed runs that say something untrue: each is REFUTED at the step PROTOCOL section 15 names.

The prover owns the key and signs everything again (polledger.redteam.rewrite); the verifier has the honest task, and
types the command. Data, schedules and keys that lie are tried in tests/redteam.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from polledger.core.merkle import leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.core.published import model_root
from polledger.core.records import AnyRecord, Checkpoint, Dataset, Final, Genesis
from polledger.core.seeds import example_leaf, salt
from polledger.core.state import EncodedState, FlatState, encode_state, parse_state
from polledger.keys import load_key
from polledger.redteam.rewrite import Edit, read_records, rewrite_run
from polledger.store.run import RunDirectory
from polledger.training.location import load_task_class, resolve_task
from polledger.training.nest import encode_nest
from tests.e2e.conftest import TASKS, Cli, Done
from tests.states import change_tensor

Sealed = Callable[..., Path]
HONEST = TASKS / "tiny.py"
LOSS = "nn.functional.cross_entropy(model(x), y)"
SEAL = ("--every", 4, "--warm", 2, "--seal-every", 3)


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority that stamps what is rewritten is the one of the honest runs."""
    monkeypatch.setenv("POLLEDGER_HOME", str(home))


@pytest.fixture
def prover(home: Path, tiny: Path) -> Ed25519PrivateKey:
    """The key that signed the honest runs."""
    return load_key(home / "key.pem")


@pytest.fixture
def verdict(cli: Cli) -> Callable[[Path], Done]:
    """Verify every interval of a run with the honest task."""

    def verify(run: Path) -> Done:
        return cli("verify", run, "--sample", 100, "--task", HONEST, "--json")

    return verify


@pytest.fixture
def bent(sealed: Sealed, tmp_path: Path, tiny: Path, prover: Ed25519PrivateKey) -> Callable[..., Path]:
    """Seal a changed copy of the tiny task, then claim that the honest code and data were used."""

    def make(*changes: tuple[str, str], words: tuple[object, ...] = ()) -> Path:
        source = HONEST.read_text()
        for old, new in changes:
            assert source.count(old) == 1, old
            source = source.replace(old, new)
        task = tmp_path / "bent" / "tiny.py"
        task.parent.mkdir()
        task.write_text(source)
        run = sealed(task, *SEAL, *words)
        honest = RunDirectory.open(tiny)
        genesis = read_records(honest)[0]
        assert isinstance(genesis, Genesis)
        claim = genesis

        def edit(records: list[AnyRecord]) -> list[AnyRecord]:
            first = records[0]
            assert isinstance(first, Genesis)
            lie = msgspec.structs.replace(first, task=claim.task, seed=claim.seed, dataset=dataset)
            return [lie, *records[1:]]

        dataset, leaves = commit_honest_data(RunDirectory.open(run).secret())
        lying = rewrite_run(run, tmp_path / "lying", key=prover, edit=edit)
        lying.objects.put_named(dataset.root, leaves)
        for name in source_objects(honest, claim):
            lying.objects.put(honest.objects.get(name, limit=1 << 20))
        return lying.path

    return make


def commit_honest_data(secret: bytes) -> tuple[Dataset, list[bytes]]:
    """The commitment to the honest task's data under a run's secret, and its leaf list."""
    data = load_task_class(resolve_task(str(HONEST)))().dataset()
    leaves = [
        example_leaf(salt(secret, "example", index), encode_nest(example))
        for index, example in enumerate(data)
    ]
    return Dataset(root=tree_root([leaf_hash(leaf) for leaf in leaves]), size=len(leaves)), leaves


def source_objects(run: RunDirectory, genesis: Genesis) -> list[bytes]:
    """Digests of the task's manifest and files."""
    from polledger.core.source import parse_source

    source = parse_source(run.objects.get(genesis.task, limit=1 << 20))
    return [genesis.task, *(file.digest for file in source.files)]


def check_refuted(done: Done, *steps: int) -> None:
    """REFUTED, with a failed finding at one of ``steps``."""
    assert done.code == 1, done.err
    assert done.json["verdict"] == "REFUTED"
    failed = {finding["step"] for finding in done.findings("fail")}
    assert failed & set(steps), done.findings("fail")
    assert done.last.startswith("REFUTED: ")


def load(run: Path, root: bytes) -> FlatState:
    return parse_state(RunDirectory.open(run).objects.read(root, limit=1 << 30), root=root)


def checkpoints(records: list[AnyRecord]) -> list[Checkpoint]:
    return [record for record in records if isinstance(record, Checkpoint)]


def replace_checkpoint(number: int, root: bytes) -> Edit:
    """Let the ``number``-th checkpoint name another state."""

    def edit(records: list[AnyRecord]) -> list[AnyRecord]:
        target = checkpoints(records)[number]
        return [msgspec.structs.replace(r, root=root) if r is target else r for r in records]

    return edit


def plant(run: Path, target: Path, prover: Ed25519PrivateKey, number: int, state: EncodedState) -> Path:
    return rewrite_run(
        run, target, key=prover, edit=replace_checkpoint(number, state.root), states=[state]
    ).path


def test_rewriting_alone_changes_no_verdict(
    tiny: Path, tmp_path: Path, prover: Ed25519PrivateKey, verdict: Callable[[Path], Done]
) -> None:
    # Else the refutations below would show the rewriting, not the lie.
    done = verdict(rewrite_run(tiny, tmp_path / "same", key=prover, edit=list).path)
    assert done.code == 0, done.err


def test_swapped_checkpoint_is_refuted(
    tiny: Path, tmp_path: Path, prover: Ed25519PrivateKey, verdict: Callable[[Path], Done]
) -> None:
    other = checkpoints(read_records(RunDirectory.open(tiny)))[6].root
    run = rewrite_run(tiny, tmp_path / "swap", key=prover, edit=replace_checkpoint(4, other)).path
    done = verdict(run)
    check_refuted(done, 9)
    # Checkpoint 4 ends interval 3.
    assert done.json["first_bad"]["interval"] == 3
    bad = next(finding for finding in done.findings("fail") if finding["step"] == 9)
    assert bad["found"] == other.hex()
    assert bad["expected"] == checkpoints(read_records(RunDirectory.open(tiny)))[4].root.hex()


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("momentum_buffer", lambda value: value + 0.5),
        ("running_mean", lambda value: value + 0.1),
        ("running_var", lambda value: value * 1.5),
        ("model/0/weight", lambda value: value * 1.01),
    ],
    ids=["planted momentum", "BatchNorm mean", "BatchNorm variance", "weights"],
)
def test_changed_state_is_refuted(
    tiny: Path,
    tmp_path: Path,
    prover: Ed25519PrivateKey,
    verdict: Callable[[Path], Done],
    part: str,
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    root = checkpoints(read_records(RunDirectory.open(tiny)))[5].root
    state = encode_state(change_tensor(load(tiny, root), part.replace("model/0/weight", "0.weight"), change))
    check_refuted(verdict(plant(tiny, tmp_path / "planted", prover, 5, state)), 9)


def test_another_final_model_is_refuted(
    tiny: Path, tmp_path: Path, prover: Ed25519PrivateKey, verdict: Callable[[Path], Done]
) -> None:
    root = checkpoints(read_records(RunDirectory.open(tiny)))[-1].root
    flat = change_tensor(load(tiny, root), "model/", lambda value: value * 1.001)
    state = encode_state(flat)

    def edit(records: list[AnyRecord]) -> list[AnyRecord]:
        swapped = replace_checkpoint(-1, state.root)(records)
        return [
            msgspec.structs.replace(r, model_root=model_root(flat, r.object)) if isinstance(r, Final) else r
            for r in swapped
        ]

    run = rewrite_run(tiny, tmp_path / "final", key=prover, edit=edit, states=[state]).path
    check_refuted(verdict(run), 9)


def test_other_seed_is_refuted(bent: Callable[..., Path], verdict: Callable[[Path], Done]) -> None:
    check_refuted(verdict(bent(words=("--seed", 5))), 8)


def test_other_code_is_refuted(bent: Callable[..., Path], verdict: Callable[[Path], Done]) -> None:
    check_refuted(verdict(bent((LOSS, f"0.9 * {LOSS}"))), 9)


def test_stolen_initial_weights_are_refuted(
    bent: Callable[..., Path], verdict: Callable[[Path], Done]
) -> None:
    check_refuted(
        verdict(bent(("return nn.Sequential(", "[torch.manual_seed(99)]; return nn.Sequential("))), 8
    )
