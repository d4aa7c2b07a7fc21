"""Spoof 5: nothing is trained and hardly anything moves per checkpoint; the last state is the stolen file. Fang et al.

The declared learning rate is as good as zero, so that any replay stands still, and every recorded displacement is
below an absolute δ: the published rule compares the two and finds them close. The thief commits to the learning
rate openly, in config, so that every record agrees with the schedule.
"""

from polledger.redteam.forge import forging, seal_options, thief_key
from polledger.redteam.moves import forgery_of, intervals_of, model_tensors, walk
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import distance, tensors_of

STANDSTILL = ("lr=1e-12", "schedule=constant", "warmup=0")
"""A learning rate that no check of "lr = 0" sees and that moves no float32 weight."""

ZEROS = ("schedule=multistep", "warmup=0", "gamma=0.0", "milestones=[1]")
"""A schedule that is zero from the second step on."""

LONGER = 4
"""How many times as long as the target's this run is, which costs nothing: every displacement shrinks with it."""


def forge_tiny_rate(target: Target, attempt: Attempt) -> Forgery:
    """A constant learning rate of 1e-12."""
    return _forge(target, attempt, STANDSTILL)


def forge_zero_schedule(target: Target, attempt: Attempt) -> Forgery:
    """A schedule with zeros."""
    return _forge(target, attempt, ZEROS)


def _forge(target: Target, attempt: Attempt, settings: tuple[str, ...]) -> Forgery:
    steps = f"steps={LONGER * target.steps}"
    options = seal_options(target, attempt, every=1, settings=(*settings, steps))
    with forging(options, thief_key(attempt.seed)) as forge:
        start, end = model_tensors(forge), tensors_of(target.weights)
        forge.begin()
        walk(forge, 0, forge.steps, start, end)
        return forgery_of(
            forge,
            target,
            sample=1,
            bogus=intervals_of(forge),
            reached={"start": distance(start, end), "displacement": distance(start, end) / forge.steps},
            note="replay stands still where the record moves",
        )


SPOOFS = (
    Spoof(
        number=5,
        variant="",
        title="infinitesimal update, learning rate 1e-12",
        source="Fang et al. 2023",
        forge=forge_tiny_rate,
    ),
    Spoof(
        number=5,
        variant="zeros",
        title="infinitesimal update, schedule with zeros",
        source="Fang et al. 2023",
        forge=forge_zero_schedule,
    ),
)
