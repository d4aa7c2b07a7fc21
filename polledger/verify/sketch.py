"""Screening without the run: the prover's side of a sketch answer, and the verifier's. PROTOCOL sections 10.5 and 11.

The rules are those of :mod:`polledger.core.screening`; displacements are estimated from sketches of every float group
instead of measured. A prover may lie about checkpoints that are never opened. To hide a jump it has to lie about as
many in a row as an honest walk of that length has, and every opened payload among them contradicts it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from polledger.core.records import StateObject
from polledger.core.screening import Segment, Track, distance, is_parameters
from polledger.core.sketch import DIRECTIONS, Sketch, Sketches, decode_place, encode_place
from polledger.core.state import FlatState
from polledger.errors import Unavailable
from polledger.store.objects import ObjectStore
from polledger.verify.lineage import Lineage
from polledger.verify.movement import Meter
from polledger.verify.scan import stored_checkpoints
from polledger.verify.states import read_states

TOLERANCE = 1e-3
"""By how much each number of a change may differ, in displacements of the group. Both sides take the same float32
differences; the products under them are summed in another order, which moves a number by about √1024 roundings, 2e-6
displacements. A number is 1/8 displacement large on average."""


def make_sketches(lineage: Lineage, objects: ObjectStore, *, head: bytes, seed: bytes) -> Sketches:
    """The prover's answer: the places of every stored checkpoint under the verifier's ``seed``.

    Raises Unavailable naming the object if one is missing or damaged.
    """
    meter = Meter(lineage.genesis.objects, seed=seed, every_group=True)
    checkpoints = [checkpoint for _, checkpoint in stored_checkpoints(lineage.intervals)]
    for state in read_states(objects, [checkpoint.root for checkpoint in checkpoints]):
        if isinstance(state, Unavailable):
            raise state
        meter.take(state.flat)
    groups = sorted(meter.sketches)
    return Sketches(
        v=1,
        run=lineage.genesis.run,
        head=head,
        seed=seed,
        groups=groups,
        sketches=[
            Sketch(
                step=checkpoint.step,
                root=checkpoint.root,
                values=[encode_place(meter.sketches[group][at].tolist()) for group in groups],
            )
            for at, checkpoint in enumerate(checkpoints)
        ],
    )


def answer_problems(answer: Sketches, lineage: Lineage, *, head: bytes, seed: bytes) -> list[str]:
    """Why ``answer`` is not one to this verifier's question; empty where it is.

    It speaks of this run, head and seed, and of every stored checkpoint of the final lineage in order, from places
    that are zero.
    """
    problems = []
    if answer.run != lineage.genesis.run:
        problems.append("the sketches are of another run")
    if answer.head != head:
        problems.append("the sketches were made under another head")
    if answer.seed != seed:
        problems.append("the sketches were made under another seed")
    stored = [(checkpoint.step, checkpoint.root) for _, checkpoint in stored_checkpoints(lineage.intervals)]
    if [(sketch.step, sketch.root) for sketch in answer.sketches] != stored:
        problems.append("the sketches are not those of the stored checkpoints, in order")
    # Far from zero, a difference of two places would have as many wrong digits as the prover wants.
    problems += [f"the places of {group} do not begin at zero" for group in _begin_elsewhere(answer)]
    return problems


def _begin_elsewhere(answer: Sketches) -> Iterator[str]:
    for sketch in answer.sketches[:1]:
        for group, place in zip(answer.groups, sketch.values, strict=True):
            if any(decode_place(place)):
                yield group


def track_of(answer: Sketches, lineage: Lineage) -> Track:
    """What the rules take, from an answer without problems. Optimizer invariants need payloads: they are not in it."""
    places = {
        group: [decode_place(sketch.values[number]) for sketch in answer.sketches]
        for number, group in enumerate(answer.groups)
    }
    befores = [before for before, _ in stored_checkpoints(lineage.intervals)]
    segments = []
    for at, (first, end) in enumerate(pairwise(befores)):
        moved = {group: distance(found[at], found[at + 1]) for group, found in places.items()}
        segments.append(
            Segment(
                first=first,
                last=end - 1,
                steps=sum(len(interval.steps) for interval in lineage.intervals[first:end]),
                moved=moved,
                still=not any(u for group, u in moved.items() if is_parameters(group)),
            )
        )
    return Track(
        segments=segments, places={group: found for group, found in places.items() if is_parameters(group)}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """``group`` changed otherwise over an opened segment than its sketches say: by ``apart``, more than ``allowed``."""

    group: str
    apart: float
    allowed: float


def check_opened(
    answer: Sketches,
    at: int,
    *,
    start: FlatState,
    end: FlatState,
    objects: Sequence[StateObject],
) -> list[Contradiction]:
    """Contradictions between the answer and two opened payloads: the ``at``-th stored checkpoint and the next one.

    The caller has checked the payloads against the roots. No honest answer contradicts, whatever machine made it.
    """
    meter = Meter(objects, seed=answer.seed, every_group=True)
    meter.take(start)
    movement = meter.take(end)
    moved = movement.moved if movement is not None else {}
    found = []
    for group, claimed, lost in _changes(answer, at):
        own = np.zeros(DIRECTIONS)
        if group in meter.sketches:
            own = meter.sketches[group][1] - meter.sketches[group][0]
        size = moved.get(group, 0.0)
        # What is not finite is in no sketch, and excuses nothing in it.
        size = size if math.isfinite(size) else float(np.linalg.norm(own))
        apart, allowed = float(np.abs(own - claimed).max()), TOLERANCE * size + lost
        if apart > allowed:
            found.append(Contradiction(group=group, apart=apart, allowed=allowed))
    unsaid = meter.sketches.keys() - set(answer.groups)
    return found + [Contradiction(group=group, apart=math.inf, allowed=0.0) for group in sorted(unsaid)]


def _changes(answer: Sketches, at: int) -> Iterator[tuple[str, NDArray[np.float64], float]]:
    """By group, the change that the answer claims, and what subtracting two places in binary64 may lose of it."""
    before, after = answer.sketches[at].values, answer.sketches[at + 1].values
    for group, one, two in zip(answer.groups, before, after, strict=True):
        a, b = np.array(decode_place(one)), np.array(decode_place(two))
        yield group, b - a, 2.0**-40 * float(np.abs(np.concatenate([a, b])).max())
