"""Spoof 16, republication: somebody else's run, signed with the thief's key and sealed later. PROTOCOL sections 6, 15.

The thief has the whole directory of a victim's run, run secret and all, and computes nothing. What stops it is that the
training seed hangs on the key that signs the heads. A run sealed ``--unbound`` gives that up: signed anew it verifies
(:data:`LIMITS`), the report says that the seed is not bound to the key, and only the dates of both runs tell.
"""

import msgspec

from polledger.core.records import AnyRecord, Checkpoint
from polledger.redteam.forge import thief_key
from polledger.redteam.own import VICTIM, own_run
from polledger.redteam.rewrite import read_records, rewrite_run
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target


def resign(target: Target, attempt: Attempt, *, unbound: bool = False) -> Forgery:
    """Every record of the victim's run under the thief's key. ``unbound``: the victim sealed it that way."""
    victim = own_run(target, attempt, "victim", who=VICTIM, unbound=unbound)
    forged = rewrite_run(victim.path, attempt.directory / "run", key=thief_key(attempt.seed), edit=list)
    return Forgery(
        run=forged.path, gradients=0.0, sample=1, bogus=0, note="the seed of the thief's key is another one"
    )


def rebuilt(target: Target, attempt: Attempt) -> Forgery:
    """The same, and the first state is the one that the thief's key gives, so that the origin is in order."""
    victim = own_run(target, attempt, "victim", who=VICTIM)
    mine = own_run(target, attempt, "mine")
    first = _first(read_records(mine))

    def edit(records: list[AnyRecord]) -> list[AnyRecord]:
        old = _first(records)
        return [msgspec.structs.replace(old, root=first.root) if item is old else item for item in records]

    forged = rewrite_run(victim.path, attempt.directory / "run", key=thief_key(attempt.seed), edit=edit)
    forged.objects.put_named(first.root, [mine.objects.read_state(first.root, limit=1 << 40)])
    return Forgery(
        run=forged.path,
        gradients=0.0,
        sample=1,
        bogus=len([item for item in read_records(victim) if isinstance(item, Checkpoint)]) - 1,
        note="order and randomness of every interval are those of another seed",
    )


def _first(records: list[AnyRecord]) -> Checkpoint:
    return next(record for record in records if isinstance(record, Checkpoint))


def _unbound(target: Target, attempt: Attempt) -> Forgery:
    return resign(target, attempt, unbound=True)


_OWNERSHIP = "it is about ownership: a verifier of the published kind accepts any copy of a proof"

SPOOFS = (
    Spoof(
        number=16,
        variant="",
        title="a victim's run signed with the thief's key",
        source="ownership disputes",
        forge=resign,
        reference=False,
        why=_OWNERSHIP,
    ),
    Spoof(
        number=16,
        variant="rebuilt",
        title="the same with the first state of the thief's key",
        source="ownership disputes",
        forge=rebuilt,
        reference=False,
        why=_OWNERSHIP,
    ),
)

LIMITS = (
    Spoof(
        number=16,
        variant="unbound",
        title="a victim's run that was sealed --unbound, signed with the thief's key",
        source="ownership disputes",
        forge=_unbound,
        reference=False,
        why=_OWNERSHIP,
    ),
)
"""What verifies all the same: the report says that the seed is not bound to the key."""
