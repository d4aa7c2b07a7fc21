#!/usr/bin/env python3
"""Measures the screening of stored checkpoints: what it asks of honest runs, and what it finds of forged ones.

    scripts/screening.py [honest] [jumps] [walks] [kept] [-o docs/evidence/screening.json]

Runs are trained in process, unsealed; their states go through the verifier's own measuring and rules. *honest*: how
many intervals flags have opened, over tasks, optimizers, schedules and seeds. *jumps*: one interval that leads from
an honest state to a stolen model, honest training before and after it. *walks*: the same way in L intervals, straight
or crooked, and after a phase of large steps. *kept*: one jump where not every checkpoint was stored. A forged interval
counts as found when it is opened: its replay decides the rest. Parts that are not named keep the figures of the file.
"""

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import NOWHERE
from numpy.typing import NDArray
from torch import nn

from polledger import Task, __version__
from polledger.core.config import encode_config
from polledger.core.digest import sha256
from polledger.core.records import Checkpoint, Genesis, Step
from polledger.core.sampling import detection_odds, draw
from polledger.core.screening import Segment, Track, is_parameters, nearly_still, screen
from polledger.core.state import FlatState, Groups, TensorData, encode_state, parse_state
from polledger.examples.chars import Chars
from polledger.examples.digits import Digits
from polledger.examples.gan import Gan
from polledger.examples.mlp import Mlp
from polledger.training.runner import Runner
from polledger.training.task import prepare_task
from polledger.verify.lineage import Interval, changed_values
from polledger.verify.movement import Meter
from polledger.verify.optimizers import OptimizerRules
from polledger.verify.policy import Policy
from polledger.verify.scan import Scan
from polledger.verify.screening import Screening, step_screening

ROOT = Path(__file__).resolve().parents[1]
TEXT = ROOT / "LICENSE"
PARAMETERS = "model/parameters"
SAMPLE = 20
POLICY = Policy()
Vector = NDArray[np.float32]


class Counter(nn.Module):
    """How many steps were taken."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


class Restarts(Mlp):
    """A cosine with warm restarts every 200 steps, which no recipe has."""

    def build(self) -> dict[str, Any]:
        model = self.model()
        optimizer = torch.optim.SGD(
            model.parameters(), lr=self.config["lr"], momentum=self.config["momentum"]
        )
        return {"model": model, "optimizer": optimizer, "counter": Counter()}

    def step(self, state: dict[str, Any], batch: Any) -> dict[str, float]:
        """One step at the learning rate of its place in the cycle."""
        place = int(state["counter"].steps.item()) % 200
        state["counter"].steps += 1
        for group in state["optimizer"].param_groups:
            group["lr"] = self.config["lr"] * (0.05 + 0.475 * (1 + math.cos(math.pi * place / 200)))
        loss, _ = self.loss(state["model"], batch)
        loss.backward()
        state["optimizer"].step()
        return {"loss": float(loss)}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is trained: ``change`` overrides the config of ``task``, None takes a key away."""

    name: str
    task: type[Task]
    change: dict[str, Any]
    every: int = 4
    warm: int = 10
    resumed: bool = False

    def runner(self, seed: int) -> Runner:
        """A fresh runner of this training."""
        base = {key: value for key, value in self.task.config.items() if self.change.get(key, 0) is not None}
        config = {**base, **{key: value for key, value in self.change.items() if value is not None}}
        made = type(self.task.__name__, (self.task,), {"config": config, "__module__": self.task.__module__})
        inputs = {"text": str(TEXT)} if issubclass(self.task, Chars) else None
        runner = Runner(prepare_task(made, config={}, inputs=inputs, seed=seed), seed=seed)
        runner.build()
        return runner

    def checkpoint(self, step: int, steps: int) -> bool:
        """Whether there is one after ``step`` steps."""
        return step <= self.warm or step % self.every == 0 or step == steps


def flat(runner: Runner) -> FlatState:
    """The state, with bytes of its own."""
    encoded = encode_state(runner.flatten())
    return parse_state(b"".join(bytes(part) for part in encoded.chunks()), root=encoded.root)


@dataclass(kw_only=True)
class Judge:
    """Takes the states of a run in order, as the reading pass does, and screens them."""

    runner: Runner
    kind: str
    seed: bytes
    steps: list[Step] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    values: list[Any] = field(default_factory=lambda: [{}])
    keep: int = 1
    """Intervals between two states that are taken."""
    before: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Places of what was judged already and is not measured again: ``segments`` and ``values`` begin with it too."""

    def __post_init__(self) -> None:
        objects = self.runner.describe()
        self.meter = Meter(objects, seed=self.seed)
        self.genesis = Genesis(
            v=1,
            run=bytes(16),
            index=0,
            task=bytes(32),
            kind=self.kind,  # type: ignore[arg-type]
            config=encode_config(self.runner.task.config),
            seed=0,
            bound=True,
            key=bytes(32),
            every=1,
            warm=0,
            steps=1,
            objects=objects,
            environment=NOWHERE,
            origin="scratch",
        )
        self.rules = OptimizerRules(self.genesis, self.values)

    def stepped(self, number: int) -> None:
        """One step was taken, with the hyperparameters that the runner has now."""
        groups = self.runner.hyperparameters()
        self.steps.append(Step(v=1, run=bytes(16), index=0, step=number, batch=bytes(32), groups=groups))

    def take(self, state: FlatState, step: int) -> None:
        """The next stored checkpoint."""
        if not self.steps:
            self.meter.take(state)
            return
        ends = [
            Checkpoint(v=1, run=bytes(16), index=0, step=at, root=bytes(32), stored=True)
            for at in (self.steps[0].step, step)
        ]
        first = self.segments[-1].last + 1 if self.segments else 0
        interval = Interval(
            number=len(self.segments),
            start=ends[0],
            end=ends[1],
            steps=tuple(self.steps),
            environment=NOWHERE,
        )
        movement = self.meter.take(state, self.rules.expected([interval]))
        if movement is None:
            raise RuntimeError("the first state was not taken first")
        self.segments.append(
            Segment(
                first=first,
                last=first + self.keep - 1,
                steps=len(self.steps),
                moved=movement.moved,
                still=movement.still,
                lessened=movement.lessened,
                limited=self.rules.limited([interval], movement),
            )
        )
        values = self.values[-1]
        for taken in self.steps:
            values = changed_values(values, taken.groups)
        self.values.append(values)
        self.steps = []

    def places(self) -> dict[str, NDArray[np.float64]]:
        """By group, the place of every checkpoint, what was judged before included."""
        found = {group: np.array(places) for group, places in self.meter.sketches.items()}
        for group, before in self.before.items():
            found[group] = np.concatenate([before, before[-1] + found[group][1:]])
        return found

    def screened(self, seed: bytes) -> Screening:
        """What step 5 says under a sample seed."""
        places = {group: [place.tolist() for place in found] for group, found in self.places().items()}
        scan = Scan(
            track=Track(segments=self.segments, places=places),
            displacement=1.0,
            read=len(self.segments) + 1,
            stored=len(self.segments) + 1,
            size=0,
            problems=(),
        )
        return step_screening(scan, total=self.segments[-1].last + 1, policy=POLICY, seed=seed)


# Honest runs


def mlp(name: str, **change: Any) -> Spec:
    return Spec(name=name, task=Mlp, change={"steps": 800, **change})


ADAPTIVE = {"momentum": None}
HONEST = (
    mlp("MLP, momentum, cosine to 0, warm-up"),
    mlp("MLP, SGD, constant", momentum=0.0, schedule="constant", warmup=0, lr=0.1),
    mlp("MLP, momentum 0.99, constant", momentum=0.99, schedule="constant", warmup=0, lr=0.01),
    mlp("MLP, momentum, steps x 0.1", schedule="multistep", milestones=[350, 600], gamma=0.1, warmup=0),
    mlp("MLP, momentum, one cycle", schedule="onecycle", warmup=240, lr=0.1, final_lr=1e-4),
    mlp("MLP, momentum, spikes (lr 0.9)", lr=0.9, schedule="constant", warmup=0),
    mlp("MLP, AdamW", optimizer="AdamW", lr=0.002, **ADAPTIVE),
    mlp("MLP, Adam AMSGrad", optimizer="Adam", amsgrad=True, lr=0.002, schedule="constant", **ADAPTIVE),
    mlp("MLP, Adagrad", optimizer="Adagrad", lr=0.02, schedule="constant", **ADAPTIVE),
    mlp("MLP, RMSprop", optimizer="RMSprop", lr=0.002, schedule="constant", warmup=0, **ADAPTIVE),
    Spec(name="MLP, warm restarts (custom)", task=Restarts, change={"steps": 800, "lr": 0.1}),
    Spec(name="MLP, AdamW, resumed", task=Mlp, change={"steps": 400, "optimizer": "AdamW", "lr": 0.002, **ADAPTIVE},
         every=2, resumed=True),
    Spec(name="conv BN, momentum, cosine", task=Digits, change={"steps": 300, "width": 16}, every=3),
    Spec(name="conv BN, AdamW, k = 1", task=Digits, every=1,
         change={"steps": 160, "width": 16, "optimizer": "AdamW", "lr": 0.002, **ADAPTIVE}),
    Spec(name="conv BN, momentum, wsd", task=Digits, every=2,
         change={"steps": 240, "width": 16, "schedule": "wsd", "decay_steps": 60}),
    Spec(name="transformer, AdamW, EMA", task=Chars, change={"steps": 240, "width": 32, "batch_size": 16}, every=2),
    Spec(name="GAN (custom), 2 x Adam", task=Gan, change={"steps": 400}),
)  # fmt: skip
SEEDS = (1, 2)


def honest_run(spec: Spec, seed: int) -> dict[str, Any]:
    """Trains and screens one honest run."""
    runner = spec.runner(seed)
    steps = int(runner.task.config["steps"])
    kind = "custom" if "step" in vars(spec.task) else "recipe"
    judge = Judge(runner=runner, kind=kind, seed=nonce("honest", seed))
    state = flat(runner)
    judge.take(state, 0)
    for n in range(steps):
        judge.runner.step(n, judge.runner.batch(n))
        judge.stepped(n)
        if spec.checkpoint(n + 1, steps):
            state = flat(judge.runner)
            judge.take(state, n + 1)
        if spec.resumed and n + 1 == steps // 2:
            judge.runner = spec.runner(seed)
            judge.runner.load(state)
    found = judge.screened(judge.seed)
    kinds: dict[str, int] = {}
    for flag in found.flags:
        kinds[flag.kind] = kinds.get(flag.kind, 0) + 1
    return {
        "run": spec.name,
        "seed": seed,
        "intervals": found.total,
        "opened": len(found.flagged),
        "budget": POLICY.screening.budget(found.total),
        "saturated": found.left > 0,
        "flags": kinds,
        "largest": {
            "parameters": largest_ratio(found.scan.track, parameters=True),
            "other groups": largest_ratio(found.scan.track, parameters=False),
        },
        "still": {f"{ratio:g}": still_share(found.scan.track, ratio) for ratio in (1e-4, 1e-3, 1e-2)},
    }


def largest_ratio(track: Track, *, parameters: bool) -> float:
    """Largest displacement of a group over the upper quartile of its neighbours."""
    segments = [
        replace(segment, moved={g: u for g, u in segment.moved.items() if is_parameters(g) == parameters})
        for segment in track.segments
    ]
    flags = screen(Track(segments=segments, places={}), replace(POLICY.screening.rules, jump=1.0))
    return max((flag.strength for flag in flags if flag.kind == "jump"), default=0.0)


def still_share(track: Track, ratio: float) -> float:
    """Share of intervals that would count as still."""
    return len(nearly_still(track.segments, ratio=ratio)) / len(track.segments)


def nonce(*what: object) -> bytes:
    return sha256("/".join(map(str, what)).encode())


def measure_honest() -> dict[str, Any]:
    """All honest runs."""
    runs = []
    for spec in HONEST:
        for seed in SEEDS:
            runs.append(honest_run(spec, seed))
            print(
                f"honest  {spec.name:38s} seed {seed}: {runs[-1]['opened']} of {runs[-1]['intervals']} opened",
                flush=True,
            )
    total, opened = sum(run["intervals"] for run in runs), sum(run["opened"] for run in runs)
    return {
        "runs": runs,
        "intervals": total,
        "opened": opened,
        "share": opened / total,
        "worst_share": max(run["opened"] / run["intervals"] for run in runs),
        "saturated": sum(run["saturated"] for run in runs),
        "largest": {
            name: max(run["largest"][name] for run in runs) for name in ("parameters", "other groups")
        },
        "still": {name: max(run["still"][name] for run in runs) for name in runs[0]["still"]},
    }


# Forged runs


def vector(state: FlatState, groups: Groups) -> Vector:
    """All parameters of the model in one row."""
    return np.concatenate([np.frombuffer(tensor.data, "<f4") for tensor in _parameters(state, groups)])


def _parameters(state: FlatState, groups: Groups) -> list[TensorData]:
    tensors = sorted(state.tensors, key=lambda tensor: tensor.path)
    return [tensor for tensor in tensors if groups.of(tensor.path) == PARAMETERS]


def with_vector(state: FlatState, groups: Groups, values: Vector) -> FlatState:
    """``state`` with other parameters."""
    data, at = {}, 0
    for tensor in _parameters(state, groups):
        size = len(tensor.data) // 4
        data[tensor.path] = memoryview(values[at : at + size].astype("<f4").tobytes())
        at += size
    tensors = [
        TensorData(path=t.path, dtype=t.dtype, shape=t.shape, data=data.get(t.path, t.data))
        for t in state.tensors
    ]
    return FlatState(skeletons=state.skeletons, tensors=tensors)


@dataclass(kw_only=True)
class Base:
    """An honest run whose states after every step are kept, and the end of another one that is to be stolen."""

    spec: Spec
    seed: int
    states: list[FlatState]
    values: list[Any]
    groups: Groups
    stolen: Vector
    judge: Judge
    """Of the whole honest run: a forged one shares its beginning and its sketch seed."""

    @property
    def steps(self) -> int:
        return len(self.states) - 1


def base(spec: Spec, seed: int) -> Base:
    states, values, groups = _trained(spec, seed)
    other, _, _ = _trained(spec, seed + 1000)
    judge = Judge(runner=spec.runner(seed), kind="recipe", seed=nonce(spec.name, seed))
    run = Base(
        spec=spec,
        seed=seed,
        states=states,
        values=values,
        groups=groups,
        stolen=vector(other[-1], groups),
        judge=judge,
    )
    judge.take(states[0], 0)
    for n, state in enumerate(states[1:]):
        _recorded(judge, run, n)
        judge.take(state, n + 1)
    return run


def _trained(spec: Spec, seed: int) -> tuple[list[FlatState], list[Any], Groups]:
    runner = spec.runner(seed)
    states, values = [flat(runner)], []
    for n in range(int(runner.task.config["steps"])):
        runner.step(n, runner.batch(n))
        values.append(runner.hyperparameters())
        states.append(flat(runner))
    return states, values, Groups(runner.describe())


Path_ = Callable[[Base, int, int, random.Random], list[Vector]]


def straight(run: Base, start: int, pieces: int, rng: random.Random) -> list[Vector]:
    """Equal pieces of the line."""
    begin = vector(run.states[start], run.groups)
    return [begin + (run.stolen - begin) * np.float32(j / pieces) for j in range(1, pieces + 1)]


def crooked(run: Base, start: int, pieces: int, rng: random.Random) -> list[Vector]:
    """The line with steps to the side and back, so that each piece is as long as honest ones are and turns as they do.

    The prover computes these with exact distances: only the directions of the sketch are unknown to it.
    """
    line = straight(run, start, pieces, rng)
    begin = vector(run.states[start], run.groups)
    drift = float(np.linalg.norm(run.stolen - begin)) / pieces
    ordinary = local_pace(run, start)
    if ordinary <= drift:
        return line
    generator = np.random.default_rng(rng.getrandbits(32))
    aside = math.sqrt(ordinary**2 - drift**2) / math.sqrt(2)
    points = []
    for j, point in enumerate(line, start=1):
        noise = generator.normal(size=len(point)).astype(np.float32)
        noise *= np.float32(aside / np.linalg.norm(noise))
        points.append(point + noise if j < pieces else point)
    return points


def hurried(run: Base, start: int, pieces: int, rng: random.Random) -> list[Vector]:
    """Crooked, and each piece as long as no neighbour may exceed: 2.9 times the ordinary."""
    line = straight(run, start, pieces, rng)
    begin = vector(run.states[start], run.groups)
    drift = float(np.linalg.norm(run.stolen - begin)) / pieces
    length = 2.9 * local_pace(run, start)
    if length <= drift:
        return line
    side = np.random.default_rng(rng.getrandbits(32)).normal(size=len(begin)).astype(np.float32)
    side *= np.float32(math.sqrt(length**2 - drift**2) / 2 / np.linalg.norm(side))
    return [
        point + (side if j % 2 else -side) if j < pieces else point for j, point in enumerate(line, start=1)
    ]


def local_pace(run: Base, start: int) -> float:
    """Median displacement of the honest steps before ``start``."""
    before = [vector(state, run.groups) for state in run.states[max(0, start - 20) : start + 1]]
    return float(np.median([np.linalg.norm(b - a) for a, b in pairwise(before)]))


def forged(run: Base, start: int, points: Sequence[Vector], seed: bytes) -> Screening:
    """Honest up to ``start``, then ``points``, then honest training from the last of them."""
    runner = run.spec.runner(run.seed)
    judge = Judge(
        runner=runner,
        kind="recipe",
        seed=run.judge.seed,
        segments=run.judge.segments[:start],
        values=run.judge.values[: start + 1],
        before={group: places[: start + 1] for group, places in run.judge.places().items()},
    )
    state = run.states[start]
    judge.take(state, start)
    for n, point in enumerate(points, start=start):
        # Slots as they were at honest steps: only the parameters are bent.
        state = with_vector(run.states[n + 1], run.groups, point)
        _recorded(judge, run, n)
        judge.take(state, n + 1)
    runner.load(state)
    for n in range(start + len(points), run.steps):
        runner.step(n, runner.batch(n))
        _recorded(judge, run, n)
        judge.take(flat(runner), n + 1)
    return judge.screened(seed)


def _recorded(judge: Judge, run: Base, n: int) -> None:
    judge.steps.append(Step(v=1, run=bytes(16), index=0, step=n, batch=bytes(32), groups=run.values[n]))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """``found``: a bogus interval is opened; ``drawn``: the sample alone opens one; ``saturated``: unverifiable."""

    found: bool
    drawn: bool
    saturated: bool
    rules: tuple[str, ...]


def judged(found: Screening, start: int, pieces: int, seed: bytes) -> Trial:
    bogus = set(range(start, start + pieces))
    drawn = set(draw(seed, total=found.total, count=SAMPLE))
    opened = drawn | set(found.top) | set(found.flagged) | {0, found.total - 1}
    rules = {flag.kind for flag in found.flags if bogus & set(range(flag.first, flag.last + 1))}
    return Trial(
        found=bool(opened & bogus),
        drawn=bool(drawn & bogus),
        saturated=found.left > 0,
        rules=tuple(sorted(rules)),
    )


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    hits = sum(trial.found for trial in trials)
    low, high = clopper_pearson(hits, len(trials))
    return {
        "trials": len(trials),
        "found": hits,
        "rate": hits / len(trials),
        "low": low,
        "high": high,
        "drawn_alone": sum(trial.drawn for trial in trials),
        "found_or_unverifiable": sum(trial.found or trial.saturated for trial in trials),
        "rules": sorted({rule for trial in trials for rule in trial.rules}),
    }


def clopper_pearson(hits: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion."""
    tail = (1 - confidence) / 2

    def at_least(p: float) -> float:
        return math.fsum(
            math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(hits, trials + 1)
        )

    def at_most(p: float) -> float:
        return math.fsum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(hits + 1))

    low = 0.0 if hits == 0 else _solve(lambda p: at_least(p) >= tail)
    high = 1.0 if hits == trials else _solve(lambda p: at_most(p) <= tail)
    return low, high


def _solve(reached: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


N = 1000
"""Intervals of a run with one jump."""

WALKED = 400
"""Intervals of a run with a walk: the longest walk measured takes a sixth of it."""


def momentum(steps: int) -> Spec:
    return Spec(name="MLP, momentum, cosine", task=Mlp, change={"steps": steps}, every=1, warm=0)


def adamw(steps: int) -> Spec:
    change = {"steps": steps, "optimizer": "AdamW", "lr": 0.002, "schedule": "constant", "momentum": None}
    return Spec(name="MLP, AdamW, constant", task=Mlp, change=change, every=1, warm=0)


def chaotic(steps: int) -> Spec:
    """Large steps up to the half, small ones afterwards."""
    change = {"lr": 1.5, "schedule": "multistep", "milestones": [steps // 2], "gamma": 0.01, "warmup": 0}
    return Spec(
        name="MLP, momentum, large steps in the first half",
        task=Mlp,
        change={"steps": steps, **change},
        every=1,
        warm=0,
    )


def measure_jumps(seeds: int = 7, positions: int = 6) -> dict[str, Any]:
    """One jump to a stolen model at random places."""
    by_spec = {}
    everything = []
    for spec in (momentum(N), adamw(N)):
        trials = []
        for seed in range(1, seeds + 1):
            run = base(spec, seed)
            rng = random.Random(seed)
            for _ in range(positions):
                start = rng.randrange(5, N - 5)
                trials.append(attempt(run, start, 1, straight, rng))
        everything += trials
        by_spec[spec.name] = summary(trials)
        print(f"jumps   {spec.name}: {by_spec[spec.name]}", flush=True)
    return {
        "n": SAMPLE,
        "intervals": N,
        "by_task": by_spec,
        "all": summary(everything),
        "uniform": SAMPLE / N,
    }


def attempt(run: Base, start: int, pieces: int, way: Path_, rng: random.Random) -> Trial:
    seed = nonce(run.spec.name, run.seed, start, pieces, way.__name__, rng.random())
    return judged(forged(run, start, way(run, start, pieces, rng), seed), start, pieces, seed)


KEPT = (1, 2, 5, 10, 20, 50)


def measure_kept(seeds: int = 2, positions: int = 6) -> dict[str, Any]:
    """One jump where only every K-th checkpoint was stored: its segment has to stand out among longer ones."""
    bases = [base(adamw(N), seed) for seed in range(1, seeds + 1)]
    points = []
    for keep in KEPT:
        trials = []
        for run in bases:
            rng = random.Random(run.seed)
            for _ in range(positions):
                start = rng.randrange(N // 10, N - N // 10)
                seed = nonce("kept", run.seed, start, keep)
                trials.append(judged(_kept(run, start, keep, seed), start, 1, seed))
        points.append({"keep": keep, **summary(trials)})
        print(
            f"kept    every {keep}: {points[-1]['found']} of {len(trials)}", points[-1]["rules"], flush=True
        )
    return {"n": SAMPLE, "intervals": N, "run": bases[0].spec.name, "points": points}


def _kept(run: Base, start: int, keep: int, seed: bytes) -> Screening:
    runner = run.spec.runner(run.seed)
    judge = Judge(runner=runner, kind="recipe", seed=seed, keep=keep)
    judge.take(run.states[0], 0)
    state = with_vector(run.states[start + 1], run.groups, run.stolen)
    runner.load(state)
    for n in range(run.steps):
        _recorded(judge, run, n)
        if n > start:
            runner.step(n, runner.batch(n))
        if (n + 1) % keep == 0:
            judge.take(run.states[n + 1] if n < start else flat(runner), n + 1)
    return judge.screened(seed)


PLACES = (20, 80, 200, 320)
WALKS: tuple[tuple[str, Callable[[int], Spec], Path_], ...] = (
    ("straight", momentum, straight),
    ("crooked, of ordinary pieces", momentum, crooked),
    ("crooked, of the longest pieces", momentum, hurried),
    ("crooked, AdamW at a constant rate", adamw, crooked),
    ("straight, at the end of a phase of large steps", chaotic, straight),
    ("crooked, at the end of a phase of large steps", chaotic, crooked),
)
LENGTHS = (1, 2, 4, 8, 16, 32, 64)


def measure_walks(seeds: int = 2) -> dict[str, Any]:
    """Detection against the number of pieces."""
    curves = []
    bases: dict[str, list[Base]] = {}
    for name, make, way in WALKS:
        spec = make(WALKED)
        if spec.name not in bases:
            bases[spec.name] = [base(spec, seed) for seed in range(1, seeds + 1)]
        points = []
        for pieces in LENGTHS:
            trials = list(_walks(bases[spec.name], pieces, way, late=make is chaotic))
            odds = detection_odds(total=WALKED, bogus=pieces, count=SAMPLE)
            points.append({"pieces": pieces, "uniform": odds, **summary(trials)})
            print(
                f"walks   {name}, L = {pieces}: {points[-1]['found']} of {len(trials)}; uniform {odds:.2f}",
                points[-1]["rules"],
                flush=True,
            )
        curves.append({"walk": name, "run": spec.name, "points": points})
    return {"n": SAMPLE, "intervals": WALKED, "curves": curves}


def _walks(bases: Sequence[Base], pieces: int, way: Path_, *, late: bool) -> Iterator[Trial]:
    """Trials at several places; ``late``: so that the walk ends where the phase of large steps does."""
    for run in bases:
        rng = random.Random(100 * run.seed + pieces)
        for place in PLACES:
            start = WALKED // 2 - pieces if late else place
            yield attempt(run, start, pieces, way, rng)


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "honest": measure_honest,
    "jumps": measure_jumps,
    "walks": measure_walks,
    "kept": measure_kept,
}


def machine() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def table(found: dict[str, Any]) -> Iterator[str]:
    """The figures as Markdown."""
    if "honest" in found:
        yield "| honest run | seed | intervals | opened | flags |\n|---|---|---|---|---|"
        for run in found["honest"]["runs"]:
            flags = ", ".join(f"{count} {kind}" for kind, count in run["flags"].items())
            yield f"| {run['run']} | {run['seed']} | {run['intervals']} | {run['opened']} | {flags} |"
    if "jumps" in found:
        one = found["jumps"]["all"]
        yield (
            f"\nOne jump in {N}, n = {SAMPLE}: found {one['found']} of {one['trials']} "
            f"(95 %: {one['low']:.3f} to {one['high']:.3f}); the draw alone {one['drawn_alone']}"
        )
    if "kept" in found:
        yield "\n| one jump, every K-th stored: K | found |\n|---|---|"
        for point in found["kept"]["points"]:
            yield f"| {point['keep']} | {point['found']}/{point['trials']} |"
    for curve in found.get("walks", {}).get("curves", []):
        yield f"\n| {curve['walk']}: L | found | uniform |\n|---|---|---|"
        for point in curve["points"]:
            yield f"| {point['pieces']} | {point['found']}/{point['trials']} | {point['uniform']:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the screening of stored checkpoints.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "evidence" / "screening.json")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(wanted.output.read_text(encoding="utf-8")) if wanted.output.exists() else {}
    for part in wanted.parts or PARTS:
        began = time.perf_counter()
        found[part] = PARTS[part]()
        found[part]["about"] = {
            "seconds": round(time.perf_counter() - began, 1),
            "machine": machine(),
            "torch": torch.__version__,
            "polledger": __version__,
            "policy": POLICY.digest().hex(),
        }
        wanted.output.parent.mkdir(parents=True, exist_ok=True)
        wanted.output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
