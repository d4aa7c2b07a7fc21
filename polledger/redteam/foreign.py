"""Spoof 21: the root of a known data set is committed, and training runs on batches made up on the way.

The thief distils: inputs are noise, labels are what the stolen model says about them, and the model that comes out
never saw the data set whose name it carries. PROTOCOL section 10, step 7.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from polledger.errors import UsageError
from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.own import interval_ends
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import tensors_of
from polledger.training.nest import encode_nest
from polledger.training.session import MODEL


def distil(target: Target, attempt: Attempt, *, admitted: bool) -> Forgery:
    """Train on noise that the stolen model labels. ``admitted``: the records hold the digests of these batches.

    Raises UsageError for a task whose batches are not pairs of inputs and class labels.
    """
    with forging(seal_options(target, attempt), thief_key(attempt.seed)) as forge:
        first = forge.state()
        forge.put(tensors_of(target.weights))
        made = [_labelled(forge, n, attempt.seed) for n in range(forge.steps)]
        forge.load(first)
        forge.begin()
        for n, batch in enumerate(made):
            committed = None if admitted else forge.recorder.batch(n, encode_nest(forge.batch(n)))
            forge.train(n, batch, committed=committed)
            forge.checkpoint(n + 1)
        forge.finish()
        return Forgery(
            run=forge.run.path,
            gradients=forge.cost(target),
            sample=1,
            bogus=len(interval_ends(forge.cadence)),
            note="no batch is made from the committed data set",
        )


def _labelled(forge: Forge, n: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs, labels = _pair(forge.batch(n))
    made = torch.Generator().manual_seed(seed * 1_000_003 + n)
    noise = torch.randn(inputs.shape, generator=made).to(inputs.dtype).clamp(-1, 1)
    with torch.no_grad():
        return noise, forge.objects[MODEL](noise).argmax(1).to(labels.dtype)


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    match batch:
        case (Tensor() as inputs, Tensor() as labels) if inputs.is_floating_point():
            return inputs, labels
    raise UsageError("the task's batches are not pairs of inputs and class labels")


SPOOFS = tuple(
    Spoof(
        number=21,
        variant="admitted" if admitted else "",
        title=f"distillation on noise under a known data set's root; {told}",
        source="review",
        forge=partial(distil, admitted=admitted),
    )
    for admitted, told in (
        (False, "the records give the honest batches' digests"),
        (True, "the records say so"),
    )
)
