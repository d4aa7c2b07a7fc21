"""A verifier of the kind that was published first, so that a spoof can be shown to pass it.

What Jia et al. ("Proof-of-Learning: Definitions and Practice", IEEE S&P 2021) describe and their code does, as Zhang
et al. (S&P 2022) and Fang et al. (EuroS&P 2023) attacked it, on a run directory of ours: the few intervals per epoch
that moved the parameters most are trained again from their checkpoint, with the hyperparameters and the optimizer
state that the prover recorded, and end within a fixed distance of the next one, parameters alone; the first
checkpoint's tensors look drawn from the law of initialisation; the data hash to what the prover published.

It checks no head, time, schedule, seed, order, batch digest, example, buffer or optimizer slot: that is its point. It
runs the task in this process.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polledger.core.config import decode_config
from polledger.core.encoding import from_real
from polledger.core.records import Checkpoint, Genesis, Step
from polledger.core.seeds import training_seed
from polledger.core.state import FlatState, escape
from polledger.core.structure import join
from polledger.errors import EnvironmentMismatch, Unavailable
from polledger.redteam.rewrite import read_records
from polledger.store.run import RunDirectory
from polledger.training.determinism import apply_switches
from polledger.training.location import load_task_class, resolve_task
from polledger.training.recipe import apply_hyperparameters
from polledger.training.runner import Runner
from polledger.training.task import Task, prepare_task
from polledger.verify.floats import bit_patterns, to_float64
from polledger.verify.lineage import Lineage, build_lineage
from polledger.verify.states import load_state

ALPHA = 0.01
"""p-value below which a tensor of the first checkpoint counts as not drawn from the law of initialisation."""

TOP = 2
"""Q: intervals opened per epoch, as shipped."""

FRESH = 32
"""Fresh models whose tensors, pooled, stand for the law of initialisation. The published code has the law in closed
form for two kinds of layer; a sample 32 times as large as the one tested costs the test 1.5 % of its sharpness and
knows every layer."""

_FRESH_SEED = 0x706F6C
_MODEL = "model"

Vector = NDArray[np.float64]
Values = dict[tuple[str, int], dict[str, float | int | bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Distances of two parameter vectors: l1, l2, l∞, and 1 − the cosine between them."""

    l1: float
    l2: float
    linf: float
    cosine: float

    def beyond(self, bounds: "Distances") -> list[str]:
        """Those above their bound, for a message. Not a number is above every bound."""
        values = [(item.name, getattr(self, item.name), getattr(bounds, item.name)) for item in fields(self)]
        return [f"{name} {value:.3g} > {bound:g}" for name, value, bound in values if not value <= bound]


SHIPPED = Distances(l1=1000.0, l2=10.0, linf=0.1, cosine=0.01)
"""δ as the authors' code has it, the same for every model and interval: for a ResNet-20 at k = 10, l2 is 13 times
what an interval moves the parameters at all (FACTS, "Honest error and spoofs")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """One interval that was trained again: how far it ended from the recorded state, how far that is from its start."""

    first: int
    last: int
    error: Distances
    displacement: Distances


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceVerdict:
    """``accepts`` and everything it follows from; ``why`` says in one clause what was not accepted.

    ``bounds`` is δ. ``intervals`` are those opened, in order; ``p_values`` by tensor of the first checkpoint;
    ``data_hash`` is that of the data as they are here, ``data_matches`` None where none was published.
    """

    accepts: bool
    why: str
    bounds: Distances
    intervals: tuple[Reproduction, ...]
    p_values: Mapping[str, float]
    data_hash: str
    data_matches: bool | None

    @property
    def largest_error(self) -> float:
        """Largest l2 distance between replay and record."""
        return max((item.error.l2 for item in self.intervals), default=0.0)

    @property
    def largest_ratio(self) -> float:
        """Largest l2 error over l2 displacement: what the published rule does not look at."""
        ratios = [
            item.error.l2 / item.displacement.l2 if item.displacement.l2 else math.inf
            for item in self.intervals
            if item.error.l2
        ]
        return max(ratios, default=0.0)

    @property
    def smallest_p(self) -> float:
        """Smallest p-value of the first checkpoint; 1 where no tensor is drawn at random."""
        return min(self.p_values.values(), default=1.0)


def reference_verdict(
    run: Path,
    *,
    task: str,
    inputs: Mapping[str, str] | None = None,
    top: int = TOP,
    delta: float | None = None,
    data_hash: str | None = None,
) -> ReferenceVerdict:
    """What a verifier of the published kind says about ``run``, replaying ``task`` on the data at ``inputs``.

    ``top`` is Q. ``delta`` bounds the l2 distance alone; the paper takes it as a share of ``d_ref``, the distance of
    two honest trainings (:func:`model_distance`), and without it :data:`SHIPPED` bounds all four. ``data_hash`` is
    what the prover published (:func:`published_hash`). Raises UsageError for a task that does not load, Unavailable
    for a run whose records or states are damaged.
    """
    bounds = SHIPPED if delta is None else Distances(l1=math.inf, l2=delta, linf=math.inf, cosine=math.inf)
    replayer = _Replayer(run, task=task, inputs=inputs or {})
    found_hash = replayer.data_hash()
    p_values = replayer.initial_p_values()
    try:
        intervals = tuple(replayer.reproduce(*pair) for pair in replayer.selected(top))
    except EnvironmentMismatch as error:
        intervals, why = (), f"a checkpoint cannot be loaded: {error}"
    else:
        why = _objection(intervals, bounds, p_values)
    matches = None if data_hash is None else data_hash == found_hash
    if not why and matches is False:
        why = "the data hash to something else than published"
    return ReferenceVerdict(
        accepts=not why,
        why=why,
        bounds=bounds,
        intervals=intervals,
        p_values=p_values,
        data_hash=found_hash,
        data_matches=matches,
    )


def _objection(intervals: Sequence[Reproduction], bounds: Distances, p_values: Mapping[str, float]) -> str:
    strange = sorted(name for name, p in p_values.items() if not p >= ALPHA)
    if strange:
        return (
            f"{strange[0]} of the first checkpoint does not look initialised (p = {p_values[strange[0]]:.2g})"
        )
    for item in intervals:
        beyond = item.error.beyond(bounds)
        if beyond:
            return f"steps {item.first} to {item.last} end too far from the record ({', '.join(beyond)})"
    return ""


class _Recorded(Runner):
    """A runner that takes every hyperparameter from the records, whatever config says of them."""

    recorded: Mapping[int, Values]

    def prepare(self, n: int) -> None:
        for name, optimizer in self.objects.items():
            if isinstance(optimizer, torch.optim.Optimizer):
                values = self.recorded[n]
                groups = [dict(values.get((name, i), {})) for i in range(len(optimizer.param_groups))]
                apply_hyperparameters(optimizer, groups)


class _Replayer:
    """The run's stored checkpoints, and the task in this process."""

    def __init__(self, run: Path, *, task: str, inputs: Mapping[str, str]) -> None:
        self._run = RunDirectory.open(run)
        records = read_records(self._run)
        if not records or not isinstance(records[0], Genesis):
            raise Unavailable(f"{run} does not begin with genesis")
        self._genesis = records[0]
        self._lineage: Lineage = build_lineage(self._genesis, records)
        self._class = load_task_class(resolve_task(task))
        self._inputs = inputs
        self._steps = {step.step: step for item in self._lineage.intervals for step in item.steps}
        apply_switches("cpu")
        seed = training_seed(self._genesis.seed, self._genesis.key if self._genesis.bound else None)
        self._runner = _Recorded(self._task(), seed=seed)
        self._runner.recorded = recorded_values([self._steps[n] for n in sorted(self._steps)])
        self._runner.build()

    def _task(self) -> Task:
        return prepare_task(self._class, config=decode_config(self._genesis.config), inputs=self._inputs)

    def data_hash(self) -> str:
        """Of the data set as it is here; empty for a task that makes its batches itself."""
        return "" if self._runner.makes_batches else published_hash(self._runner.data)

    def initial_p_values(self) -> dict[str, float]:
        first = load_state(self._run.objects, self._lineage.checkpoints[0].root).flat
        return initial_p_values(first, self._task())

    def selected(self, top: int) -> Iterator[tuple[Checkpoint, Checkpoint]]:
        """Per epoch the ``top`` intervals that moved the parameters most, by any of the four distances."""
        stored = [item for item in self._lineage.checkpoints if item.stored]
        vectors = [self._parameters(load_state(self._run.objects, item.root).flat) for item in stored]
        moved = [distances(a, b) for a, b in itertools.pairwise(vectors)]
        epochs: dict[int, list[int]] = {}
        for number, checkpoint in enumerate(stored[:-1]):
            epochs.setdefault(self._epoch(checkpoint.step), []).append(number)
        for members in epochs.values():
            for number in _largest(members, moved, top):
                yield stored[number], stored[number + 1]

    def _epoch(self, step: int) -> int:
        if self._runner.makes_batches:
            return 0
        return step * len(self._runner.batch_indices(step) or ()) // len(self._runner.data)

    def reproduce(self, start: Checkpoint, end: Checkpoint) -> Reproduction:
        """Train from ``start`` to ``end`` again."""
        begin = load_state(self._run.objects, start.root).flat
        target = self._parameters(load_state(self._run.objects, end.root).flat)
        self._runner.build()
        self._runner.load(begin)
        for n in range(start.step, end.step):
            self._runner.step(n, self._runner.batch(n))
        return Reproduction(
            first=start.step,
            last=end.step,
            error=distances(target, self._parameters(self._runner.flatten())),
            displacement=distances(self._parameters(begin), target),
        )

    def _parameters(self, flat: FlatState) -> Vector:
        return parameter_vector(flat, self._runner.objects[_MODEL])


def recorded_values(steps: Sequence[Step]) -> dict[int, Values]:
    """The hyperparameters in force at every step, from what the records say changed."""
    current: Values = {}
    found: dict[int, Values] = {}
    for step in steps:
        for group in step.groups or ():
            key = (group.optimizer, group.index)
            values = {
                name: from_real(value) if isinstance(value, bytes) else value
                for name, value in group.values.items()
            }
            current = {**current, key: {**current.get(key, {}), **values}}
        found[step.step] = current
    return found


def _largest(members: Sequence[int], moved: Sequence[Distances], top: int) -> list[int]:
    chosen: set[int] = set()
    for item in fields(Distances):
        ranked = sorted(members, key=lambda number: getattr(moved[number], item.name), reverse=True)
        chosen.update(ranked[:top])
    return sorted(chosen)


def distances(a: Vector, b: Vector) -> Distances:
    """All four distances of two vectors; the cosine, as published, over the first one's squared length."""
    difference = np.abs(a - b)
    length = float(a @ a)
    return Distances(
        l1=float(difference.sum()),
        l2=float(np.sqrt(difference @ difference)),
        linf=float(difference.max(initial=0.0)),
        cosine=1.0 - float(a @ b) / length if length else 0.0,
    )


def parameter_vector(flat: FlatState, model: nn.Module) -> Vector:
    """All parameters of ``model`` in its order, from the state ``flat``. Raises EnvironmentMismatch if it lacks one."""
    found = {tensor.path: tensor for tensor in flat.tensors}
    parts = []
    for name, parameter in model.named_parameters():
        tensor = found.get(join(_MODEL, escape(name)))
        if tensor is None or tensor.shape != tuple(parameter.shape):
            raise EnvironmentMismatch(f"{name} is not in the recorded state as the model has it")
        parts.append(to_float64(bit_patterns(tensor.data, tensor.dtype), tensor.dtype))
    return np.concatenate(parts)


def model_distance(one: FlatState, other: FlatState, model: nn.Module) -> float:
    """l2 distance over all parameters: d_ref, for the last states of two honest trainings under different seeds."""
    return distances(parameter_vector(one, model), parameter_vector(other, model)).l2


def published_hash(data: Any) -> str:
    """SHA-256 over each example's first field as NumPy prints it, as published.

    Arrays of more than 1,000 elements are printed with their middle left out, and nothing else of an example counts,
    so that the inside of an image and every label can be changed. The order of the data does count, the order of
    training not.
    """
    total = hashlib.sha256()
    for index in range(len(data)):
        total.update(str(_array(data[index])).encode())
    return total.hexdigest()


def _array(example: Any) -> NDArray[Any]:
    while isinstance(example, Mapping | Sequence) and not isinstance(example, str | bytes):
        example = next(iter(example.values())) if isinstance(example, Mapping) else example[0]
    return example.numpy() if isinstance(example, Tensor) else np.asarray(example)


def initial_p_values(first: FlatState, task: Task) -> dict[str, float]:
    """p-value of a Kolmogorov-Smirnov test per parameter tensor: ``first`` against freshly built models.

    Tensors that the task does not draw at random (normalisation weights, zero biases) are left out, as published.
    ``task`` is used up: its seed is set anew. Deterministic.
    """
    pools: dict[str, list[Vector]] = {}
    for number in range(FRESH):
        runner = Runner(task, seed=_FRESH_SEED + number)
        runner.build()
        for name, parameter in runner.objects[_MODEL].named_parameters():
            pools.setdefault(name, []).append(parameter.detach().double().flatten().numpy().copy())
    recorded = {tensor.path: tensor for tensor in first.tensors}
    found = {}
    for name, pool in pools.items():
        if not all(np.array_equal(pool[0], other) for other in pool[1:]):
            tensor = recorded.get(join(_MODEL, escape(name)))
            values = (
                None if tensor is None else to_float64(bit_patterns(tensor.data, tensor.dtype), tensor.dtype)
            )
            found[name] = 0.0 if values is None else ks_two_sample(values, np.concatenate(pool))
    return found


def ks_two_sample(a: Vector, b: Vector) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test, asymptotic with Stephens' correction for small samples."""
    if not (len(a) and len(b) and np.isfinite(a).all()):
        return 0.0
    a, b = np.sort(a), np.sort(b)
    places = np.concatenate([a, b])
    below_a = np.searchsorted(a, places, side="right") / len(a)
    below_b = np.searchsorted(b, places, side="right") / len(b)
    gap = float(np.abs(below_a - below_b).max())
    root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    return kolmogorov_tail((root + 0.12 + 0.11 / root) * gap)


def kolmogorov_tail(x: float) -> float:
    """P(K > x) for Kolmogorov's distribution; within 1e-9."""
    if x < 0.2:
        # The alternating series converges slowly here; the tail is 1 to 12 digits.
        return 1.0
    total = sum((-1.0) ** (j - 1) * math.exp(-2.0 * (j * x) ** 2) for j in range(1, 101))
    return min(1.0, max(0.0, 2.0 * total))
