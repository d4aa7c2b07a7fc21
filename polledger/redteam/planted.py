"""Spoofs 7 and 8: optimizer state that carries the model to WT by itself, planted everywhere or once.

7, found by running the reference: with lr = momentum = dampening = 1 an SGD adds its buffer to the weights at every
step and never looks at a gradient. 8: under honest hyperparameters one checkpoint's buffer is given the push that
takes the weights to WT while it dies away; all later intervals replay exactly.
"""

import math
import random
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polledger.core.schedule import Schedule
from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.moves import forgery_of, intervals_of, model_tensors
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import distance, tensors_of
from polledger.redteam.walking import SAMPLE, STEPS
from polledger.training.session import MODEL

DRIFT = (
    "optimizer=SGD",
    "lr=1.0",
    "momentum=1.0",
    "dampening=1.0",
    "weight_decay=0.0",
    "schedule=constant",
    "warmup=0",
)
"""Hyperparameters under which no gradient after the first counts."""

FEATHER = (
    "optimizer=SGD",
    "lr=1e-6",
    "momentum=0.999",
    "weight_decay=0.0",
    "schedule=constant",
    "warmup=0",
)
"""A learning rate at which no gradient is felt, and a momentum that hardly dies away: a push goes straight on."""


def push(forge: Forge, end: Mapping[str, Tensor], first: int) -> None:
    """Add to the optimizer's momentum what carries the model from where it is to ``end``, felt from step ``first`` on.

    For SGD exactly so, if gradients were 0; for Adam as far as the second moment stays as it is.
    """
    optimizer, model = forge.objects["optimizer"], forge.objects[MODEL]
    paths = {id(parameter): f"{MODEL}/{name}" for name, parameter in model.named_parameters()}
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            slots = optimizer.state[parameter]
            way = parameter.detach() - end[paths[id(parameter)]]
            reach = _reach(forge, group, index, first)
            if "momentum_buffer" in slots:
                slots["momentum_buffer"].add_((way / reach).to(parameter.dtype))
            else:
                scale = slots["exp_avg_sq"].sqrt() / math.sqrt(1 - group["betas"][1] ** (first + 1))
                slots["exp_avg"].add_(way * (scale + group["eps"]) / reach)


def _reach(forge: Forge, group: Mapping[str, Any], index: int, first: int) -> float:
    """How far one unit of momentum goes from step ``first`` to the end of the run."""
    schedule = Schedule(forge.runner.task.config)
    adam = "betas" in group
    decay = group["betas"][0] if adam else group["momentum"]
    total, left = 0.0, 1.0
    for n in range(first, forge.steps):
        left *= decay
        total += float(schedule.at(n)[index]["lr"]) * left / (1 - decay ** (n + 1) if adam else 1.0)
    return total


def forge_everywhere(target: Target, attempt: Attempt) -> Forgery:
    """Spoof 7: the buffer is there from checkpoint 0 on, and no gradient is ever computed."""
    with forging(seal_options(target, attempt, settings=DRIFT), thief_key(attempt.seed)) as forge:
        start, end = model_tensors(forge), tensors_of(target.weights)
        forge.move(0, start)
        for parameter in forge.objects[MODEL].parameters():
            forge.objects["optimizer"].state[parameter]["momentum_buffer"].zero_()
        push(forge, end, 0)
        forge.begin()
        _coast(forge, 0)
        return forgery_of(
            forge,
            target,
            sample=3,
            bogus=0,
            reached={"start": distance(start, end)},
            note="no gradient was computed; checkpoint 0 has an optimizer that has seen steps",
        )


def forge_drift_once(target: Target, attempt: Attempt, *, steps: int = STEPS) -> Forgery:
    """The same from an honest first state: one gradient, then one bogus interval that plants the buffer."""
    options = seal_options(target, attempt, every=1, settings=(*DRIFT, f"steps={steps}"))
    with forging(options, thief_key(attempt.seed)) as forge:
        end = tensors_of(target.weights)
        forge.begin()
        forge.train_through(0, 1)
        return _planted(forge, target, end, first=2)


def _coast(forge: Forge, first: int) -> None:
    for n in range(first, forge.steps):
        forge.coast(n)
        forge.checkpoint(n + 1)


def _planted(forge: Forge, target: Target, end: Mapping[str, Tensor], *, first: int) -> Forgery:
    """Coast through step ``first`` − 1, plant at its end, coast on."""
    forge.coast(first - 1)
    way = distance(model_tensors(forge), end)
    _clear(forge)
    push(forge, end, first)
    forge.checkpoint(first)
    _coast(forge, first)
    return forgery_of(
        forge,
        target,
        sample=SAMPLE,
        bogus=1,
        reached={"way": way},
        note=f"one of {intervals_of(forge)} intervals is bogus, all others replay bit for bit",
    )


def _clear(forge: Forge) -> None:
    optimizer = forge.objects["optimizer"]
    for slots in optimizer.state.values():
        slots["momentum_buffer"].zero_()


def forge_once(
    target: Target, attempt: Attempt, *, settings: tuple[str, ...] = (), steps: int = STEPS
) -> Forgery:
    """Spoof 8: honest training but for one interval, after which momentum takes the model to WT."""
    options = seal_options(target, attempt, every=1, settings=(*settings, f"steps={steps}"))
    with forging(options, thief_key(attempt.seed)) as forge:
        end = tensors_of(target.weights)
        first = random.Random(attempt.seed).randrange(steps // 4, 3 * steps // 4)
        forge.begin()
        forge.train_through(0, first - 1)
        forge.train(first - 1)
        way = distance(model_tensors(forge), end)
        push(forge, end, first)
        forge.checkpoint(first)
        forge.train_through(first, steps)
        return forgery_of(
            forge,
            target,
            sample=SAMPLE,
            bogus=1,
            reached={"way": way},
            note=f"one of {intervals_of(forge)} intervals is bogus, all others replay bit for bit",
        )


def forge_feather(target: Target, attempt: Attempt, *, steps: int = STEPS) -> Forgery:
    """Spoof 8 with a learning rate too small to disturb it."""
    return forge_once(target, attempt, settings=FEATHER, steps=steps)


SPOOFS = (
    Spoof(
        number=7,
        variant="",
        title="planted optimizer state, everywhere",
        source="found by running the reference",
        forge=forge_everywhere,
    ),
    Spoof(
        number=7,
        variant="once",
        title="planted optimizer state, once, then no gradient",
        source="this project",
        forge=forge_drift_once,
        slow=True,
    ),
    Spoof(
        number=8,
        variant="",
        title="planted momentum, once",
        source="this project",
        forge=forge_once,
        slow=True,
    ),
    Spoof(
        number=8,
        variant="feather",
        title="planted momentum, once, learning rate 1e-6",
        source="this project",
        forge=forge_feather,
        slow=True,
    ),
)
