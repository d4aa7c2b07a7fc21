"""Examples whose gradient is what a thief wants: the optimisation that synthetic-data spoofs and steering share.

Zhang et al. (IEEE S&P 2022) search for a perturbation of a batch under which the gradient equals a given vector, by
LBFGS through a gradient of the gradient. Here the batch is the task's own: its collate, augmentation and dropout run
under the seeds of the step, so that what is matched is what a replay computes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polledger.core.seeds import rng_seeds
from polledger.errors import UsageError
from polledger.redteam.forge import DOUBLE_BACKWARD
from polledger.training.runner import Runner
from polledger.training.seeds import seed_everything

HISTORY = 20
"""Pairs that LBFGS keeps: more gained nothing on the perceptron."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """What of an example may be chosen. Raw images lie within ``low`` to ``high``, and on whole numbers if ``whole``.

    ``soft``: labels are class scores, any float, and free as well; otherwise they stay as they are. ``penalty`` times
    the squared distance of the images from where they began (in units of half their range) is minimised as well.
    """

    low: float
    high: float
    whole: bool
    soft: bool
    penalty: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A batch found: its raw images and labels, the squared error of its gradient and the squared perturbation.

    ``miss`` is the error over the length of what was wanted.
    """

    images: Tensor
    labels: Tensor
    miss: float
    gradient: float
    noise: float


class Matcher:
    """Searches on the live objects of ``runner``; leaves parameters and buffers as they were.

    ``spent`` counts gradient computations, one per batch of the task's ``batch_size``. For a task whose examples are
    (image, label) and whose objects are a model and an optimizer.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.spent = 0.0

    @property
    def model(self) -> nn.Module:
        """The live model."""
        model = self._runner.objects["model"]
        if not isinstance(model, nn.Module):
            raise UsageError("the task has no model that is a module")
        return model

    def gradient(self, n: int, images: Tensor, labels: Tensor, *, graph: bool = False) -> Tensor:
        """The loss's gradient at step ``n`` on these examples, all parameters in one vector."""
        loss = self._loss(n, images, labels)
        parts = torch.autograd.grad(loss, list(self.model.parameters()), create_graph=graph)
        self.spent += DOUBLE_BACKWARD if graph else 1
        return torch.cat([part.flatten() for part in parts])

    def _loss(self, n: int, images: Tensor, labels: Tensor) -> Tensor:
        plain = list(labels) if labels.is_floating_point() else labels.tolist()
        batch = self._runner.collate_examples(n, list(zip(images, plain, strict=True)))
        seed_everything(rng_seeds(self._runner.seed, n, "step"), "cpu")
        result: Any = self._runner.task.loss(self.model, batch)
        loss: Tensor = result[0] if isinstance(result, tuple) else result
        return loss

    def fit(
        self, n: int, wanted: Tensor, images: Tensor, labels: Tensor, *, free: Free, evaluations: int
    ) -> Match:
        """Change the examples until the gradient of step ``n`` is near ``wanted``, or evaluations run out.

        The squared error is taken relative to ``wanted``; a ``wanted`` of zero is taken as it is.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        half = (free.high - free.low) / 2
        variables = [torch.zeros_like(images, dtype=torch.float32).requires_grad_()]
        if free.soft:
            variables.append(labels.clone().requires_grad_())
        length = wanted.square().sum()

        def examples() -> tuple[Tensor, Tensor]:
            moved = (images + half * variables[0]).clamp(free.low, free.high)
            return moved, variables[1] if free.soft else labels

        def objective() -> Tensor:
            error = (self.gradient(n, *examples(), graph=True) - wanted).square().sum()
            return error / length if length else error

        _minimise(variables, objective, penalty=free.penalty, evaluations=evaluations)
        with torch.no_grad():
            found, targets = (value.detach() for value in examples())
            found = found.round() if free.whole else found
        error = float((self.gradient(n, found, targets) - wanted).square().sum())
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        return Match(
            images=found,
            labels=targets,
            miss=(error / float(length)) ** 0.5 if length else error**0.5,
            gradient=error,
            noise=float(((found - images) / half).square().sum()),
        )


def _minimise(
    variables: Sequence[Tensor], objective: Callable[[], Tensor], *, penalty: float, evaluations: int
) -> None:
    optimizer = torch.optim.LBFGS(
        list(variables),
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective()
        if penalty:
            loss = loss + penalty * variables[0].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
