"""Spoof 18: hostile bytes are damage, named; nothing in them runs, hangs, overflows or persuades."""

import pytest

from polledger.redteam import hostile
from polledger.redteam.spoof import Attempt, Target
from tests.redteam.judging import Judge, caught, the

DAMAGE = {
    "deep": (1, "parse", "nested deeper than 24"),
    "claim": (1, "parse", "the value is truncated"),
    "form": (1, "parse", "an integer is not in its shortest form"),
    "duplicate": (1, "parse", "the map key 'v' occurs twice"),
    "trailing": (1, "parse", "1 bytes after the value"),
    "pickled-record": (1, "parse", "not a record"),
    "truncated": (1, "parse", "are sealed but missing"),
    "oversized": (1, "parse", "its frame states a length of 4294967295 bytes"),
    "bomb": (7, "inclusion", "is damaged"),
    "packed-claim": (7, "inclusion", "more than 64 times as many"),
    "packed-bomb": (7, "inclusion", "more than 64 times as many"),
    "holes": (7, "inclusion", "are expected"),
    "pipe": (7, "inclusion", "it is not a regular file"),
    "link": (7, "inclusion", "symbolic links"),
    "pickled-state": (7, "inclusion", "is damaged"),
    "pickled-model": (10, "binding", "it holds more than tensors"),
    "petabyte": (7, "inclusion", "is damaged"),
    "traversal": (7, "code", "has an empty, '.' or '..' part"),
    "seal-number": (1, "parse", "holds seal 4, not 999999999999"),
}
"""Step and name of the finding that says what is wrong, and the words for it."""


@pytest.mark.parametrize("name", hostile.KINDS)
def test_hostile_bytes_are_damage(target: Target, attempt: Attempt, judge: Judge, name: str) -> None:
    report = judge(hostile.spoil(target, attempt, hostile.KINDS[name]))
    step, finding, words = DAMAGE[name]
    assert report.verdict == "UNVERIFIABLE", caught(report)
    # Damage is missing evidence: it accuses nobody.
    assert set(caught(report).values()) == {"unverifiable"}
    assert words in the(report, step, finding).detail
    assert not (attempt.directory / "owned").exists()
