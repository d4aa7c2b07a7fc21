"""Spoof 13: training that starts from the stolen weights, or near them, and is declared as from scratch.

Every interval is real training; only where it began is a lie.
"""

import torch

from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.forged_init import forged_init
from polledger.redteam.moves import Weights, forgery_of, model_tensors, tied
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import distance, tensors_of

NOISE = 0.1
"""Noise that is added, in standard deviations of each tensor: enough that no weight is WT's."""


def forge_stolen(target: Target, attempt: Attempt) -> Forgery:
    """From WT itself."""
    with forging(seal_options(target, attempt), thief_key(attempt.seed)) as forge:
        return _train_from(forge, target, tensors_of(target.weights))


def forge_noisy(target: Target, attempt: Attempt) -> Forgery:
    """From WT and noise."""
    generator = torch.Generator().manual_seed(attempt.seed)
    with forging(seal_options(target, attempt), thief_key(attempt.seed)) as forge:
        start = {
            path: _noisy(tensor, generator) if tensor.is_floating_point() else tensor
            for path, tensor in tensors_of(target.weights).items()
        }
        return _train_from(forge, target, tied(forge, start))


def _noisy(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    spread = float(tensor.double().std()) if tensor.numel() > 1 else 0.0
    return tensor + torch.randn(tensor.shape, generator=generator).to(tensor.dtype) * (NOISE * spread)


def forge_ranked(target: Target, attempt: Attempt) -> Forgery:
    """From the forged first state of spoof 2, which passes for a drawn one."""
    with forging(seal_options(target, attempt), thief_key(attempt.seed)) as forge:
        start = forged_init(forge, tensors_of(target.weights), seed=attempt.seed)
        return _train_from(forge, target, start)


def _train_from(forge: Forge, target: Target, start: Weights) -> Forgery:
    scratch, end = model_tensors(forge), tensors_of(target.weights)
    forge.put(start)
    forge.begin()
    forge.train_through(0, forge.steps)
    return forgery_of(
        forge,
        target,
        sample=1,
        bogus=0,
        reached={"start": distance(start, end), "start_unforged": distance(scratch, end)},
        note="every interval replays bit for bit; only the first state is a lie",
    )


_KNOWN = "its test of the first weights may notice that these are trained ones; 13+2 is what passes it"

SPOOFS = (
    Spoof(
        number=13,
        variant="",
        title="stolen start",
        source="ownership disputes",
        forge=forge_stolen,
        reference=False,
        why=_KNOWN,
    ),
    Spoof(
        number=13,
        variant="noise",
        title="stolen start and noise",
        source="ownership disputes",
        forge=forge_noisy,
        reference=False,
        why=_KNOWN,
    ),
    Spoof(
        number=13,
        variant="2",
        title="forged first state, honest training",
        source="Fang et al. 2023",
        forge=forge_ranked,
    ),
)
