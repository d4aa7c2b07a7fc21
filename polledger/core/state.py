"""The state of a run as bytes: entries, roots, and the one file format it is stored in. PROTOCOL section 5.

A state is a skeleton per named object (its structure, with tensors replaced by their paths) and a list of tensors.
Tensor root: RFC 9162 tree over 64 KiB chunks of the canonical bytes. State root: RFC 9162 tree over the encoded
entries, skeletons first, each kind sorted by path. A state file is named by its state root, so reading it checks it:

    u64 length of the manifest ‖ manifest (PL-MP/1) ‖ data of each distinct tensor root, in order of first appearance
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta

from polledger.core.digest import ZERO, Buffer, u64
from polledger.core.dtypes import DTYPE_BYTES, byte_size
from polledger.core.encoding import STATE_LIMITS, encode_unchecked, parse
from polledger.core.merkle import leaf_hash
from polledger.core.merkle import root as tree_root
from polledger.core.records import Count, Digest, StateObject, _Struct
from polledger.core.structure import Structure, check_structure, escape, join, split_floats, unescape
from polledger.errors import MalformedError, UsageError

__all__ = [
    "CHUNK",
    "OUTSIDE",
    "PIECE",
    "EncodedState",
    "Entry",
    "FlatState",
    "Groups",
    "Mapped",
    "SkeletonEntry",
    "StateManifest",
    "TensorData",
    "TensorEntry",
    "encode_state",
    "escape",
    "group_of",
    "header_size",
    "parse_state",
    "scalars_group",
    "split_floats",
    "state_root",
    "tensor_entries",
    "tensor_root",
    "unescape",
]

CHUNK = 65536
"""Bytes per leaf of a tensor's tree: the smallest chunk at which SHA-256 reaches its full speed."""

PIECE = 64 * CHUNK
"""Bytes that are hashed before they are handed on: from 4 MiB on handing on costs nothing beside hashing."""

OUTSIDE = "#0"
"""Segment under which a module's tensors lie that its ``state_dict`` leaves out (non-persistent buffers)."""


class SkeletonEntry(_Struct, frozen=True, kw_only=True, tag_field="type", tag="skeleton"):
    """Structure of one named object; ``path`` is its escaped name."""

    v: Literal[1]
    path: str
    structure: Structure


class TensorEntry(_Struct, frozen=True, kw_only=True, tag_field="type", tag="tensor"):
    """One tensor: ``bytes`` is the length of its canonical bytes and ``root`` the root of their tree."""

    v: Literal[1]
    path: str
    dtype: Annotated[str, Meta(max_length=32)]
    shape: list[Count]
    bytes: Count
    root: Digest


Entry: TypeAlias = SkeletonEntry | TensorEntry


class StateManifest(_Struct, frozen=True, kw_only=True, tag_field="type", tag="state"):
    """What a state file starts with: every entry, in the order in which the state root takes them."""

    v: Literal[1]
    entries: list[Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorData:
    """One tensor's canonical bytes: contiguous, little-endian, row-major; ``data`` has format B and one dimension."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatState:
    """A whole state, in any order. ``data`` may be views of live tensors: copy before training continues."""

    skeletons: list[SkeletonEntry]
    tensors: list[TensorData]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedState:
    """A state ready to be stored: the file is ``header`` followed by ``payload``, and ``root`` names it."""

    root: bytes
    entries: tuple[Entry, ...]
    header: bytes
    payload: tuple[memoryview, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(len(part) for part in self.payload)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The parts of the file in order."""
        yield self.header
        yield from self.payload

    def parts(self) -> Iterator[tuple[int, memoryview]]:
        """The same, each with the bytes of an element, 1 for the header."""
        yield 1, memoryview(self.header)
        widths: dict[bytes, int] = {}
        for entry in self.entries:
            if isinstance(entry, TensorEntry):
                # Of equal data of several dtypes, the first one's.
                widths.setdefault(entry.root, DTYPE_BYTES[entry.dtype])
        yield from zip(widths.values(), self.payload, strict=True)


Mapped: TypeAlias = Callable[
    [Callable[[list[memoryview]], list[bytes]], Iterable[list[memoryview]]], Iterable[list[bytes]]
]
"""Like ``map``: calls a function for every item, anywhere and in any order, and gives the results in order."""


def tensor_root(data: Buffer) -> bytes:
    """Root of the tree over 64 KiB chunks of ``data``, which is not copied; H("") for no bytes at all."""
    return tree_root([leaf for batch in _batches([memoryview(data)]) for leaf in _leaves(batch)])


def _batches(contents: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """The chunks of each of ``contents`` in turn, in batches of at least :data:`PIECE` bytes but for the last."""
    batch: list[memoryview] = []
    size = 0
    for data in contents:
        for start in range(0, len(data), CHUNK):
            batch.append(data[start : start + CHUNK])
            size += len(batch[-1])
            if size >= PIECE:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _leaves(chunks: list[memoryview]) -> list[bytes]:
    return [leaf_hash(chunk) for chunk in chunks]


def state_root(entries: Iterable[Entry]) -> bytes:
    """State root of ``entries`` in any order. Does not check that they belong together."""
    return tree_root([leaf_hash(encode_unchecked(entry)) for entry in _sorted(entries)])


def _sorted(entries: Iterable[Entry]) -> list[Entry]:
    # The order of code points is the order of UTF-8 bytes.
    return sorted(entries, key=lambda entry: (isinstance(entry, TensorEntry), entry.path))


def tensor_entries(tensors: Sequence[TensorData]) -> list[TensorEntry]:
    """The entry of each tensor, in the same order. Tensors that share one ``data`` object are hashed once."""
    payload = _Payload(tensors)
    return [_entry(tensor, payload.root(tensor.data)) for tensor in tensors]


def _entry(tensor: TensorData, root: bytes) -> TensorEntry:
    return TensorEntry(
        v=1,
        path=tensor.path,
        dtype=tensor.dtype,
        shape=list(tensor.shape),
        bytes=len(tensor.data),
        root=root,
    )


class _Payload:
    """The distinct data of ``tensors``, hashed by ``run``; ``write`` gets each in order, as it is hashed."""

    def __init__(
        self,
        tensors: Sequence[TensorData],
        write: Callable[[memoryview], None] | None = None,
        run: Mapped = map,
    ) -> None:
        self.parts: dict[bytes, memoryview] = {}
        # Valid as keys: whoever has the roots has the tensors.
        contents = {id(tensor.data): tensor.data for tensor in tensors}
        self._leaves = chain.from_iterable(run(_leaves, _batches(contents.values())))
        self._write = write
        self._begun: set[tuple[int, bytes]] = set()
        self._roots = {key: self._add(data) for key, data in contents.items()}

    def root(self, data: memoryview) -> bytes:
        """The tensor root of ``data``, one of the tensors'."""
        return self._roots[id(data)]

    def _add(self, data: memoryview) -> bytes:
        """Take the leaf hashes of ``data``, the next ones, and hand it on."""
        leaves = list(islice(self._leaves, min(1, len(data))))
        # Whatever equals one before begins like it: all else can be written before it is hashed to its end.
        begin = (len(data), b"".join(leaves))
        write = None if begin in self._begun else self._write
        self._begun.add(begin)
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            leaves += islice(self._leaves, -(-(start + len(piece)) // CHUNK) - len(leaves))
            if write is not None:
                write(piece)
        root = tree_root(leaves)
        if root not in self.parts:
            self.parts[root] = data
            if self._write is not None and write is None:
                self._write(data)
        return root


def header_size(flat: FlatState) -> int:
    """Bytes of :attr:`EncodedState.header`, known before anything is hashed."""
    entries = [*flat.skeletons, *(_entry(tensor, ZERO) for tensor in flat.tensors)]
    return len(_header([encode_unchecked(entry) for entry in entries]))


def encode_state(
    flat: FlatState,
    *,
    write: Callable[[memoryview], None] | None = None,
    run: Mapped = map,
    known: Sequence[TensorEntry] = (),
) -> EncodedState:
    """The root, entries and file of ``flat``. Copies no tensor. Raises UsageError if the manifest is too large.

    ``write`` gets the payload from front to back, each piece as soon as it is hashed; ``run`` may hash with several
    threads. ``known``: entries of further tensors of the state, whose data the payload lacks. Does not check that
    skeletons and tensors belong together: :func:`parse_state` does.
    """
    tensors = sorted(flat.tensors, key=lambda tensor: tensor.path)
    payload = _Payload(tensors, write, run)
    described = [_entry(tensor, payload.root(tensor.data)) for tensor in tensors]
    entries = _sorted([*flat.skeletons, *described, *known])
    encoded = [encode_unchecked(entry) for entry in entries]
    return EncodedState(
        root=tree_root([leaf_hash(data) for data in encoded]),
        entries=tuple(entries),
        header=_header(encoded),
        payload=tuple(payload.parts.values()),
    )


def _header(encoded: Sequence[bytes]) -> bytes:
    manifest = b"".join(
        [b"\x83\xa7entries", _array_header(len(encoded)), *encoded, b"\xa4type\xa5state\xa1v\x01"]
    )
    if len(manifest) > STATE_LIMITS.size:
        raise UsageError(
            f"the structure of the state takes {len(manifest)} bytes, at most {STATE_LIMITS.size}"
        )
    return u64(len(manifest)) + manifest


def _array_header(length: int) -> bytes:
    if length < 16:
        return bytes([0x90 | length])
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def parse_state(data: Buffer, *, root: bytes, rehash: bool = True) -> FlatState:
    """The state whose root is ``root``, from the bytes of its file; the only reader of state files.

    Everything is hashed again: what comes back is exactly what ``root`` commits to. Skeletons and tensors are in
    order and refer to each other completely. ``data`` is not copied. Raises MalformedError otherwise.

    ``rehash=False`` leaves the data of the tensors out, not their entries: only for what was hashed already, and that
    nobody has written to since.
    """
    view = memoryview(data).cast("B")
    manifest, rest = _split_manifest(view)
    entries = manifest.entries
    if entries != _sorted(entries):
        raise MalformedError("the entries of a state are not in order")
    if state_root(entries) != root:
        raise MalformedError("the entries of a state do not give its root")
    skeletons = [entry for entry in entries if isinstance(entry, SkeletonEntry)]
    tensors = [entry for entry in entries if isinstance(entry, TensorEntry)]
    _check_references(skeletons, tensors)
    return FlatState(skeletons=skeletons, tensors=_read_tensors(tensors, rest, rehash=rehash))


def _split_manifest(view: memoryview) -> tuple[StateManifest, memoryview]:
    length = int.from_bytes(view[:8], "big")
    if len(view) < 8 or length > min(len(view) - 8, STATE_LIMITS.size):
        raise MalformedError("a state file is shorter than its manifest, or the manifest is too large")
    manifest: StateManifest = parse(bytes(view[8 : 8 + length]), StateManifest, limits=STATE_LIMITS)
    return manifest, view[8 + length :]


def _check_references(skeletons: list[SkeletonEntry], tensors: list[TensorEntry]) -> None:
    """Each tensor is referred to once, from the place its path names, and nothing else is."""
    names = [skeleton.path for skeleton in skeletons]
    if len(set(names)) != len(names) or any(not name or "/" in name for name in names):
        raise MalformedError("the names of a state's objects are not unique segments")
    referred = []
    for skeleton in skeletons:
        for path, leaf in check_structure(skeleton.structure, skeleton.path, ordered=True):
            if leaf[0] in ("array", "scalar") or (leaf[0] == "tensor" and leaf[1] != path):
                raise MalformedError(f"{path}: not a reference to the tensor of this place")
            if leaf[0] == "tensor":
                referred.append(path)
    if sorted(referred) != [tensor.path for tensor in tensors]:
        raise MalformedError("the tensors of a state are not those its structure refers to")


def _read_tensors(entries: list[TensorEntry], rest: memoryview, *, rehash: bool) -> list[TensorData]:
    found: dict[bytes, memoryview] = {}
    position = 0
    tensors = []
    for entry in entries:
        if byte_size(entry.dtype, entry.shape) != entry.bytes:
            raise MalformedError(f"{entry.path}: {entry.bytes} bytes do not fit its dtype and shape")
        if entry.root not in found:
            found[entry.root] = rest[position : position + entry.bytes]
            position += entry.bytes
            if rehash and tensor_root(found[entry.root]) != entry.root:
                raise MalformedError(f"{entry.path}: the data do not give the tensor's root")
        data = found[entry.root]
        if len(data) != entry.bytes:
            raise MalformedError(f"{entry.path}: {entry.bytes} bytes under a root of {len(data)}")
        tensors.append(TensorData(path=entry.path, dtype=entry.dtype, shape=tuple(entry.shape), data=data))
    if position != len(rest):
        raise MalformedError(f"{len(rest) - position} bytes after the last tensor of a state")
    return tensors


class Groups:
    """Answers to which group of PROTOCOL section 10 a tensor of a state belongs."""

    def __init__(self, objects: Iterable[StateObject]) -> None:
        self._kinds: dict[str, str] = {}
        self._buffers: set[str] = set()
        for described in objects:
            self._kinds[escape(described.name)] = described.kind
            if described.buffers is not UNSET:
                self._buffers.update(described.buffers)

    def of(self, path: str) -> str:
        """``name/parameters`` or ``name/buffers`` of a module, ``name/SLOT`` of an optimizer, otherwise ``name``.

        Raises UsageError if the path belongs to no object.
        """
        name, *rest = path.split("/")
        kind = self._kinds.get(name)
        if kind is None:
            raise UsageError(f"{path}: belongs to no object of the state")
        if kind == "module":
            return join(name, "buffers" if path in self._buffers else "parameters")
        if kind == "optimizer" and len(rest) >= 3 and rest[0] == "state":
            return join(name, rest[2])
        return name


def group_of(path: str, objects: Sequence[StateObject]) -> str:
    """:meth:`Groups.of` for one path; for many, make one :class:`Groups`."""
    return Groups(objects).of(path)


def scalars_group(name: str) -> str:
    """The group of the floats inside the skeleton of the object at path ``name``."""
    return join(name, "scalars")
