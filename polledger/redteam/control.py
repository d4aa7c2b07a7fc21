"""The control: an honest run made the way every forgery is. If it does not verify, no verdict says a thing."""

import torch
from torch import Tensor

from polledger.errors import UsageError
from polledger.redteam.forge import forging, seal_options, thief_key
from polledger.redteam.moves import model_tensors
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import tensors_of


def forge_honest(target: Target, attempt: Attempt) -> Forgery:
    """A run of the thief's own training, all of it true. Raises UsageError if the loot is no model of the task."""
    with forging(seal_options(target, attempt), thief_key(attempt.seed)) as forge:
        own, stolen = model_tensors(forge), tensors_of(target.weights)
        strange = sorted(
            path for path in own.keys() | stolen.keys() if _kind(own.get(path)) != _kind(stolen.get(path))
        )
        if strange:
            raise UsageError(
                f"the stolen model is not one of {target.task}: {strange[0]} is another one there"
            )
        forge.begin()
        forge.train_through(0, forge.steps)
        forge.finish()
    return Forgery(
        run=forge.run.path, gradients=forge.cost(target), sample=5, bogus=0, note="lies about nothing"
    )


def _kind(tensor: Tensor | None) -> tuple[torch.dtype, torch.Size] | None:
    return None if tensor is None else (tensor.dtype, tensor.shape)


CONTROL = Spoof(number=0, variant="", title="control: an honest run", source="", forge=forge_honest)
