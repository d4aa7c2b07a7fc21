"""Processes that read and hash stored states into shared memory, in which this one looks at them.

Threads would not do: one that hashes and one that measures wait for each other's interpreter lock between chunks of
64 KiB. Linux only; elsewhere, and for few bytes, one process does both.
"""

import contextlib
import mmap
import os
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from polledger.core.state import parse_state
from polledger.errors import Unavailable
from polledger.helper import Job, Report, Worker
from polledger.machine import memory_limit, usable_cores
from polledger.store.objects import ObjectStore
from polledger.verify.states import BLOCKS, LoadedState, check_state, load_state, read_states

WORTH = 1 << 29
"""Bytes below which a process takes longer to begin than it saves."""

MOST = 3
"""Readers: more read faster than one process measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """What one reader is to read: the states of ``roots``, in turn, each into one of BLOCKS pieces of ``room`` bytes.

    ``memory`` and ``turns`` are file descriptors of the parent's: the shared memory, and a pipe with a byte for every
    piece that may be used again.
    """

    directory: str
    roots: list[bytes]
    room: int
    memory: int
    turns: int


def reader_count(objects: ObjectStore, roots: Sequence[bytes]) -> int:
    """How many processes to read the states of ``roots`` with; 0 where this one does as well."""
    sizes = _sizes(objects, roots)
    if not sys.platform.startswith("linux") or usable_cores() < 2 or sum(sizes) < WORTH:
        return 0
    room = memory_limit() // (2 * BLOCKS * max(sizes))
    return min(usable_cores(), MOST, len(sizes) - 1, room)


def _sizes(objects: ObjectStore, roots: Sequence[bytes]) -> list[int]:
    """Bytes of each; 0 for what is not there."""
    sizes = []
    for root in roots:
        try:
            sizes.append(objects.state_size(root))
        except Unavailable:
            sizes.append(0)
    return sizes


def read_with(
    count: int, objects: ObjectStore, roots: Sequence[bytes]
) -> Generator[LoadedState | Unavailable, None, None]:
    """As :func:`read_states`, with ``count`` processes that read ahead; close it to end them.

    The first state is read here while they begin, and so are those of a process that dies, and all where none can
    begin.
    """
    with contextlib.ExitStack() as stack:
        readers = _begin(count, objects, roots, stack)
        yield from _in_turn(objects, roots, readers) if readers else read_states(objects, roots)


def _begin(
    count: int, objects: ObjectStore, roots: Sequence[bytes], stack: contextlib.ExitStack
) -> list["_Reader"]:
    """``count`` readers that end with ``stack``; none if the system has no room for them."""
    room = max((1, *_sizes(objects, roots)))
    try:
        return [
            stack.enter_context(_Reader(objects, roots[1 + number :: count], room)) for number in range(count)
        ]
    except OSError:
        return []


def _in_turn(
    objects: ObjectStore, roots: Sequence[bytes], readers: Sequence["_Reader"]
) -> Iterator[LoadedState | Unavailable]:
    held: _Reader | None = None
    for number, root in enumerate(roots):
        reader = readers[(number - 1) % len(readers)] if number else None
        state = reader.take(root) if reader is not None else None
        if state is None:
            state, reader = _own(objects, root), None
        yield state
        if isinstance(state, LoadedState):
            # The state before this one is of no use any more.
            if held is not None:
                held.release()
            held = reader


def _own(objects: ObjectStore, root: bytes) -> LoadedState | Unavailable:
    try:
        return load_state(objects, root)
    except Unavailable as error:
        return error


class _Reader:
    """One process and the memory it reads into. Use as a context manager: leaving it ends the process."""

    def __init__(self, objects: ObjectStore, roots: Sequence[bytes], room: int) -> None:
        self._room = room
        self._taken = 0
        with contextlib.ExitStack() as here, contextlib.ExitStack() as kept:
            memory = os.memfd_create("polledger-states")
            here.callback(os.close, memory)
            behind, self._turns = os.pipe()
            here.callback(os.close, behind)
            kept.callback(os.close, self._turns)
            os.ftruncate(memory, BLOCKS * room)
            self._memory = mmap.mmap(memory, BLOCKS * room, prot=mmap.PROT_READ)
            shelf = Shelf(
                directory=str(objects.directory), roots=list(roots), room=room, memory=memory, turns=behind
            )
            job = Job(function=f"{__name__}:fill", argument=msgspec.to_builtins(shelf))
            self._worker = Worker(job, descriptors=(memory, behind))
            kept.callback(self._worker.close)
            self._kept = kept.pop_all()
        self._messages = self._worker.messages()

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def take(self, root: bytes) -> LoadedState | Unavailable | None:
        """Its next state, that of ``root``, or why it cannot be read; None if the process is no more."""
        try:
            message = next(self._messages)
        except (Unavailable, StopIteration):
            self._messages = iter(())
            return None
        if "problem" in message:
            return Unavailable(message["problem"])
        begin = (self._taken % BLOCKS) * self._room
        self._taken += 1
        data = memoryview(self._memory)[begin : begin + message["size"]]
        return LoadedState(root=root, data=data, flat=parse_state(data, root=root, rehash=False))

    def release(self) -> None:
        """The process may use the piece of the state that was taken longest ago."""
        # A process that died is noticed when its next state is due.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._turns, b"\x00")


def fill(argument: Mapping[str, Any], send: Report) -> dict[str, Any]:
    """Read and hash the states of a :class:`Shelf`, one message for each: its ``size``, or its ``problem``."""
    shelf = msgspec.convert(argument, Shelf)
    objects = ObjectStore(Path(shelf.directory))
    memory = memoryview(mmap.mmap(shelf.memory, BLOCKS * shelf.room))
    taken, free = 0, BLOCKS
    for root in shelf.roots:
        if not free and not os.read(shelf.turns, 1):
            break
        free = max(free, 1)
        begin = (taken % BLOCKS) * shelf.room
        try:
            size = _read_into(memory[begin : begin + shelf.room], objects, root)
        except Unavailable as error:
            send({"problem": str(error)})
            continue
        send({"size": size})
        taken, free = taken + 1, free - 1
    return {}


def _read_into(piece: memoryview, objects: ObjectStore, root: bytes) -> int:
    data = objects.read_state(root, limit=len(piece), room=lambda size: piece[:size])
    check_state(data, root)
    return len(data)
