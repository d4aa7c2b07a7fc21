"""Spoof 27, a jump at walking pace, and 9, one jump: an honest training that leaves for WT on the way.

From a real state to WT in L intervals that are not training, all else honest. Every other state of these intervals
(momentum, moments, running statistics) is that of a real step taken where the walk is, so that nothing but the model
gives it away; the run goes on honestly from WT and ends near it. The learning rate is constant, so that ordinary steps
stay as long as they are at the beginning.
"""

import functools
import random

from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.interpolation import CONSTANT
from polledger.redteam.moves import forgery_of, intervals_of, model_tensors
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import blend, distance, tensors_of

STEPS = 500
"""Steps, and with a checkpoint after each of them intervals, of runs that hide something: enough to hide in."""

JUMP_STEPS = 1000
"""The same of spoof 9."""

SAMPLE = 20

LENGTHS = (5, 20, 50, 100)
"""L of the variants of spoof 27."""

KEPT, PIECES = 50, 3
"""How many checkpoints one is stored of, and intervals that are not training, of the walk between stored states."""

REST = range(4, 50)
"""How many honest steps may follow: few enough to stay near WT."""


def forge_walk(
    target: Target, attempt: Attempt, *, length: int, steps: int = STEPS, steered: bool = False
) -> Forgery:
    """Honest training, ``length`` bogus intervals that lead to WT, and some honest steps from there to the end.

    The way is straight, or ``steered``: real steps, each of them pulled towards WT.
    """
    options = seal_options(target, attempt, every=1, settings=(*CONSTANT, f"steps={steps}"))
    with forging(options, thief_key(attempt.seed)) as forge:
        first = steps - length - random.Random(attempt.seed).choice(REST)
        forge.begin()
        forge.train_through(0, first - 1)
        before = model_tensors(forge)
        forge.train_through(first - 1, first)
        ordinary = distance(before, model_tensors(forge))
        way = walk_to(forge, target, first, length, steered=steered)
        forge.train_through(first + length, steps)
        pace = way / length / ordinary
        return forgery_of(
            forge,
            target,
            sample=SAMPLE,
            bogus=length,
            reached={"way": way, "pace": pace},
            note=f"{length} of {intervals_of(forge)} intervals lead to WT, each {pace:.3g} times as long as the last "
            "real one before",
        )


def walk_to(forge: Forge, target: Target, first: int, length: int, *, steered: bool) -> float:
    """Steps ``first`` to ``first + length`` − 1 walk to WT; how far that is."""
    start, end = model_tensors(forge), tensors_of(target.weights)
    for number in range(length):
        forge.train(first + number)
        # What is left of the way, from where the real step went or from where the line is.
        here, share = (
            (model_tensors(forge), 1 / (length - number)) if steered else (start, (number + 1) / length)
        )
        forge.put(blend(here, end, share))
        forge.checkpoint(first + number + 1)
    return distance(start, end)


def forge_sparse(target: Target, attempt: Attempt, *, steps: int = STEPS) -> Forgery:
    """Only every :data:`KEPT`-th state is stored, and :data:`PIECES` last steps before a stored one lead to WT.

    What lies between stored states moves as far as it does elsewhere, whatever part of it one step takes, so that a
    walk of ordinary pace needs few bogus intervals.
    """
    options = seal_options(
        target, attempt, every=1, warm=0, keep=KEPT, settings=(*CONSTANT, f"steps={steps}")
    )
    with forging(options, thief_key(attempt.seed)) as forge:
        end = tensors_of(target.weights)
        last = steps // KEPT * KEPT - KEPT
        pulled = range(last - (PIECES - 1) * KEPT - 1, last, KEPT)
        forge.begin()
        for n in range(steps):
            forge.train(n)
            if n in pulled:
                forge.put(blend(model_tensors(forge), end, 1 / len(range(n, last, KEPT))))
            forge.checkpoint(n + 1)
        return forgery_of(
            forge,
            target,
            sample=SAMPLE,
            bogus=PIECES,
            note=f"{PIECES} of {intervals_of(forge)} intervals lead to WT, each the last before a stored state",
        )


SPOOFS = (
    Spoof(
        number=9,
        variant="",
        title="one jump",
        source="this project",
        forge=functools.partial(forge_walk, length=1, steps=JUMP_STEPS),
        reference=False,
        why="it opens the largest intervals, a jump among them: hiding in the sample's odds is no matter there",
        slow=True,
    ),
    *(
        Spoof(
            number=27,
            variant=str(length),
            title=f"jump at walking pace, L = {length}",
            source="review of this design",
            forge=functools.partial(forge_walk, length=length),
            slow=True,
        )
        for length in LENGTHS
    ),
    *(
        Spoof(
            number=27,
            variant=f"{length}-steered",
            title=f"real steps pulled towards WT, L = {length}",
            source="review of this design, adapted",
            forge=functools.partial(forge_walk, length=length, steered=True),
            slow=True,
        )
        for length in LENGTHS[-2:]
    ),
    Spoof(
        number=27,
        variant="sparse",
        title=f"a walk in {PIECES} steps, one state in {KEPT} stored",
        source="this project",
        forge=forge_sparse,
        slow=True,
    ),
)
