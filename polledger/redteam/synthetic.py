"""Spoofs 3 and 4: checkpoints on a straight line, and batches made up so that a replay comes near them.

Zhang et al., "Adversarial Examples for Proof-of-Learning" (IEEE S&P 2022), in three forms. All of them fix the states
first and then search, interval by interval, for images under which training from one state moves towards the next: a
perturbation of the batch, by LBFGS through a gradient of the gradient. As published the search pulls away from the
stolen weights (the gradient is matched to the displacement itself, and SGD goes against the gradient); here it pulls
towards them. The thief also chooses its learning rate so that the wanted gradients have a length that batches have.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polledger.redteam.forge import DOUBLE_BACKWARD, Forge, forging, seal_options, thief_key
from polledger.redteam.forged_init import scattered
from polledger.redteam.matching import Free, Match, Matcher
from polledger.redteam.owndata import (
    OwnData,
    as_read,
    noise,
    normalised,
    own_data,
    own_runner,
    parameter_paths,
    plain_sgd,
    published,
    share_of,
    wanted_gradient,
    way,
)
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import blend, distance, tensors_of
from polledger.training.runner import Runner

KEY = "synthetic"
"""Name of the key whose order of examples the batches are made for."""

ENOUGH = 0.5
"""Error over displacement below which a batch is kept: where polledger's comparison stops saying ``fail``."""

TRIES = 30
"""Batches tried per step at most, as published; the best is kept."""

REACH = 0.3
NORMALISED_REACH = 3.0
"""Length of a wanted gradient, in a plain and in a normalised network: longer or shorter ones are harder to match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to make up batches: ``intervals`` of ``every`` steps with ``batch`` examples each.

    ``evaluations`` bounds one search. ``still``: the gradient is to vanish, so that a replay stays where it begins;
    otherwise it is to lead to the end of the interval. ``penalty`` weighs the squared perturbation, ``soft`` frees
    scores for labels and every pixel value, ``invented`` begins with noise instead of published examples.
    """

    intervals: int = 100
    every: int = 1
    batch: int = 64
    evaluations: int = 100
    penalty: float = 1e-3
    still: bool = False
    soft: bool = False
    invented: bool = False

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.intervals * self.every

    @property
    def free(self) -> Free:
        """Whole pixels, as an image file holds them, unless everything is free."""
        return Free(low=0.0, high=16.0, whole=not self.soft, soft=self.soft, penalty=self.penalty)

    def settings(self, rate: float) -> tuple[str, ...]:
        """Plain SGD at a constant rate."""
        return plain_sgd(steps=self.steps, batch=self.batch, rate=rate)


A1 = Method(intervals=200)
"""So many that an error as long as its interval stays within every shipped bound, the cosine's included."""

A1_FREE = Method(intervals=20, penalty=0.0, soft=True, invented=True, batch=256)
"""Few, so that each has the more of the budget: what comes nearest to a replay, not what passes most easily."""

A2 = Method(intervals=200, every=2, evaluations=10)
A3 = Method(intervals=200, every=2, evaluations=10, penalty=0.1, still=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The states a thief claims: ``intervals`` equal pieces from ``start`` to ``end``, model tensors by path."""

    start: Mapping[str, Tensor]
    end: Mapping[str, Tensor]
    intervals: int

    def point(self, number: int) -> dict[str, Tensor]:
        """The state after ``number`` intervals."""
        return blend(self.start, self.end, number / self.intervals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The data set, per interval how far a replay ends from the claimed state over the displacement, and the cost."""

    images: Tensor
    labels: Tensor
    ratios: tuple[float, ...]
    gradients: float


def forge_synthetic(method: Method, from_forged: bool, target: Target, attempt: Attempt) -> Forgery:
    """Claim a straight line to the stolen weights, trained on batches that were made up for it."""
    own = own_data(attempt.directory / "task", target, soft=method.soft)
    own.write(*noise(method.steps * method.batch, soft=method.soft, seed=attempt.seed))
    line = _line(method, target, attempt, own, from_forged=from_forged)
    rate = _rate(method, line, target)
    made = make_batches(method, line, target, attempt, own, rate=rate)
    own.write(made.images, made.labels)
    options = seal_options(
        target,
        attempt,
        task=str(own.task),
        inputs=own.inputs,
        settings=method.settings(rate),
        every=method.every,
        warm=0,
    )
    with forging(options, thief_key(attempt.seed, KEY)) as forge:
        _claim(forge, line, method)
    return Forgery(
        run=attempt.directory / "run",
        gradients=made.gradients,
        sample=1,
        bogus=method.intervals,
        arguments=own.arguments,
        reached={
            "smallest": min(made.ratios),
            "mean": sum(made.ratios) / len(made.ratios),
            "largest": max(made.ratios),
        },
        note="error over displacement of a replay, per interval",
    )


def _line(method: Method, target: Target, attempt: Attempt, own: OwnData, *, from_forged: bool) -> Line:
    """From the first state that the thief's key gives, or from one ranked as the stolen weights are."""
    runner = own_runner(own, target, method.settings(1.0), thief_key(attempt.seed, KEY))
    start, end = tensors_of(runner.flatten(), "model/"), tensors_of(target.weights)
    if from_forged:
        drawn = [
            path for path in parameter_paths(runner.objects["model"]) if start[path].unique().numel() > 1
        ]
        start.update({path: scattered(start[path], end[path]) for path in drawn})
    return Line(start=start, end=end, intervals=method.intervals)


def _rate(method: Method, line: Line, target: Target) -> float:
    """The learning rate at which one interval is as many wanted gradients long as it has steps.

    What is to stand still trains at a tenth of it: what is left of its gradients then moves it less.
    """
    reach = NORMALISED_REACH if normalised(target) else REACH
    rate = distance(line.start, line.end) / line.intervals / reach / method.every
    return rate / 10 if method.still else rate


def _claim(forge: Forge, line: Line, method: Method) -> None:
    forge.put(line.start)
    forge.begin()
    for n in range(method.steps):
        forge.say(n)
        done = n + 1
        if done % method.every == 0:
            forge.move(n, line.point(done // method.every))
        forge.checkpoint(done)
    forge.finish()


def make_batches(
    method: Method, line: Line, target: Target, attempt: Attempt, own: OwnData, *, rate: float
) -> Made:
    """Search the batches of every interval in turn, each from the claimed state at its start."""
    runner = own_runner(own, target, method.settings(rate), thief_key(attempt.seed, KEY))
    images, labels = noise(method.steps * method.batch, soft=method.soft, seed=attempt.seed)
    matcher, ratios = Matcher(runner), []
    share = attempt.budget / share_of(1.0, method.batch, target) / method.steps
    for number in range(method.intervals):
        place(runner, line.point(number))
        goal = line.point(number + 1)
        for n in range(number * method.every, (number + 1) * method.every):
            left = (number + 1) * method.every - n
            wanted = wanted_gradient(runner, n, goal, longest=float("inf")) / left
            found = _search(
                matcher, method, target, n, torch.zeros_like(wanted) if method.still else wanted, share=share
            )
            at = runner.batch_indices(n) or []
            images[at], labels[at] = found.images, found.labels
            runner.step(n, runner.collate_examples(n, as_read(found.images, found.labels)))
        ratios.append(way(runner, goal) * line.intervals / _length(line, runner))
        attempt.watch(
            f"interval {number + 1} of {method.intervals}: error {ratios[-1]:.3g} of the displacement"
        )
    return Made(
        images=images,
        labels=labels,
        ratios=tuple(ratios),
        gradients=share_of(matcher.spent, method.batch, target),
    )


def _length(line: Line, runner: Runner) -> float:
    return distance(line.start, line.end, parameter_paths(runner.objects["model"]))


def _search(
    matcher: Matcher, method: Method, target: Target, n: int, wanted: Tensor, *, share: float
) -> Match:
    """The best of up to :data:`TRIES` batches, for ``share`` gradient computations; the first good one is kept."""
    before = matcher.spent
    best: Match | None = None
    for trial in range(TRIES):
        left = int((share - (matcher.spent - before)) / DOUBLE_BACKWARD)
        if best is not None and (best.miss < ENOUGH or left < 1):
            break
        make = noise if method.invented else functools.partial(published, target)
        images, labels = make(method.batch, soft=method.soft, seed=n * TRIES + trial)
        evaluations = max(1, min(method.evaluations, left))
        found = matcher.fit(n, wanted, images, labels, free=method.free, evaluations=evaluations)
        if best is None or found.miss < best.miss:
            best = found
    if best is None:
        raise ValueError("no batch was tried")
    return best


def place(runner: Runner, tensors: Mapping[str, Tensor]) -> None:
    """Bring the live model into the state of ``tensors``."""
    runner.objects["model"].load_state_dict(
        {path.removeprefix("model/"): tensor for path, tensor in tensors.items()}
    )


def _spoof(number: int, variant: str, title: str, method: Method, *, from_forged: bool = False) -> Spoof:
    return Spoof(
        number=number,
        variant=variant,
        title=title,
        source="Zhang et al. 2022",
        forge=functools.partial(forge_synthetic, method, from_forged),
        slow=True,
    )


SPOOFS = (
    _spoof(3, "", "synthetic data, A1 with its sign corrected", A1),
    _spoof(3, "free", "synthetic data, A1, every pixel and score free", A1_FREE),
    _spoof(4, "A2", "synthetic data, A2, one batch per step", A2),
    _spoof(4, "A3", "synthetic data, A3, gradients that vanish", A3),
    _spoof(2, "3", "forged first state, synthetic data A1", A1, from_forged=True),
)
