"""What a prover answers to a sketch seed: 64 numbers per stored checkpoint and group. PROTOCOL section 11.

A verifier that does not have the run sends a seed after the last head exists; the prover projects every stored
checkpoint under it and answers before it learns the sample. The answer is a claim: each payload that is opened later
is held against it (:mod:`polledger.verify.sketch`).
"""

import struct
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from polledger.core.encoding import Limits, parse
from polledger.core.records import Count, Digest, RunId, StatePath, _Struct
from polledger.errors import MalformedError

DIRECTIONS = 64
"""Numbers in a sketch: a distance has a relative standard error of about 1/√128, 9 %."""

SKETCH_LIMITS = Limits(size=1 << 28, depth=8, count=4_000_000)
"""A place takes 512 bytes a group: 256 MiB are 50,000 checkpoints of a model under AdamW."""

LARGEST = 1e100
"""A change of one parameter is at most 3.4e38 where it is projected: no run comes near, and no product overflows."""

PlaceBytes = Annotated[bytes, Meta(min_length=8 * DIRECTIONS, max_length=8 * DIRECTIONS)]

_PLACE = struct.Struct(f">{DIRECTIONS}d")


class Sketch(_Struct, frozen=True, kw_only=True):
    """One stored checkpoint. ``values``: its place in each of the groups, in order, numbers as binary64, big-endian."""

    step: Count
    root: Digest
    values: Annotated[list[PlaceBytes], Meta(max_length=4096)]


class Sketches(_Struct, frozen=True, kw_only=True, tag_field="type", tag="sketches"):
    """The places of every stored checkpoint of the final lineage under ``head``, projected under ``seed``.

    ``groups``: names of all groups with floating tensors, ascending. What one of them says about the others is checked
    in :mod:`polledger.verify.sketch`.
    """

    v: Literal[1]
    run: RunId
    head: Digest
    seed: Annotated[bytes, Meta(min_length=16, max_length=64)]
    groups: Annotated[list[StatePath], Meta(max_length=4096)]
    sketches: Annotated[list[Sketch], Meta(max_length=1_000_000)]

    def __post_init__(self) -> None:
        if self.groups != sorted(set(self.groups)):
            raise ValueError("the groups of sketches are not in order")
        if any(len(sketch.values) != len(self.groups) for sketch in self.sketches):
            raise ValueError("a sketch has a place for each group")


def parse_sketches(data: bytes) -> Sketches:
    """The answer that ``data`` encodes. Raises MalformedError; numbers beyond LARGEST or not finite are too."""
    sketches: Sketches = parse(data, Sketches, limits=SKETCH_LIMITS)
    for sketch in sketches.sketches:
        # Written so that NaN is beyond.
        if not all(abs(value) <= LARGEST for place in sketch.values for value in decode_place(place)):
            raise MalformedError(
                f"the sketch after step {sketch.step} has a number that is not finite or too large"
            )
    return sketches


def encode_place(values: Sequence[float]) -> bytes:
    """The bytes of one place of DIRECTIONS numbers."""
    return _PLACE.pack(*values)


def decode_place(data: bytes) -> tuple[float, ...]:
    """The numbers of :func:`encode_place`."""
    return _PLACE.unpack(data)
