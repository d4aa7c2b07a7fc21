"""Spoof 6: real training where a verifier looks, interpolation everywhere else. Fang et al., "blindfold top-Q".

Each epoch begins with q real steps whose updates are as long as ‖W0 − WT‖ / epochs, and goes back to the line from W0
to WT in intervals that are not training and are shorter than those: a verifier that opens the Q largest intervals of
each epoch opens the real ones.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.moves import forgery_of, intervals_of, model_tensors, walk
from polledger.redteam.reference import TOP
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import blend, distance, tensors_of

SETTINGS = ("optimizer=SGD", "momentum=0.0", "weight_decay=0.0", "schedule=constant", "warmup=0", "lr=0.1")
"""No momentum, so that there is no slot to account for, and a learning rate that is the same throughout."""

LONGER = 2
"""How many times as long as the target's this run is: shorter intervals."""

Prepare = Callable[[Forge, dict[str, Tensor]], dict[str, Tensor]]


def blindfold(
    target: Target, attempt: Attempt, *, rescale: bool = True, prepare: Prepare | None = None
) -> Forgery:
    """The spoof as published, where ``rescale`` gives the real steps the learning rate that makes them long enough.

    Without it every step has the rate that config commits to, and the run ends with real steps, because a verifier
    opens the last interval as well. ``prepare`` makes the first state.
    """
    steps = LONGER * target.steps
    options = seal_options(target, attempt, every=1, settings=(*SETTINGS, f"steps={steps}"))
    with forging(options, thief_key(attempt.seed)) as forge:
        end = tensors_of(target.weights)
        start = model_tensors(forge) if prepare is None else prepare(forge, end)
        forge.put(start)
        forge.begin()
        epochs = list(_epochs(forge))
        length = distance(start, end) / len(epochs) / TOP if rescale else None
        for first, last in epochs:
            stop = last - TOP if last == steps and not rescale else last
            real = min(first + TOP, stop)
            _train(forge, first, real, length)
            here, there = model_tensors(forge), blend(start, end, 1.0 if last == steps else last / steps)
            walk(forge, real, stop, here, there)
            _train(forge, stop, last, length)
        honest = int(forge.gradients) if not rescale else TOP * len(epochs)
        return forgery_of(
            forge,
            target,
            sample=3,
            bogus=intervals_of(forge) - honest,
            reached={"start": distance(start, end)},
            note=f"{honest} of {intervals_of(forge)} intervals are real, the largest of each epoch among them",
        )


def _epochs(forge: Forge) -> Iterator[tuple[int, int]]:
    """First step and end of each epoch, an epoch beginning with the step that takes its first example."""
    size, batch = len(forge.runner.data), forge.runner.task.config["batch_size"]
    starts = [n for n in range(forge.steps) if n == 0 or n * batch // size != (n - 1) * batch // size]
    yield from zip(starts, [*starts[1:], forge.steps], strict=True)


def _train(forge: Forge, first: int, last: int, length: float | None) -> None:
    """Real steps, each of them ``length`` long if that is given."""
    for n in range(first, last):
        rate = None if length is None else _rate_for(forge, n, length)
        if rate is not None:
            forge.adjust = _setter(rate)
        forge.train(n)
        forge.adjust = None
        forge.checkpoint(n + 1)


def _setter(rate: float) -> Callable[[int, dict[str, Any]], None]:
    return lambda n, group: group.update(lr=rate)


def _rate_for(forge: Forge, n: int, length: float) -> float:
    """The learning rate at which step ``n`` moves the model's parameters by ``length``: one gradient tells."""
    before = forge.state()
    here = model_tensors(forge)
    forge.runner.step(n, forge.batch(n))
    forge.gradients += 1
    moved = distance(here, model_tensors(forge), _parameters(forge, here))
    rate = float(forge.objects["optimizer"].param_groups[0]["lr"])
    forge.load(before)
    return rate * length / moved


def _parameters(forge: Forge, tensors: Mapping[str, Tensor]) -> list[str]:
    names = {f"model/{name}" for name, _ in forge.objects["model"].named_parameters()}
    return [path for path in tensors if path in names]


def forge_published(target: Target, attempt: Attempt) -> Forgery:
    """As published: learning rates as long steps need them, whatever config says."""
    return blindfold(target, attempt)


def forge_scheduled(target: Target, attempt: Attempt) -> Forgery:
    """By a prover who knows that rates are computed from config."""
    return blindfold(target, attempt, rescale=False)


SPOOFS = (
    Spoof(
        number=6,
        variant="",
        title="blindfold top-Q",
        source="Fang et al. 2023",
        forge=forge_published,
    ),
    Spoof(
        number=6,
        variant="scheduled",
        title="blindfold top-Q at the committed learning rate",
        source="Fang et al. 2023, adapted",
        forge=forge_scheduled,
    ),
)
