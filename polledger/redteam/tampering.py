"""Spoof 11, data tampering: what is trained on is not what genesis commits to. PROTOCOL section 10, step 7.

Genesis is honest, and then every step consumes bent examples: a backdoor, stolen labels, a friendlier order. The step
records tell it as it was (the batch then is not made from the committed examples) or give the digests of the honest
batches (the states then are not what those batches give). The reference implementation's digest of the data covers 108
of the 3,072 bytes of an image, no label and no order.
"""

from polledger.redteam import batches
from polledger.redteam.forge import Forge, forging, seal_options, thief_key
from polledger.redteam.own import interval_ends
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.training.nest import encode_nest

KINDS: dict[str, tuple[batches.Bend, str]] = {
    "interiors": (batches.interiors, "a value inside every image is another one"),
    "labels": (batches.labels, "labels change places"),
    "order": (batches.order, "examples come in another order"),
    "duplicated": (batches.duplicated, "an example is consumed twice in place of another"),
    "dropped": (batches.dropped, "an example is left out of every batch"),
}


def tamper(target: Target, attempt: Attempt, *, bend: batches.Bend, admitted: bool) -> Forgery:
    """Train on bent batches. ``admitted``: the step records hold the digests of what was consumed."""
    with forging(seal_options(target, attempt), thief_key(attempt.seed)) as forge:
        forge.begin()
        for n in range(forge.steps):
            committed = None if admitted else forge.recorder.batch(n, encode_nest(forge.batch(n)))
            forge.train(n, bend(forge, n), committed=committed)
            forge.checkpoint(n + 1)
        forge.finish()
        return _forgery(forge, target)


def choose(target: Target, attempt: Attempt) -> Forgery:
    """Committed examples in an order of the thief's choice, which every step record lists."""
    with forging(seal_options(target, attempt), thief_key(attempt.seed)) as forge:
        runner = forge.runner
        forge.begin()
        for n in range(forge.steps):
            chosen = [(index + 1) % len(runner.data) for index in runner.batch_indices(n) or ()]
            batch = runner.collate_examples(n, [runner.example(index) for index in chosen])
            committed = forge.recorder.batch(n, encode_nest(batch))
            runner.prepare(n)
            groups = runner.hyperparameters()
            metrics = runner.step(n, batch)
            forge.gradients += 1
            forge.recorder.step(n, batch=committed, groups=groups, metrics=metrics, examples=chosen)
            forge.checkpoint(n + 1)
        forge.finish()
        return _forgery(forge, target)


def _forgery(forge: Forge, target: Target) -> Forgery:
    return Forgery(
        run=forge.run.path,
        gradients=forge.cost(target),
        sample=1,
        bogus=len(interval_ends(forge.cadence)),
        note="every interval is trained on other data than committed",
    )


def _spoofs(name: str) -> tuple[Spoof, Spoof]:
    bend, title = KINDS[name]
    return (
        Spoof(
            number=11,
            variant=name,
            title=f"{title}; the records give the honest batches' digests",
            source="reference hash defect",
            forge=lambda target, attempt: tamper(target, attempt, bend=bend, admitted=False),
        ),
        Spoof(
            number=11,
            variant=f"{name}-admitted",
            title=f"{title}; the records say so",
            source="reference hash defect",
            forge=lambda target, attempt: tamper(target, attempt, bend=bend, admitted=True),
        ),
    )


SPOOFS = (
    *(spoof for name in KINDS for spoof in _spoofs(name)),
    Spoof(
        number=11,
        variant="chosen",
        title="examples of the thief's choice, listed in every record",
        source="reference hash defect",
        forge=choose,
    ),
)
