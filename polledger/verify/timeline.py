"""Seals and their tokens one by one, for the report: what a person wants to see of step 3. Nothing is judged here."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from polledger.core.moment import utc_text
from polledger.core.reportform import SealForm, TimelineForm, TokenForm
from polledger.timestamp.authority import self_asserted
from polledger.verify.heads import SealedHead
from polledger.verify.tokens import Stamp

SEALS = 400
"""Seals that are listed, at most: more than a page can show."""

TOKENS = 8
"""Tokens that are listed of one seal, the earliest: more authorities than anybody asks."""


def timeline(
    heads: Sequence[SealedHead],
    stamps: Sequence[Stamp],
    made: Mapping[int, datetime],
    steps: Mapping[int, int],
) -> TimelineForm:
    """``heads`` in order of their seals, with the ``stamps`` over each; ``steps``: how many a tree of that size holds.

    ``made``: when seals were made by the prover's notes, by number.
    """
    ordered = sorted(heads, key=lambda item: item.seal.number)
    by_seal: dict[int, list[Stamp]] = {}
    for stamp in stamps:
        by_seal.setdefault(stamp.seal, []).append(stamp)
    shown = [ordered[at] for at in _spread(len(ordered))]
    return {
        "seals": [
            _seal(item, by_seal.get(item.seal.number, []), made.get(item.seal.number), steps)
            for item in shown
        ],
        "left_out": len(ordered) - len(shown),
    }


def _spread(count: int) -> Sequence[int]:
    """Positions of SEALS among ``count``, evenly apart, the first and the last among them."""
    if count <= SEALS:
        return range(count)
    return [at * (count - 1) // (SEALS - 1) for at in range(SEALS)]


def _seal(
    item: SealedHead, stamps: Sequence[Stamp], made: datetime | None, steps: Mapping[int, int]
) -> SealForm:
    earliest = sorted(stamps, key=lambda stamp: stamp.timestamp.gen_time)
    return {
        "seal": item.seal.number,
        "size": item.head.size,
        "steps": steps.get(item.head.size, 0),
        "made": None if made is None else utc_text(made),
        "tokens": [_token(stamp, made) for stamp in earliest[:TOKENS]],
        "left_out": max(0, len(earliest) - TOKENS),
    }


def _token(stamp: Stamp, made: datetime | None) -> TokenForm:
    time, accuracy = stamp.timestamp.gen_time, stamp.timestamp.accuracy
    return {
        "authority": stamp.authority,
        "operator": stamp.operator,
        "embedded": self_asserted(stamp.timestamp),
        "time": utc_text(time),
        "accuracy": None if accuracy is None else accuracy.total_seconds(),
        "lag": None if made is None else round((time - made).total_seconds(), 3),
    }
