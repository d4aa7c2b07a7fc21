"""Spoof 1: checkpoints on the straight line from an honest first state to the stolen weights. Zhang et al., baseline.

The thief commits to whatever lets it pass most easily: a checkpoint after every step, so that each displacement is
small beside any absolute δ, and a constant learning rate, under which the momentum of a steady walk stays the same.
"""

from polledger.redteam.forge import forging, seal_options, thief_key
from polledger.redteam.moves import forgery_of, intervals_of, model_tensors, walk
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import distance, tensors_of

CONSTANT = ("schedule=constant", "warmup=0")
"""Settings under which the learning rate never changes."""


def forge_interpolation(target: Target, attempt: Attempt) -> Forgery:
    """W0' + (i/t)(WT − W0') at every step, ordinary batches, scheduled hyperparameters, no gradient at all."""
    options = seal_options(target, attempt, every=1, settings=CONSTANT)
    with forging(options, thief_key(attempt.seed)) as forge:
        start, end = model_tensors(forge), tensors_of(target.weights)
        forge.begin()
        walk(forge, 0, forge.steps, start, end, velocity=True)
        return forgery_of(
            forge,
            target,
            sample=1,
            bogus=intervals_of(forge),
            reached={"start": distance(start, end)},
            note="every interval is a piece of one straight line",
        )


SPOOFS = (
    Spoof(
        number=1,
        variant="",
        title="interpolation",
        source="Zhang et al. 2022, baseline",
        forge=forge_interpolation,
    ),
)
