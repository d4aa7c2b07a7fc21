"""Spoof 10, buffer swap: parameters are trained honestly, and what training does not touch by gradients is another's.

BatchNorm statistics or the exponential moving average decide what a model answers as much as its parameters do, and a
comparison of parameters alone does not see them. PROTOCOL section 10 compares the entire state.
"""

from collections.abc import Callable, Mapping

from msgspec import UNSET
from torch import Tensor

from polledger.errors import UsageError
from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.own import interval_ends
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import distance, tensors_of
from polledger.training.session import MODEL

EMA = "ema"
DECAY = 0.9

Choice = Callable[[Forge, Mapping[str, Tensor]], dict[str, Tensor]]
"""What of the state is replaced, and by what, given the stolen model's tensors."""


def statistics(target: Target, attempt: Attempt) -> Forgery:
    """Train honestly; the last checkpoint's buffers are those of the stolen model. UsageError if it has none."""
    return _swapped(target, attempt, _stolen_buffers)


def average(target: Target, attempt: Attempt) -> Forgery:
    """Train honestly with an average of the weights; at the end the average is the stolen model."""
    return _swapped(target, attempt, _stolen_average, settings=(f"ema={DECAY}",))


def _swapped(target: Target, attempt: Attempt, other: Choice, settings: tuple[str, ...] = ()) -> Forgery:
    options = seal_options(target, attempt, settings=settings)
    with forging(options, thief_key(attempt.seed)) as forge:
        stolen = other(forge, tensors_of(target.weights))
        forge.begin()
        forge.train_through(0, forge.steps - 1)
        forge.train(forge.steps - 1)
        moved = distance(stolen, tensors_of(forge.state()), stolen)
        forge.put(stolen)
        forge.checkpoint(forge.steps)
        forge.finish()
        return Forgery(
            run=forge.run.path,
            gradients=forge.cost(target),
            sample=1,
            bogus=1,
            reached={"moved without training": moved},
            note=f"the last of {len(interval_ends(forge.cadence))} intervals ends with other values",
        )


def _stolen_buffers(forge: Forge, stolen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    (model,) = (item for item in forge.genesis.objects if item.name == MODEL)
    floating = [] if model.buffers is UNSET else [p for p in model.buffers if stolen[p].is_floating_point()]
    if not floating:
        raise UsageError("the model has no buffers that could be swapped")
    return {path: stolen[path] for path in floating}


def _stolen_average(forge: Forge, stolen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        EMA + path.removeprefix(MODEL): tensor
        for path, tensor in stolen.items()
        if tensor.is_floating_point()
    }


def _spoof(variant: str, title: str, forge: Callable[[Target, Attempt], Forgery]) -> Spoof:
    return Spoof(number=10, variant=variant, title=title, source="this project", forge=forge)


SPOOFS = (
    _spoof("statistics", "honest parameters with the stolen model's buffers", statistics),
    _spoof("average", "honest parameters with the stolen model as their moving average", average),
)
