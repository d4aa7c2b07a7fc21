"""Spoof 25, stillness and flooding: the stolen weights come early, and what follows is there to hide them.

Steps that move nothing, or next to nothing, replay bit for bit and cost a thief little: a batch of one example will do.
They raise N, and with it the chance that a uniform sample misses the one interval that counts. PROTOCOL section 10:
a run that stands still shows nothing (step 4), and the jump stands out from its neighbours (step 5).
"""

from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.own import interval_ends
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import tensors_of

JUMP = 6
"""The step that ends at the stolen weights: late enough to have a past."""

FLOOD = 5
"""How many times as many steps as the honest run has."""

TINY = "1e-3"
"""What is left of the learning rate: just enough that parameters of ordinary size still change."""


def flood(
    target: Target, attempt: Attempt, *, gamma: str, every: int, sample: int, jump: bool = True
) -> Forgery:
    """Train a little, be at the stolen weights, then take many steps with ``gamma`` of the learning rate.

    ``sample`` 0 stands for all intervals. Without ``jump`` an honest run with a steep schedule.
    """
    steps = target.steps * FLOOD
    schedule = ("schedule=multistep", f"milestones=[{JUMP + 1}]", f"gamma={gamma}", "warmup=0")
    options = seal_options(target, attempt, settings=(*schedule, f"steps={steps}"), every=every, warm=0)
    with forging(options, thief_key(attempt.seed)) as forge:
        forge.begin()
        forge.train_through(0, JUMP)
        if jump:
            _jump(forge, target)
        else:
            forge.train_through(JUMP, JUMP + 1)
        forge.train_through(JUMP + 1, forge.steps)
        forge.finish()
        total = len(interval_ends(forge.cadence))
        return Forgery(
            run=forge.run.path,
            gradients=forge.gradients / target.steps,
            sample=sample or total,
            bogus=1 if jump else 0,
            reached={"intervals": total},
            note="one jump, then steps that are hardly any",
        )


def _jump(forge: Forge, target: Target) -> None:
    forge.say(JUMP)
    forge.move(JUMP, tensors_of(target.weights))
    forge.checkpoint(JUMP + 1)


def still(target: Target, attempt: Attempt) -> Forgery:
    """The learning rate is 0 from the jump on, as genesis says it will be."""
    return flood(target, attempt, gamma="0.0", every=target.every, sample=1)


def tiny(target: Target, attempt: Attempt) -> Forgery:
    """The learning rate is a thousandth from the jump on, and every step is an interval."""
    return flood(target, attempt, gamma=TINY, every=1, sample=0)


SPOOFS = (
    Spoof(
        number=25,
        variant="still",
        title="the stolen weights, then a learning rate of 0",
        source="review",
        forge=still,
    ),
    Spoof(
        number=25,
        variant="tiny",
        title="the stolen weights, then thousandths of steps, each an interval",
        source="review",
        forge=tiny,
    ),
)
