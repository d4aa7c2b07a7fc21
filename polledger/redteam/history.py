"""Spoof 14, rewriting history: what was sealed is told otherwise afterwards. PROTOCOL sections 4, 7 and 15.

The thief owns key, run secret and every file. Whatever contradicts a head that was signed before is found, because the
old head is part of what is shown: it carries the early date. A history of which no old head is shown (everything
signed anew, timestamps and all) contradicts nothing: then it is only as old as its new timestamps, and whether somebody
keeps a head of the other history is a matter of witnesses outside the run (PROTOCOL section 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace as replaced
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET

from polledger.core.encoding import real
from polledger.core.records import AnyRecord, Checkpoint, Final, Genesis, Resume, Step
from polledger.redteam.forge import thief_key
from polledger.redteam.own import own_run
from polledger.redteam.rewrite import Edit, read_records, rewrite_run
from polledger.redteam.seals import chain_again, head_of, overwrite_seal, stamp_again
from polledger.redteam.spoof import Attempt, Forge, Forgery, Spoof, Target
from polledger.training.stamping import choose_authorities

_SOURCE = "ledger"


def _checkpoints(records: Sequence[AnyRecord]) -> list[Checkpoint]:
    return [record for record in records if isinstance(record, Checkpoint)]


def fork(target: Target, attempt: Attempt, *, edit: Edit | None = None) -> Forgery:
    """Seal a run, then write another end behind its first seals and keep the seal that carries the early date.

    The other end only tells better metrics (``edit`` tells something else): the smallest lie that a fork can be for.
    """
    original = own_run(target, attempt, "original")
    kept = len(original.seals()) - 2
    sealed = head_of(original, kept - 1).size
    forged = rewrite_run(
        original.path,
        attempt.directory / "run",
        key=thief_key(attempt.seed),
        edit=edit or (lambda records: [*records[:sealed], *map(_praised, records[sealed:])]),
    )
    overwrite_seal(forged, original.read_seal(kept))
    chain_again(forged, first=kept + 1, key=thief_key(attempt.seed))
    stamp_again(forged, choose_authorities([])[0], now=datetime.now(UTC), first=kept + 1)
    return Forgery(
        run=forged.path,
        gradients=1.0,
        sample=1,
        bogus=0,
        note="the end after a seal is written anew, and the seal over the old end kept for its date",
    )


def _praised(record: AnyRecord) -> AnyRecord:
    if not isinstance(record, Step) or record.metrics is UNSET:
        return record
    return msgspec.structs.replace(record, metrics=dict.fromkeys(record.metrics, real(0.0)))


def splice(target: Target, attempt: Attempt) -> Forgery:
    """The first half of one training, then the states of another one under the first one's steps."""
    first = own_run(target, attempt, "first")
    second = own_run(target, attempt, "second", seed=1)
    roots = [checkpoint.root for checkpoint in _checkpoints(read_records(second))]
    final = next(record for record in read_records(second) if isinstance(record, Final))
    seam = len(roots) // 2

    def edit(records: list[AnyRecord]) -> list[AnyRecord]:
        late = dict(zip([item.index for item in _checkpoints(records)][seam:], roots[seam:], strict=True))
        return [_spliced(record, late, final.model_root) for record in records]

    states = [second.objects.read_state(root, limit=1 << 40) for root in roots[seam:]]
    forged = rewrite_run(first.path, attempt.directory / "run", key=thief_key(attempt.seed), edit=edit)
    for root, state in zip(roots[seam:], states, strict=True):
        forged.objects.put_named(root, [state])
    bogus = len(roots) - seam
    return Forgery(
        run=forged.path,
        gradients=2.0,
        sample=len(roots) - 1,
        bogus=bogus,
        note="states of another seed from the middle on: order and seed of every later interval are wrong",
    )


def _spliced(record: AnyRecord, late: dict[int, bytes], model_root: bytes) -> AnyRecord:
    if isinstance(record, Final):
        return msgspec.structs.replace(record, model_root=model_root)
    if isinstance(record, Checkpoint) and record.index in late:
        return msgspec.structs.replace(record, root=late[record.index])
    return record


def swap(target: Target, attempt: Attempt) -> Forgery:
    """Two checkpoints of an honest run change places."""
    original = own_run(target, attempt, "original")
    middle = _checkpoints(read_records(original))
    one, other = middle[len(middle) // 2], middle[len(middle) // 2 + 1]
    roots = {one.index: other.root, other.index: one.root}

    def edit(records: list[AnyRecord]) -> list[AnyRecord]:
        return [
            msgspec.structs.replace(record, root=roots[record.index])
            if isinstance(record, Checkpoint) and record.index in roots
            else record
            for record in records
        ]

    forged = rewrite_run(original.path, attempt.directory / "run", key=thief_key(attempt.seed), edit=edit)
    return Forgery(
        run=forged.path,
        gradients=1.0,
        sample=len(middle) - 1,
        bogus=3,
        note="the intervals before, between and after the two are bogus",
    )


def token(target: Target, attempt: Attempt) -> Forgery:
    """The tokens over genesis stand under the last head as well: the model is as old as its first record."""
    forged = own_run(target, attempt, "run")
    last = forged.read_seal(forged.seals()[-1])
    overwrite_seal(forged, msgspec.structs.replace(last, tokens=forged.read_seal(0).tokens))
    return Forgery(
        run=forged.path, gradients=1.0, sample=1, bogus=0, note="token and request are of another head"
    )


Naming = Callable[[Sequence[AnyRecord]], dict[str, int]]
"""What a resume record says about the abandoned records it is given."""


def _names_all(stretch: Sequence[AnyRecord]) -> dict[str, int]:
    return {"first": stretch[0].index, "last": stretch[-1].index}


def drop(target: Target, attempt: Attempt, *, resume: bool, naming: Naming = lambda stretch: {}) -> Forgery:
    """A stretch that failed stays sealed in the ledger, and training goes on from the checkpoint before it.

    Without ``resume`` no record says so; with it one does, and says about the stretch what ``naming`` gives.
    ``_names_all`` is the honest way, which verifies.
    """
    original = own_run(target, attempt, "original")

    def edit(records: list[AnyRecord]) -> list[AnyRecord]:
        source = _checkpoints(records)[len(_checkpoints(records)) // 2]
        failed = [item for item in records[source.index + 1 :] if isinstance(item, Step)][:1]
        again = [_resume(records[0], source, failed, naming)] if resume else []
        return _moved([*records[: source.index + 1], *failed, *again, *records[source.index + 1 :]])

    forged = rewrite_run(original.path, attempt.directory / "run", key=thief_key(attempt.seed), edit=edit)
    return Forgery(
        run=forged.path,
        gradients=1.0,
        sample=1,
        bogus=0,
        note="a sealed stretch is left out of the training that is told",
    )


def _resume(genesis: AnyRecord, source: Checkpoint, failed: Sequence[AnyRecord], naming: Naming) -> Resume:
    if not isinstance(genesis, Genesis):
        raise TypeError("the first record of a run is its genesis")
    return Resume(
        v=1,
        run=source.run,
        index=0,
        environment=genesis.environment,
        source=source.index,
        reason="",
        **naming(failed),
    )


def _moved(records: Sequence[AnyRecord]) -> list[AnyRecord]:
    """``records`` with the final one naming the last checkpoint where it lies now."""
    last = max(index for index, record in enumerate(records) if isinstance(record, Checkpoint))
    return [
        msgspec.structs.replace(record, checkpoint=last) if isinstance(record, Final) else record
        for record in records
    ]


def _entry(variant: str, title: str, forge: Forge, why: str) -> Spoof:
    return Spoof(
        number=14, variant=variant, title=title, source=_SOURCE, forge=forge, reference=False, why=why
    )


_NO_LEDGER = "it has no ledger: records are files that anybody may replace"

SPOOFS = (
    _entry("fork", "another end behind a seal that is kept", fork, _NO_LEDGER),
    replaced(
        _entry("splice", "two trainings spliced", splice, ""),
        reference=True,
    ),
    replaced(_entry("swap", "two checkpoints change places", swap, ""), reference=True),
    _entry("token", "a token reused for another head", token, "it knows no time"),
    _entry(
        "drop",
        "a failed stretch without a resume record",
        lambda target, attempt: drop(target, attempt, resume=False),
        _NO_LEDGER,
    ),
    _entry(
        "unnamed",
        "a resume record that does not name what it drops",
        lambda target, attempt: drop(target, attempt, resume=True),
        _NO_LEDGER,
    ),
)
