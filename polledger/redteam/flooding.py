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
    target: Target, attempt: Attempt, *, settings: tuple[str, ...], every: int, jump: bool = True
) -> Forgery:
    """Train a little, be at the stolen weights, then take many steps as ``settings`` have them.

    Without ``jump`` an honest run with these settings.
    """
    steps = target.steps * FLOOD
    options = seal_options(target, attempt, settings=(*settings, f"steps={steps}"), every=every, warm=0)
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
            gradients=forge.cost(target),
            sample=1,
            bogus=1 if jump else 0,
            reached={"intervals": total},
            note="one jump, then steps that are hardly any",
        )


def _jump(forge: Forge, target: Target) -> None:
    forge.say(JUMP)
    forge.move(JUMP, tensors_of(target.weights))
    forge.checkpoint(JUMP + 1)


def falling_to(gamma: str) -> tuple[str, ...]:
    """Settings under which ``gamma`` of the learning rate is left from the jump on."""
    return ("schedule=multistep", f"milestones=[{JUMP + 1}]", f"gamma={gamma}", "warmup=0")


NOISY = (
    "optimizer=SGD",
    "schedule=constant",
    "warmup=0",
    "batch_size=1",
    "accumulate=1",
    "lr=0.3",
    "momentum=0.0",
    "weight_decay=0.0",
)
"""One example a step at a high rate: most steps hardly move what is learnt, and some are thrown far."""


def still(target: Target, attempt: Attempt) -> Forgery:
    """The learning rate is 0 from the jump on, as genesis says it will be."""
    return flood(target, attempt, settings=falling_to("0.0"), every=target.every)


def tiny(target: Target, attempt: Attempt) -> Forgery:
    """The learning rate is a thousandth from the jump on, and every step is an interval."""
    return flood(target, attempt, settings=falling_to(TINY), every=1)


def noisy(target: Target, attempt: Attempt) -> Forgery:
    """Honest steps that look odd one after the other, so that nobody opens all that is flagged."""
    return flood(target, attempt, settings=NOISY, every=1)


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
    Spoof(
        number=25,
        variant="noisy",
        title="the stolen weights among noisy steps, each an interval",
        source="review",
        forge=noisy,
    ),
)
