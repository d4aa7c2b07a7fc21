"""Spoof 2: a first state that looks drawn from the law of initialisation and lies close to the stolen weights.

Fang et al.: per tensor draw from the law until a Kolmogorov-Smirnov test gives p >= 0.01, then scatter the values by
the rank of WT's, ``W0'[argsort(WT)] = sort(e)``. It shortens the way to WT without a gradient, and whatever goes that
way goes it in smaller steps: the variants are named by the spoof that takes it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from polledger.redteam.blindfold import blindfold
from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.infinitesimal import LONGER, STANDSTILL
from polledger.redteam.interpolation import CONSTANT
from polledger.redteam.moves import forgery_of, intervals_of, model_tensors, tied, walk
from polledger.redteam.reference import ALPHA, ks_two_sample
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import distance, tensors_of
from polledger.training.runner import Runner

POOL = 8
"""Freshly built models whose values, pooled, are the law that a draw is tested against."""

DRAWS = 100
"""How often a tensor is drawn before its draw is taken as it is: at 0.01 nearly every first one passes."""


def fresh_models(forge: Forge, seed: int) -> Iterator[dict[str, Tensor]]:
    """Model tensors as the task builds them, under one seed after another."""
    while True:
        runner = Runner(forge.runner.task, seed=seed)
        runner.build()
        model = runner.objects["model"]
        yield {f"model/{name}": value.detach().clone() for name, value in model.named_parameters()}
        seed += 1


def scattered(values: Tensor, like: Tensor) -> Tensor:
    """``values`` in the order of ``like``: the smallest where ``like`` has its smallest, and so on."""
    found = torch.empty_like(values.flatten())
    found[torch.argsort(like.flatten(), stable=True)] = torch.sort(values.flatten()).values
    return found.reshape(like.shape)


def forged_init(forge: Forge, end: dict[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Tensors of a first model: drawn values, ranked as in ``end``; what the task does not draw is as it builds it.

    Leaves the forge's own objects and seed as they are.
    """
    start = model_tensors(forge)
    models = fresh_models(forge, seed << 32)
    pool = [next(models) for _ in range(POOL)]
    drawn = [path for path in pool[0] if not torch.equal(pool[0][path], pool[1][path])]
    for path in drawn:
        law = np.concatenate([model[path].double().flatten().numpy() for model in pool])
        for _ in range(DRAWS):
            values = next(models)[path]
            if ks_two_sample(values.double().flatten().numpy(), law) >= ALPHA:
                break
        start[path] = scattered(values, end[path])
    forge.runner.task.seed = forge.runner.seed
    return tied(forge, start)


def forge_with_interpolation(target: Target, attempt: Attempt) -> Forgery:
    """Spoof 1 from a forged first state."""
    return _walk(target, attempt, settings=CONSTANT, velocity=True)


def forge_with_standstill(target: Target, attempt: Attempt) -> Forgery:
    """Spoof 5 from a forged first state."""
    settings = (*STANDSTILL, f"steps={LONGER * target.steps}")
    return _walk(target, attempt, settings=settings, velocity=False)


def _walk(target: Target, attempt: Attempt, *, settings: tuple[str, ...], velocity: bool) -> Forgery:
    options = seal_options(target, attempt, every=1, settings=settings)
    with forging(options, thief_key(attempt.seed)) as forge:
        honest, end = model_tensors(forge), tensors_of(target.weights)
        start = forged_init(forge, end, seed=attempt.seed)
        forge.put(start)
        forge.begin()
        walk(forge, 0, forge.steps, start, end, velocity=velocity)
        return forgery_of(
            forge,
            target,
            sample=1,
            bogus=intervals_of(forge),
            reached={"start": distance(start, end), "start_unforged": distance(honest, end)},
            note="the first state is not the one that the committed seed gives",
        )


def forge_with_blindfold(target: Target, attempt: Attempt) -> Forgery:
    """Spoof 6 from a forged first state."""
    return blindfold(target, attempt, prepare=lambda forge, end: forged_init(forge, end, seed=attempt.seed))


SPOOFS = (
    Spoof(
        number=2,
        variant="1",
        title="forged first state, interpolation",
        source="Fang et al. 2023; Zhang et al. 2022",
        forge=forge_with_interpolation,
    ),
    Spoof(
        number=2,
        variant="5",
        title="forged first state, infinitesimal update",
        source="Fang et al. 2023",
        forge=forge_with_standstill,
    ),
    Spoof(
        number=2,
        variant="6",
        title="forged first state, blindfold",
        source="Fang et al. 2023",
        forge=forge_with_blindfold,
    ),
)
