"""Spoof 12, schedule drift: learning rate or weight decay of one parameter group is another one for a few steps.

Who may change a hyperparameter for as long as it suits and then put it back steers without leaving a trace in the final
configuration. The records say what was in force (it is not what the schedule of genesis gives: step 4) or what the
schedule gives (the states are not what that gives: step 9). PROTOCOL section 10.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from msgspec import structs

from polledger.core.encoding import from_real, real
from polledger.core.records import GroupValues
from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.own import interval_ends, intervals_with
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.training.nest import encode_nest

STEPS = 3
FACTORS = {"lr": 4.0, "weight_decay": 100.0}
"""By how much a value is larger for :data:`STEPS` steps: enough to matter, within what people use."""

UNUSED = 1e-3
"""What is multiplied where the value is 0, as the weight decay of some groups is: 0 a hundred times is no change."""

OPTIMIZER, GROUP = "optimizer", 0


def drift(
    target: Target, attempt: Attempt, *, name: str, admitted: bool, factor: float | None = None
) -> Forgery:
    """Train with the hyperparameter ``name`` of one group multiplied for a few steps in the middle of the run.

    ``admitted``: the step records say so. With a ``factor`` of 1 this is an honest run.
    """
    times = FACTORS[name] if factor is None else factor
    with forging(seal_options(target, attempt), thief_key(attempt.seed)) as forge:
        bent = range(forge.steps // 2, forge.steps // 2 + STEPS)
        forge.begin()
        for n in range(forge.steps):
            _step(forge, n, name, times if n in bent else 1.0, admitted=admitted)
            forge.checkpoint(n + 1)
        forge.finish()
        return Forgery(
            run=forge.run.path,
            gradients=forge.cost(target),
            sample=len(interval_ends(forge.cadence)),
            bogus=intervals_with(forge.cadence, bent),
            note=f"{name} of one group times {times:g} for {STEPS} steps, and back",
        )


def _step(forge: Forge, n: int, name: str, times: float, *, admitted: bool) -> None:
    batch = forge.batch(n)
    committed = forge.recorder.batch(n, encode_nest(batch))
    forge.runner.prepare(n)
    groups = forge.runner.hyperparameters()
    with _multiplied(forge.objects[OPTIMIZER], name, times):
        metrics = forge.runner.step(n, batch)
    forge.gradients += 1
    told = [_told(group, name, times) for group in groups] if admitted else groups
    forge.recorder.step(n, batch=committed, groups=told, metrics=metrics)


@contextmanager
def _multiplied(optimizer: torch.optim.Optimizer, name: str, times: float) -> Iterator[None]:
    """Within, the optimizer steps with another value of ``name`` in its group; the schedule sees nothing of it."""
    group = optimizer.param_groups[GROUP]
    scheduled: list[float] = []

    def bend(*_: object) -> None:
        scheduled.append(group[name])
        group[name] = bent(scheduled[-1], times)

    def put_back(*_: object) -> None:
        group[name] = scheduled.pop()

    hooks = [optimizer.register_step_pre_hook(bend), optimizer.register_step_post_hook(put_back)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _told(group: GroupValues, name: str, times: float) -> GroupValues:
    if (group.optimizer, group.index) != (OPTIMIZER, GROUP):
        return group
    value = group.values[name]
    number = from_real(value) if isinstance(value, bytes) else float(value)
    return structs.replace(group, values={**group.values, name: real(bent(number, times))})


def bent(value: float, times: float) -> float:
    """What is in force instead of ``value``."""
    return value if times == 1 else times * (value or UNUSED)


def _spoof(name: str, *, admitted: bool) -> Spoof:
    def forge(target: Target, attempt: Attempt) -> Forgery:
        return drift(target, attempt, name=name, admitted=admitted)

    told = "the records say so" if admitted else "the records give the schedule"
    return Spoof(
        number=12,
        variant=f"{name}-admitted" if admitted else name,
        title=f"{name} of one group changed for {STEPS} steps; {told}",
        source="this project",
        forge=forge,
    )


SPOOFS = tuple(_spoof(name, admitted=admitted) for name in FACTORS for admitted in (False, True))
