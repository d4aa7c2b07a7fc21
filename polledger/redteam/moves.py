"""What several spoofs do alike: walk the live objects along a line, say that steps were taken, end at WT."""

from collections.abc import Mapping

import torch
from torch import Tensor

from polledger.redteam.forge import Forge
from polledger.redteam.spoof import Forgery, Target
from polledger.redteam.states import blend, distance, tensors_of
from polledger.training.session import MODEL

Weights = Mapping[str, Tensor]


def model_tensors(forge: Forge) -> dict[str, Tensor]:
    """Copies of the live model's tensors, by the paths that :attr:`Target.weights` uses."""
    return tensors_of(forge.weights())


def tied(forge: Forge, tensors: Weights) -> dict[str, Tensor]:
    """``tensors`` with parameters that go by two names the same under both: those of the first."""
    first: dict[int, str] = {}
    changed = dict(tensors)
    for name, parameter in forge.objects[MODEL].named_parameters(remove_duplicate=False):
        path = f"{MODEL}/{name}"
        changed[path] = changed[first.setdefault(id(parameter), path)]
    return changed


def walk(
    forge: Forge, first: int, last: int, start: Weights, end: Weights, *, velocity: bool = False
) -> None:
    """Say steps ``first`` to ``last`` − 1 on their ordinary batches; the model goes straight from ``start`` to ``end``.

    ``velocity``: momentum, where an SGD has it, is what a steady walk of this speed would leave.
    """
    for n in range(first, last):
        forge.say(n)
        share = (n + 1 - first) / (last - first)
        forge.move(n, blend(start, end, share))
        if velocity:
            set_velocity(forge, start, end, 1 / (last - first))
        forge.checkpoint(n + 1)


def set_velocity(forge: Forge, start: Weights, end: Weights, share: float) -> None:
    """Momentum buffers of an SGD that moves by ``share`` of the way each step; nothing for other optimizers."""
    optimizer = forge.objects.get("optimizer")
    if not isinstance(optimizer, torch.optim.SGD):
        return
    names = {id(parameter): name for name, parameter in forge.objects[MODEL].named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            buffer = optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None and group["lr"]:
                path = f"{MODEL}/{names[id(parameter)]}"
                buffer.copy_((start[path] - end[path]) * (share / group["lr"]))


def forgery_of(
    forge: Forge,
    target: Target,
    *,
    sample: int,
    bogus: int,
    note: str,
    reached: Mapping[str, float] | None = None,
    arguments: tuple[str, ...] = (),
) -> Forgery:
    """Finish the run with the live model and say what it cost; ``wt`` among ``reached`` is how far it is from WT."""
    final = tensors_of(forge.weights())
    forge.finish()
    missed = distance(final, tensors_of(target.weights))
    return Forgery(
        run=forge.run.path,
        gradients=forge.cost(target),
        sample=sample,
        bogus=bogus,
        arguments=arguments,
        reached={"wt": missed, **(reached or {})},
        note=note,
    )


def intervals_of(forge: Forge) -> int:
    """N: how many intervals the finished run will have."""
    return sum(1 for step in range(1, forge.steps + 1) if forge.cadence.is_checkpoint(step))
