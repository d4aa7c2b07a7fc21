"""Parts of the reading pass, each in a process of its own: side by side they read as fast as all cores hash.

Threads would not do: one that hashes and one that measures wait for each other's interpreter lock between blocks
of 64 KiB. Two parts that meet at a checkpoint both read it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from polledger.core.records import StateObject
from polledger.errors import Unavailable
from polledger.helper import Job, Report, Worker, physical_memory, usable_cores
from polledger.store.objects import ObjectStore
from polledger.verify.movement import Expected, Meter, Movement
from polledger.verify.states import BLOCKS, read_states

WORTH = 1 << 30
"""Bytes below which another process would take longer to begin than it saves: about a second of reading."""

MOST = 4
"""Parts: beyond that a disk is slower than the cores."""

FEWEST = 4
"""Checkpoints of a part: one of them is read twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Consecutive stored checkpoints. ``expected[i]`` is what to look at from ``roots[i]`` to ``roots[i + 1]``."""

    directory: str
    objects: list[StateObject]
    seed: bytes
    roots: list[bytes]
    expected: list[Expected]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One state: its bytes, how it moved from the one before, and by group where it is relative to the part's first."""

    size: int
    movement: Movement | None = None
    places: dict[str, list[float]] = field(default_factory=dict)


def part_count(objects: ObjectStore, roots: Sequence[bytes]) -> int:
    """How many processes to read the states of ``roots`` with; 1 where one of them is missing."""
    try:
        sizes = [objects.path(root).stat().st_size for root in roots]
    except OSError:
        return 1
    if sum(sizes) < WORTH:
        return 1
    room = physical_memory() // (2 * BLOCKS * max(sizes))
    return max(1, min(usable_cores(), MOST, len(sizes) // FEWEST, room))


def bounds(length: int, count: int) -> list[tuple[int, int]]:
    """Begin and end of ``count`` parts of ``length`` checkpoints; each begins with the last one of the part before."""
    ends = [1 + (length - 1) * number // count for number in range(count + 1)]
    return [(begin - 1, end) for begin, end in itertools.pairwise(ends)]


def job_of(part: Part) -> Job:
    """What measures ``part`` in another process."""
    return Job(function=f"{__name__}:measure", argument=msgspec.to_builtins(part))


def measure(argument: Mapping[str, Any], send: Report) -> dict[str, Any]:
    """Read and measure one part; what each state shows is sent. Raises Unavailable at the first that cannot be read."""
    part = msgspec.convert(argument, Part)
    meter = Meter(part.objects, seed=part.seed)
    states = read_states(ObjectStore(Path(part.directory)), part.roots)
    for expected, state in zip([None, *part.expected], states, strict=True):
        if isinstance(state, Unavailable):
            raise state
        measured = Measured(
            size=len(state.data),
            movement=meter.take(state.flat, expected),
            places={group: found[-1].tolist() for group, found in meter.sketches.items()},
        )
        send({"measured": msgspec.to_builtins(measured)})
    return {}


def collect(worker: Worker, told: Callable[[], None]) -> list[Measured]:
    """All that ``worker`` measures. Raises as :meth:`Worker.messages`."""
    found = []
    for message in worker.messages():
        if "measured" in message:
            found.append(msgspec.convert(message["measured"], Measured))
            told()
    return found


def join_places(places: dict[str, list[list[float]]], others: Sequence[Mapping[str, list[float]]]) -> None:
    """Go on with ``places``, by group, as a part went on from where they end: ``others``, by state."""
    length = max(map(len, places.values()), default=1)
    for group in {name for other in others for name in other} - places.keys():
        size = next(len(other[group]) for other in others if group in other)
        places[group] = [[0.0] * size] * length
    for group, found in places.items():
        end = found[-1]
        found += [
            [a + b for a, b in zip(end, other.get(group, [0.0] * len(end)), strict=True)]
            for other in others[1:]
        ]
