"""Spoof 26, the laundered parent: a "run" of the thief's own that ends at the stolen weights is named as the origin.

The child run is honest: it starts from what its genesis names and trains on. The verifier is not handed what it starts
from, as a thief would rather not: that is UNVERIFIABLE at step 8, which asks for it. With the bogus parent at hand that
is verified as well, and refutes the child that the same key signed (tests/redteam/test_ancestry.py).
PROTOCOL section 10, step 8.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs

from polledger.core.digest import sha256
from polledger.core.records import Parent
from polledger.core.state import FlatState, encode_state
from polledger.redteam.forge import forging, seal_options, thief_key
from polledger.redteam.own import interval_ends
from polledger.redteam.seals import head_of
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import tensors_of, with_tensors


def laundered(target: Target, attempt: Attempt, *, inherit: bool = False) -> Forgery:
    """Name a bogus run as the parent. ``inherit``: its optimizer's momentum goes on as well, planted as it may be."""
    head, end, spent = _bogus_parent(target, attempt)
    origin = {"origin": "parent", "parent": Parent(head=head, mode="continue" if inherit else "model")}
    return _child(target, attempt, origin, end if inherit else None, spent)


def external(target: Target, attempt: Attempt) -> Forgery:
    """Name a file as the origin: whoever has the stolen weights has a file of them."""
    with forging(
        seal_options(target, attempt, run=attempt.directory / "none"), thief_key(attempt.seed)
    ) as forge:
        forge.put(tensors_of(target.weights))
        digest = sha256(b"".join(encode_state(forge.weights()).chunks()))
    return _child(target, attempt, {"origin": "external", "external": digest}, None, 0.0)


def _bogus_parent(target: Target, attempt: Attempt) -> tuple[bytes, FlatState, float]:
    """A finished run that trains honestly and then, in its last step, is at the stolen weights."""
    options = seal_options(target, attempt, run=attempt.directory / "parent")
    with forging(options, thief_key(attempt.seed)) as forge:
        forge.begin()
        last = forge.steps - 1
        forge.train_through(0, last)
        forge.say(last)
        forge.move(last, tensors_of(target.weights))
        forge.checkpoint(forge.steps)
        forge.finish()
        end = forge.state()
        return head_of(forge.run, forge.run.seals()[-1]).digest(), end, forge.cost(target)


def _child(
    target: Target, attempt: Attempt, origin: Mapping[str, Any], start: FlatState | None, spent: float
) -> Forgery:
    with forging(seal_options(target, attempt), thief_key(attempt.seed)) as forge:
        forge.genesis = structs.replace(forge.genesis, **origin)
        forge.load(start or with_tensors(forge.state(), tensors_of(target.weights)))
        forge.begin()
        forge.train_through(0, forge.steps)
        forge.finish()
        return Forgery(
            run=forge.run.path,
            gradients=spent + forge.cost(target),
            sample=len(interval_ends(forge.cadence)),
            bogus=0,
            note="every interval of the child run is training; what it starts from is not shown",
        )


def _spoof(variant: str, title: str, forge: Callable[[Target, Attempt], Forgery]) -> Spoof:
    return Spoof(
        number=26,
        variant=variant,
        title=title,
        source="review",
        forge=forge,
        reference=False,
        why="it has no origins: the first checkpoint has to look initialised",
    )


SPOOFS = (
    _spoof("", "a bogus run named as parent", laundered),
    _spoof(
        "inherited",
        "a bogus run named as parent, optimizer state and all",
        lambda target, attempt: laundered(target, attempt, inherit=True),
    ),
    _spoof("external", "the stolen file named as external origin", external),
)
