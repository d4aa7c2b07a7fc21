"""State files as the verifier reads them: always hashed here, whoever they come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polledger.core.encoding import STATE_LIMITS, parse
from polledger.core.state import Entry, FlatState, StateManifest, encode_state, parse_state, state_root
from polledger.errors import MalformedError, Unavailable
from polledger.store.objects import ObjectStore

STATE_BYTES = 1 << 42
"""Largest state file read, 4 TiB: a guard against nonsense, memory is the real bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedState:
    """A state file whose every byte was hashed: ``root`` is what they give."""

    root: bytes
    data: bytes | memoryview
    flat: FlatState


def load_state(objects: ObjectStore, root: bytes) -> LoadedState:
    """The stored state of ``root``. Raises Unavailable naming the object if it is missing or damaged."""
    return check_state(objects.read_state(root, limit=STATE_BYTES), root)


def check_state(data: memoryview, root: bytes) -> LoadedState:
    """The state of ``root`` from the bytes stored under it, hashed again. Raises Unavailable if they are others."""
    try:
        return LoadedState(root=root, data=data, flat=parse_state(data, root=root))
    except MalformedError as error:
        raise Unavailable(_damaged(root, error)) from None


BLOCKS = 2
"""States in memory at a time while many are read."""


def read_states(objects: ObjectStore, roots: Sequence[bytes]) -> Iterator[LoadedState | Unavailable]:
    """The state of each root in turn, every byte hashed, or why it cannot be read.

    Valid as :meth:`StateReader.load` says.
    """
    reader = StateReader(objects)
    for root in roots:
        try:
            yield reader.load(root)
        except Unavailable as error:
            yield error


class StateReader:
    """Reads states into memory that is used again: such that was never touched costs more than the hashing."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._blocks = [bytearray() for _ in range(BLOCKS)]

    def load(self, root: bytes) -> LoadedState:
        """As :func:`load_state`; valid until the state after the next one was read."""
        state = check_state(self._objects.read_state(root, limit=STATE_BYTES, room=self._room), root)
        self._blocks.append(self._blocks.pop(0))
        return state

    def _room(self, size: int) -> memoryview:
        if len(self._blocks[0]) < size:
            self._blocks[0] = bytearray(size)
        return memoryview(self._blocks[0])[:size]


def hash_state(data: bytes | memoryview) -> LoadedState:
    """A state file from a child process, with the root its bytes give. Raises MalformedError."""
    root = state_root(parse_manifest(data))
    return LoadedState(root=root, data=data, flat=parse_state(data, root=root))


def encode_file(flat: FlatState) -> tuple[bytes, bytes]:
    """File and root of ``flat``."""
    encoded = encode_state(flat)
    return b"".join(encoded.chunks()), encoded.root


def parse_manifest(data: bytes | memoryview) -> list[Entry]:
    """The entries that a state file begins with; the data behind them are not looked at. Raises MalformedError."""
    view = memoryview(data).cast("B")
    length = _manifest_length(bytes(view[:8]))
    if len(view) < 8 + length:
        raise MalformedError("a state file is shorter than its manifest")
    manifest: StateManifest = parse(bytes(view[8 : 8 + length]), StateManifest, limits=STATE_LIMITS)
    return manifest.entries


def _manifest_length(head: bytes) -> int:
    length = int.from_bytes(head, "big")
    if len(head) < 8 or length > STATE_LIMITS.size:
        raise MalformedError("a state file has no manifest, or one that is too large")
    return length


def _damaged(root: bytes, error: MalformedError) -> str:
    return f"object {root.hex()} (a state) is damaged: {error}"
