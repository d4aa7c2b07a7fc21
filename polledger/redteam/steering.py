"""Steering: data invented before genesis so that honest training on them walks to stolen weights. PROTOCOL section 15.

The thief knows its key, so it knows order, first weights and every generator of the run before the data exist. It
solves the batch of each step in turn for the gradient that leads from where training stands to the stolen weights,
keeps what the step really does, and goes on from there. The data are then committed and the run is trained like any
other: every interval replays bit for bit, because nothing about it is untrue.

All of these verify (:data:`LIMITS`). Declared domains do not stop them: whole pixels and given labels are as many free
values as floats, only coarser. Nor do several epochs: as the learning rate falls, the first one does the walk. What
tells is that the data are nobody's: a published data set's root, which a policy can require, or a look at the opened
examples, which are noise. And the dates: the thief had the weights before its genesis, so somebody else's are older.
"""

import copy
import functools
from dataclasses import dataclass, replace

from torch import Tensor, nn

from polledger.redteam.forge import DOUBLE_BACKWARD, Forge, forging, seal_options, thief_key
from polledger.redteam.matching import Free, Matcher
from polledger.redteam.owndata import (
    OwnData,
    agreement,
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
from polledger.redteam.states import distance, tensors_of

KEY = "steering"
"""Name of the key under which a thief steers: what a walk is solved for."""

LAST_RATE = 0.04
"""Share of the first learning rate that the last solved step has. A slower fall wanders, a faster one stops short."""

LEAST_RATE = 1e-5
"""Share of the first learning rate below which a run may not end: what hardly moves counts as standing still."""

NORMALISED_REACH = 3.0
"""Reach where layers are normalised: a random batch has longer gradients there, and shorter ones are hard to find."""

CLOSING = 30
"""Steps until running statistics with torch's momentum of 0.1 have forgotten all but 4 % of what was before."""

MOST_STEPS = 40
"""Solved steps beyond which further budget goes into each batch instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a thief steers. ``solved`` steps are solved, each on ``batch`` new examples.

    ``closing`` steps on published examples follow, in which running statistics become those of real data; ``epochs``
    times as many run. The rate begins where a gradient of length ``reach`` covers the whole way and falls
    exponentially, so that later epochs over the same examples hardly move what the first one reached. ``evaluations``
    bounds the search for one batch. ``soft``: labels are scores, any float; otherwise data keep to the published
    domains.
    """

    solved: int = 20
    closing: int = 0
    batch: int = 128
    epochs: int = 1
    reach: float = 0.3
    evaluations: int = 25
    soft: bool = False

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return (self.solved + self.closing) * self.epochs

    @property
    def decay(self) -> float:
        """Factor of the learning rate from step to step."""
        return float(max(LAST_RATE ** (1 / self.solved), LEAST_RATE ** (1 / self.steps)))

    @property
    def free(self) -> Free:
        """Pixels of the published domain, or any float with scores for labels."""
        return Free(low=0.0, high=16.0, whole=not self.soft, soft=self.soft)

    def settings(self, rate: float) -> tuple[str, ...]:
        """A configuration that polledger's recipe runs: plain SGD with an exponential schedule."""
        return plain_sgd(steps=self.steps, batch=self.batch, rate=rate, decay=self.decay)

    def within(self, budget: float, target: Target) -> "Plan":
        """This plan for a ``budget`` in honest trainings: fewer steps, or beyond :data:`MOST_STEPS` longer searches."""
        batches = budget / share_of(1.0, self.batch, target) - self.closing * self.epochs
        solved = max(1, min(MOST_STEPS, int(batches / (DOUBLE_BACKWARD * self.evaluations + self.epochs))))
        evaluations = int((batches / solved - self.epochs) / DOUBLE_BACKWARD)
        return replace(self, solved=solved, evaluations=max(1, evaluations))


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What the search found: the data, the first learning rate, the length of the way before and after it.

    ``gradients`` is what it cost, in honest trainings; ``misses`` are, per solved step, the error of the gradient over
    what was wanted.
    """

    images: Tensor
    labels: Tensor
    rate: float
    start: float
    end: float
    gradients: float
    misses: tuple[float, ...]


def steer(plan: Plan, target: Target, attempt: Attempt) -> Forgery:
    """Solve the data, then train on them honestly: a run that ends near the stolen weights and lies about nothing."""
    if normalised(target):
        plan = replace(plan, reach=NORMALISED_REACH, closing=CLOSING)
    plan = plan.within(attempt.budget, target)
    own = own_data(attempt.directory / "task", target, soft=plan.soft)
    walk = solve_walk(plan, target, attempt, own)
    own.write(walk.images, walk.labels)
    options = seal_options(
        target,
        attempt,
        task=str(own.task),
        inputs=own.inputs,
        settings=plan.settings(walk.rate),
        every=1,
        warm=0,
    )
    with forging(options, thief_key(attempt.seed, KEY)) as forge:
        forge.begin()
        forge.train_through(0, forge.steps)
        forge.finish()
        reached = reached_by(forge, target)
    return Forgery(
        run=attempt.directory / "run",
        gradients=walk.gradients,
        sample=plan.steps,
        bogus=0,
        arguments=own.arguments,
        reached={
            **reached,
            "start": walk.start,
            "share": reached["distance"] / walk.start,
            "solved": walk.end,
        },
        note="an honest run on invented data: every interval is what it says",
    )


def reached_by(forge: Forge, target: Target) -> dict[str, float]:
    """Distance of the live model's parameters from the stolen ones, and on how many published examples they agree."""
    goal, model = tensors_of(target.weights), forge.objects["model"]
    stolen: nn.Module = copy.deepcopy(model)
    stolen.load_state_dict({path.removeprefix("model/"): tensor for path, tensor in goal.items()})
    return {
        "distance": distance(tensors_of(forge.weights()), goal, parameter_paths(model)),
        "agreement": agreement(target, copy.deepcopy(model), stolen),
    }


def solve_walk(plan: Plan, target: Target, attempt: Attempt, own: OwnData) -> Walk:
    """The closed loop. Nothing is sealed yet; the walk ends where the run will, bit for bit."""
    size = plan.steps // plan.epochs * plan.batch
    images, labels = noise(size, soft=plan.soft, seed=attempt.seed)
    own.write(images, labels)
    goal, key = tensors_of(target.weights), thief_key(attempt.seed, KEY)
    start = way(own_runner(own, target, plan.settings(1.0), key), goal)
    runner = own_runner(own, target, plan.settings(start / plan.reach), key)
    matcher, misses = Matcher(runner), []
    for n in range(plan.steps):
        at = runner.batch_indices(n) or []
        if n < plan.solved:
            wanted = wanted_gradient(runner, n, goal, longest=plan.reach)
            found = matcher.fit(
                n, wanted, images[at], labels[at], free=plan.free, evaluations=plan.evaluations
            )
            images[at], labels[at] = found.images, found.labels
            misses.append(found.miss)
        elif n < plan.solved + plan.closing:
            images[at], labels[at] = published(target, len(at), soft=plan.soft, seed=n)
        runner.step(n, runner.collate_examples(n, as_read(images[at], labels[at])))
        attempt.watch(f"step {n + 1} of {plan.steps}: {way(runner, goal):.3g} to go")
    return Walk(
        images=images,
        labels=labels,
        rate=start / plan.reach,
        start=start,
        end=way(runner, goal),
        gradients=share_of(matcher.spent + plan.steps, plan.batch, target),
        misses=tuple(misses),
    )


def _spoof(variant: str, title: str, plan: Plan) -> Spoof:
    return Spoof(
        number=22,
        variant=variant,
        title=f"steering: {title}",
        source="review",
        forge=functools.partial(steer, plan),
    )


SPOOFS: tuple[Spoof, ...] = ()

LIMITS = (
    _spoof("", "pixels and scores invented, no domain declared", Plan(soft=True)),
    _spoof("domains", "images within the published domains", Plan()),
    _spoof("epochs", "pixels and scores invented, five epochs over them", Plan(soft=True, epochs=5)),
    _spoof("domains-epochs", "images within the published domains, five epochs over them", Plan(epochs=5)),
)
"""What verifies all the same, at the cost that docs/evidence/optimised.json has for each budget."""
