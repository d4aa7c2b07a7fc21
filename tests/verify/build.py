"""Small real runs for the verifier's tests: a linear classifier trained in NumPy, sealed with polledger's own formats.

The replayer here is another engine behind the same protocol, with its own (deterministic) arithmetic: with an even
thread count it sums gradients in another order, which is how another machine differs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from polledger.core.config import decode_config, encode_config
from polledger.core.digest import ZERO, sha256
from polledger.core.encoding import encode, real
from polledger.core.head import Head, sign_head
from polledger.core.merkle import Frontier, chainpoint_node, leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.core.nest import NestTensor, encode_header, parse_nest
from polledger.core.order import Order
from polledger.core.published import model_root
from polledger.core.records import (
    AnyRecord,
    Checkpoint,
    Dataset,
    Domain,
    Environment,
    Final,
    Genesis,
    GroupValues,
    Seal,
    StateObject,
    Step,
    TokenRef,
)
from polledger.core.replay import (
    AS_RECORDED,
    IsolationReport,
    OpenedBatch,
    RebuiltState,
    ReplayedStep,
    ReplayFailed,
    ReplayJob,
    ReplayOutcome,
    Variant,
)
from polledger.core.schedule import Schedule
from polledger.core.seeds import batch_digest, example_leaf, rng_seeds, salt, training_seed
from polledger.core.state import FlatState, SkeletonEntry, TensorData, encode_state, parse_state
from polledger.store.ledger import LedgerWriter
from polledger.store.run import RunDirectory
from polledger.timestamp.authority import EmbeddedAuthority
from polledger.timestamp.client import make_request
from polledger.verify.request import Code
from polledger.verify.states import load_state

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
NOW = START + timedelta(days=1)
RUN = bytes(range(16))
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)

ENVIRONMENT = Environment(
    device="cpu",
    cpu="numpy",
    capability="AVX2",
    torch="none",
    torch_git="",
    cuda="",
    cudnn="",
    driver="",
    python="3.11",
    numpy="2",
    platform="test",
    polledger="0.1.0",
    threads=1,
    interop_threads=1,
    flags={"deterministic": True},
)
OTHER_MACHINE = msgspec.structs.replace(ENVIRONMENT, threads=2)

OBJECTS = [
    StateObject(name="model", kind="module", buffers=["model/count", "model/mean"]),
    StateObject(name="optimizer", kind="optimizer"),
]

CONFIG: dict[str, Any] = {
    "steps": 12,
    "batch_size": 4,
    "optimizer": "SGD",
    "lr": 0.1,
    "momentum": 0.9,
    "schedule": "linear",
    "final_lr": 0.1,
}
FEATURES, CLASSES = 5, 3


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is trained and how it is recorded."""

    config: dict[str, Any] = field(default_factory=lambda: dict(CONFIG))
    every: int = 4
    warm: int = 2
    keep: int = 1
    seed: int = 7
    kind: str = "recipe"
    examples: int = 20
    domains: tuple[Domain, ...] | None = (Domain(field="1", kind="range", low=real(0.0), high=real(2.0)),)
    environment: Environment = ENVIRONMENT
    bound: bool = True
    contents: str = "floats"
    """What an example holds besides its label: ``floats`` of its own, a ``row`` of yes and no, the same ``token``."""
    labels: int = 0
    """Added to every label: another data set."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Fields of genesis that say what the run starts from besides the seed."""

    @property
    def steps(self) -> int:
        return int(self.config["steps"])

    @property
    def s(self) -> int:
        return training_seed(self.seed, KEY.public_key().public_bytes_raw() if self.bound else None)

    def is_checkpoint(self, step: int) -> bool:
        return step <= self.warm or step % self.every == 0 or step == self.steps

    def is_stored(self, step: int) -> bool:
        return step <= self.warm or step == self.steps or step % (self.every * self.keep) == 0


@dataclass
class Weights:
    """The whole state: parameters, an integer and a float buffer, momentum, and the learning rate in the optimizer."""

    w: np.ndarray
    b: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    momentum: list[np.ndarray] | None
    lr: float

    def copy(self) -> "Weights":
        return unflatten(flatten(self))


def flatten(state: Weights) -> FlatState:
    names = {"b": state.b, "count": state.count, "mean": state.mean, "w": state.w}
    tensors = [_tensor(f"model/{name}", value) for name, value in names.items()]
    slots = []
    for i, value in enumerate(state.momentum or []):
        path = f"optimizer/state/#{i}/momentum_buffer"
        tensors.append(_tensor(path, value))
        slots.append([f"#{i}", ["map", [["momentum_buffer", ["tensor", path]]]]])
    model = ["map", [[name, ["tensor", f"model/{name}"]] for name in sorted(names)]]
    group = ["map", [["lr", ["float", real(state.lr)]], ["nesterov", ["bool", False]]]]
    optimizer = ["map", [["param_groups", ["list", [group]]], ["state", ["map", slots]]]]
    skeletons = [
        SkeletonEntry(v=1, path="model", structure=model),
        SkeletonEntry(v=1, path="optimizer", structure=optimizer),
    ]
    return FlatState(skeletons=skeletons, tensors=tensors)


_DTYPES = {"float32": "<f4", "int64": "<i8"}


def _tensor(path: str, value: np.ndarray) -> TensorData:
    data = memoryview(np.ascontiguousarray(value).tobytes())
    return TensorData(path=path, dtype=str(value.dtype), shape=value.shape, data=data)


def unflatten(flat: FlatState) -> Weights:
    found = {
        tensor.path: np.frombuffer(tensor.data, dtype=_DTYPES[tensor.dtype]).reshape(tensor.shape).copy()
        for tensor in flat.tensors
    }
    slots = [found[path] for path in sorted(found) if path.startswith("optimizer/state/")]
    optimizer = next(entry.structure for entry in flat.skeletons if entry.path == "optimizer")
    lr = np.frombuffer(optimizer[1][0][1][1][0][1][0][1][1], dtype=">f8")[0]
    return Weights(
        w=found["model/w"],
        b=found["model/b"],
        count=found["model/count"],
        mean=found["model/mean"],
        momentum=slots or None,
        lr=float(lr),
    )


def build_state(spec: Spec) -> Weights:
    generator = np.random.RandomState(rng_seeds(spec.s, 0, "build").numpy)
    return Weights(
        w=generator.normal(size=(FEATURES, CLASSES)).astype(np.float32),
        b=np.zeros(CLASSES, dtype=np.float32),
        count=np.zeros((), dtype=np.int64),
        mean=np.zeros(FEATURES, dtype=np.float32),
        momentum=None,
        lr=float(spec.config["lr"]),
    )


def example(spec: Spec, index: int) -> bytes:
    """Canonical nest of example ``index``: (float32 [FEATURES], label)."""
    return example_of(features(spec, index), (index + spec.labels) % CLASSES)


def features(spec: Spec, index: int) -> np.ndarray:
    if spec.contents == "row":
        return np.array([index >> bit & 1 for bit in range(FEATURES)], dtype=np.float32)
    if spec.contents == "token":
        return np.ones(FEATURES, dtype=np.float32)
    return np.random.RandomState(1000 + index).normal(size=FEATURES).astype(np.float32)


def example_of(x: np.ndarray, label: int) -> bytes:
    """Canonical nest of one example."""
    header = encode_header(
        ["tuple", [["tensor", 0], ["int", str(label)]]], [NestTensor(dtype="float32", shape=[FEATURES])]
    )
    return header + x.tobytes()


def collate(examples: Sequence[bytes]) -> bytes:
    """Canonical nest of a batch: (float32 [B, FEATURES], int64 [B])."""
    nests = [parse_nest(data) for data in examples]
    x = b"".join(bytes(nest.tensors[0][2]) for nest in nests)
    labels = np.array([int(nest.structure[1][1][1]) for nest in nests], dtype="<i8").tobytes()
    header = encode_header(
        ["tuple", [["tensor", 0], ["tensor", 1]]],
        [
            NestTensor(dtype="float32", shape=[len(nests), FEATURES]),
            NestTensor(dtype="int64", shape=[len(nests)]),
        ],
    )
    return header + x + labels


def custom_batch(spec: Spec, step: int) -> bytes:
    """What a custom task's batch(n) makes: examples in plain order."""
    size = int(spec.config["batch_size"])
    return collate([example(spec, (step * size + i) % spec.examples) for i in range(size)])


def train_step(state: Weights, batch: bytes, values: dict[str, Any], *, threads: int) -> None:
    """One SGD-momentum step on softmax cross entropy. An even thread count sums in reverse."""
    x_part, y_part = parse_nest(batch).tensors
    x = np.frombuffer(x_part[2], dtype="<f4").reshape(x_part[1])
    y = np.frombuffer(y_part[2], dtype="<i8")
    gw, gb = np.zeros_like(state.w), np.zeros_like(state.b)
    total = np.zeros_like(state.mean)
    order = range(len(y)) if threads % 2 else range(len(y) - 1, -1, -1)
    for i in order:
        z = (x[i] @ state.w + state.b).astype(np.float32)
        p = np.exp(z - z.max(), dtype=np.float32)
        p /= p.sum(dtype=np.float32)
        p[y[i]] -= np.float32(1)
        gw += np.outer(x[i], p).astype(np.float32) / np.float32(len(y))
        gb += p / np.float32(len(y))
        total += x[i]
    state.mean = (state.mean * np.float32(0.9) + total * np.float32(0.1)).astype(np.float32)
    gradients = [gw, gb]
    if state.momentum is None:
        state.momentum = [g.copy() for g in gradients]
    else:
        mu = np.float32(values["momentum"])
        state.momentum = [mu * m + g for m, g in zip(state.momentum, gradients, strict=True)]
    lr = np.float32(values["lr"])
    state.w = (state.w - lr * state.momentum[0]).astype(np.float32)
    state.b = (state.b - lr * state.momentum[1]).astype(np.float32)
    state.count = state.count + 1
    state.lr = float(values["lr"])


def recorded_values(values: dict[str, Any]) -> GroupValues:
    encoded = {name: real(v) if isinstance(v, float) else v for name, v in values.items()}
    return GroupValues(optimizer="optimizer", index=0, values=encoded)


@dataclass
class Hooks:
    """Ways a prover bends its own training while it records."""

    after_step: Callable[[int, Weights], None] = lambda step, state: None
    values: Callable[[int, dict[str, Any]], dict[str, Any]] = lambda step, values: values
    """What the step runs with and records."""
    indices: Callable[[int, list[int]], list[int]] = lambda step, indices: indices
    first: Callable[[Weights], None] = lambda state: None


@dataclass(kw_only=True)
class Built:
    """A run on disk, and everything it was made from."""

    run: RunDirectory
    spec: Spec
    records: list[AnyRecord]
    states: dict[int, bytes]

    def engines(self, **options: Any) -> Callable[[Environment], Any]:
        """Engine factory with fresh replayers of this run's task."""
        return lambda environment: nullcontext(
            NumpyReplayer(spec=self.spec, environment=environment, **options)
        )

    def code(
        self, *, inputs_declared: bool = False, own: bool = False, **options: Any
    ) -> Callable[[Genesis], Code]:
        return lambda genesis: Code(
            summary={"kind": genesis.kind},
            engines=self.engines(**options),
            inputs_declared=inputs_declared,
            own=own,
        )


def make_run(
    path: Path, spec: Spec | None = None, *, hooks: Hooks | None = None, stamp: bool = True, sealed: int = 2
) -> Built:
    """Train, record and seal a run at ``path``. ``sealed``: how many seals after the first."""
    spec, hooks = spec or Spec(), hooks or Hooks()
    run = RunDirectory.create(path)
    records, states = _train(run, spec, hooks)
    run.objects.sync()
    edges = np.linspace(2, len(records), sealed + 1).astype(int).tolist()
    write_ledger(run, records, sizes=edges, stamp=stamp)
    return Built(run=run, spec=spec, records=records, states=states)


def make_jumped(path: Path, *, steps: int) -> Built:
    """A run of one step an interval, with a jump in the middle one that no step there explains."""

    def jump(step: int, state: Weights) -> None:
        if step == steps // 2:
            state.w = (state.w + np.float32(3)).astype(np.float32)

    spec = Spec(config={**CONFIG, "steps": steps, "momentum": 0.5}, every=1, warm=0)
    return make_run(path, spec, hooks=Hooks(after_step=jump))


def _train(run: RunDirectory, spec: Spec, hooks: Hooks) -> tuple[list[AnyRecord], dict[int, bytes]]:
    secret = run.secret()
    state = build_state(spec)
    hooks.first(state)
    dataset = _dataset(run, spec, secret) if spec.kind == "recipe" else msgspec.UNSET
    records: list[AnyRecord] = [genesis_of(spec, dataset)]
    states: dict[int, bytes] = {}
    schedule = Schedule(spec.config)
    order = Order(spec.s, spec.examples)
    before: dict[str, Any] = {}
    for step in range(spec.steps + 1):
        if spec.is_checkpoint(step):
            stored = spec.is_stored(step)
            root, data = store_state(run, state, stored=stored, packed=spec.keep > 1)
            states[step] = data
            records.append(Checkpoint(v=1, run=RUN, index=len(records), step=step, root=root, stored=stored))
        if step == spec.steps:
            break
        values = hooks.values(step, schedule.at(step)[0])
        if spec.kind == "recipe":
            indices = hooks.indices(step, order.step(step, int(spec.config["batch_size"])))
            batch = collate([example(spec, index) for index in indices])
        else:
            batch = custom_batch(spec, step)
        train_step(state, batch, values, threads=spec.environment.threads)
        hooks.after_step(step, state)
        changed = {name: value for name, value in values.items() if before.get(name) != value}
        before = values
        records.append(
            Step(
                v=1,
                run=RUN,
                index=len(records),
                step=step,
                batch=batch_digest(salt(secret, "batch", step), [batch]),
                groups=[recorded_values(changed)] if changed else msgspec.UNSET,
            )
        )
    last = records[-1].index
    root = model_root(flatten(state), "model")
    records.append(
        Final(
            v=1,
            run=RUN,
            index=len(records),
            checkpoint=last,
            object="model",
            model_root=root,
            steps=spec.steps,
        )
    )
    return records, states


def store_state(
    run: RunDirectory, state: Weights, *, stored: bool = True, packed: bool = False
) -> tuple[bytes, bytes]:
    encoded = encode_state(flatten(state))
    if stored and packed:
        run.objects.put_packed(encoded.root, encoded.size, list(encoded.parts()))
    elif stored:
        run.objects.put_named(encoded.root, list(encoded.chunks()))
    return encoded.root, b"".join(encoded.chunks())


def pack_states(built: "Built") -> None:
    """Pack the stored states of ``built``."""
    for record in built.records:
        if isinstance(record, Checkpoint) and record.stored:
            encoded = encode_state(load_state(built.run.objects, record.root).flat)
            built.run.objects.path(record.root).unlink()
            built.run.objects.put_packed(record.root, encoded.size, list(encoded.parts()))


def _dataset(run: RunDirectory, spec: Spec, secret: bytes) -> Dataset:
    entries = [example_leaf(salt(secret, "example", i), [example(spec, i)]) for i in range(spec.examples)]
    root = tree_root([leaf_hash(entry) for entry in entries])
    run.objects.put_named(root, [b"".join(entries)])
    return Dataset(root=root, size=spec.examples)


def genesis_of(spec: Spec, dataset: Dataset | msgspec.UnsetType, **changes: Any) -> Genesis:
    values: dict[str, Any] = {
        "v": 1,
        "run": RUN,
        "index": 0,
        "task": sha256(b"numpy task"),
        "kind": spec.kind,
        "config": encode_config(spec.config),
        "seed": spec.seed,
        "bound": spec.bound,
        "key": KEY.public_key().public_bytes_raw(),
        "every": spec.every,
        "warm": spec.warm,
        "steps": spec.steps,
        "dataset": dataset,
        "domains": list(spec.domains) if spec.domains and spec.kind == "recipe" else msgspec.UNSET,
        "objects": OBJECTS,
        "environment": spec.environment,
        "origin": "scratch",
        **spec.origin,
    }
    return Genesis(**{**values, **changes})


def write_ledger(
    run: RunDirectory,
    records: Sequence[AnyRecord],
    *,
    sizes: Sequence[int],
    stamp: bool = True,
    key: Ed25519PrivateKey = KEY,
    times: Sequence[datetime] | None = None,
) -> None:
    """Write ``records`` (re-indexed by their place) and a seal at each of ``sizes``."""
    encoded = [encode(msgspec.structs.replace(record, index=i)) for i, record in enumerate(records)]
    with LedgerWriter.open(run.ledger_path) as ledger:
        for data in encoded:
            ledger.append(data)
        ledger.sync()
    write_seals(run, encoded, sizes=sizes, stamp=stamp, key=key, times=times)


def write_seals(
    run: RunDirectory,
    encoded: Sequence[bytes],
    *,
    sizes: Sequence[int],
    stamp: bool = True,
    key: Ed25519PrivateKey = KEY,
    times: Sequence[datetime] | None = None,
    change: Callable[[int, Head], Head] = lambda number, head: head,
) -> None:
    tree, chainpoint = Frontier(), Frontier(chainpoint_node)
    previous = ZERO
    seals = 0
    for size, data in enumerate(encoded, start=1):
        leaf = leaf_hash(sha256(data))
        tree.append(leaf)
        chainpoint.append(leaf)
        if size not in sizes:
            continue
        head = change(
            seals,
            Head(run=RUN, size=size, root=tree.root(), chainpoint=chainpoint.root(), previous=previous),
        )
        when = times[seals] if times else START + timedelta(minutes=seals)
        tokens = [token(run, head, when)] if stamp else []
        run.write_seal(Seal(v=1, index=seals, note=sign_head(head, key), tokens=tokens))
        previous = head.digest()
        seals += 1
    run.objects.sync()


_AUTHORITY: list[EmbeddedAuthority] = []


def authority(directory: Path) -> EmbeddedAuthority:
    if not _AUTHORITY:
        _AUTHORITY.append(EmbeddedAuthority.open(directory))
    return _AUTHORITY[0]


def token(run: RunDirectory, head: Head, when: datetime, *, name: str = "embedded") -> TokenRef:
    """A stored token of the embedded authority over ``head``."""
    tsa = authority(run.path.parent / "tsa")
    request = make_request(head.digest(), nonce=int.from_bytes(head.digest()[:7], "big"))
    response = tsa.respond(request, now=when)
    chain = [certificate.public_bytes(Encoding.DER) for certificate in (tsa.leaf, tsa.root)]
    return TokenRef(
        authority=name,
        request=run.objects.put(request),
        response=run.objects.put(response),
        chain=[run.objects.put(certificate) for certificate in chain],
    )


def reseal(
    built: Built,
    path: Path,
    records: Sequence[AnyRecord],
    *,
    states: Sequence[Weights] = (),
    key: Ed25519PrivateKey = KEY,
    sealed: int = 2,
    sizes: Sequence[int] = (),
) -> Built:
    """A copy of ``built`` with other records, properly signed: what a lying prover could publish."""
    import shutil

    shutil.copytree(built.run.path, path, ignore=shutil.ignore_patterns("ledger.log", "seals"))
    (path / "ledger.log").write_bytes(b"")
    (path / "seals").mkdir()
    run = RunDirectory.open(path)
    for state in states:
        store_state(run, state)
    edges = np.linspace(2, len(records), sealed + 1).astype(int).tolist()
    write_ledger(run, records, sizes=sizes or edges, key=key)
    return replace(built, run=run, records=list(records))


ISOLATED = IsolationReport(files=True, network=True)


class NumpyReplayer:
    """Replays the run of a Spec. ``actual`` is the machine it pretends to be, default: as recorded."""

    wobbles = 0

    def __init__(
        self,
        *,
        spec: Spec,
        environment: Environment,
        actual: Environment | None = None,
        data: Spec | None = None,
        flaky: bool = False,
        fail: str = "",
        on_replay: Callable[[ReplayJob], None] = lambda job: None,
        wrong_values: bool = False,
        describe: Sequence[StateObject] | None = None,
        drew: bool = False,
        isolated: IsolationReport = ISOLATED,
    ) -> None:
        self.spec, self.environment = spec, environment
        self.actual = actual or environment
        self.data = data or spec
        self.flaky, self.fail, self.on_replay, self.wrong_values = flaky, fail, on_replay, wrong_values
        self.describe = describe
        self.drew = drew
        self.isolated = isolated
        self.seen: list[int] = []

    def _described(self, variant: Variant) -> Environment:
        threads = variant.threads or self.actual.threads
        return msgspec.structs.replace(self.actual, threads=threads)

    def _wobble(self) -> np.float32:
        """Another small error at every call: nondeterministic hardware."""
        NumpyReplayer.wobbles += 1
        return np.float32(1e-3 if NumpyReplayer.wobbles % 2 else -1e-3)

    def rebuild(self, *, variant: Variant = AS_RECORDED, size: int | None = None) -> RebuiltState:
        if self.fail == "rebuild":
            raise ReplayFailed("the task does not load")
        state = build_state(self.spec)
        if self.flaky:
            state.w[0, 0] += self._wobble()
        data = b"".join(encode_state(flatten(state)).chunks())
        values = Schedule(self.spec.config).at(0)[0]
        return RebuiltState(
            state=data,
            objects=tuple(self.describe or OBJECTS),
            groups=(recorded_values(values),),
            domains=tuple(self.spec.domains or ()) if self.spec.kind == "recipe" else (),
            environment=self._described(variant),
        )

    def open_batches(self, steps: Sequence[tuple[int, Sequence[int] | None]]) -> Iterator[OpenedBatch]:
        for step, indices in steps:
            if self.fail == "open":
                raise ReplayFailed("the data cannot be read")
            if indices is None:
                batch = custom_batch(self.data, step)
                yield OpenedBatch(step=step, indices=None, examples=None, batch=batch)
            else:
                opened = tuple(example(self.data, index) for index in indices)
                yield OpenedBatch(step=step, indices=tuple(indices), examples=opened, batch=None)

    def replay(self, job: ReplayJob, *, variant: Variant = AS_RECORDED) -> ReplayOutcome:
        if self.seen and job.first_step < self.seen[-1]:
            raise AssertionError("a child was given an earlier interval after a later one")
        self.seen.append(job.first_step)
        self.on_replay(job)
        if self.fail == "replay":
            raise ReplayFailed("the task raised")
        if self.fail == "nonsense":
            return ReplayOutcome(state=b"junk", steps=self._steps(job), environment=self._described(variant))
        environment = self._described(variant)
        state = unflatten(parse_state(job.start, root=job.root))
        steps: list[ReplayedStep] = []
        if self.fail == "short":
            data = b"".join(encode_state(flatten(state)).chunks())
            return ReplayOutcome(state=data, steps=(), environment=environment)
        schedule = Schedule(self.spec.config)
        for opened in job.batches:
            batch = opened.batch if opened.batch is not None else collate(opened.examples or ())
            values = schedule.at(opened.step)[0]
            train_step(state, batch, values, threads=environment.threads)
            told = {**values, "momentum": 0.5} if self.wrong_values else values
            steps.append(
                ReplayedStep(
                    step=opened.step,
                    groups=(recorded_values(told),),
                    batch=batch,
                    metrics={},
                    drew=self.drew,
                )
            )
        if self.flaky:
            state.w[0, 0] += self._wobble()
        data = b"".join(encode_state(flatten(state)).chunks())
        return ReplayOutcome(state=data, steps=tuple(steps), environment=environment)

    def _steps(self, job: ReplayJob) -> tuple[ReplayedStep, ...]:
        return tuple(
            ReplayedStep(step=step, groups=(), batch=b"", metrics={})
            for step in range(job.first_step, job.last_step)
        )

    def ready(self, *, variant: Variant = AS_RECORDED) -> IsolationReport:
        return self.isolation()

    def isolation(self) -> IsolationReport:
        return self.isolated


def config_of(genesis: Genesis) -> dict[str, Any]:
    return decode_config(genesis.config)
