"""Batches on their way to their digests: copied by the training thread, hashed and stored behind it.

A batch belongs to whoever made it, who may change it as soon as the step is over. Copying is several times faster than
SHA-256 and needs memory until the other thread has hashed the copy: of that there is a bounded amount, and where none
is left the batch is hashed on the spot.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from polledger.core.seeds import batch_digest, salt
from polledger.store.objects import ObjectStore
from polledger.training.copying import copy_bytes

MEMORY: Final = 1 << 25
"""Most bytes of copies at a time; one batch may be larger."""

ROOM: Final = 4
"""How many times larger than a batch the memory it is given may be, and SMALL: so many bytes are never too many."""

SMALL: Final = 1 << 16

Chunks = Sequence[bytes | memoryview]


class Batch:
    """The batch that one step consumes. Whoever asks first for its digest computes it; that may happen twice."""

    __slots__ = ("_chunks", "_digest", "_secret", "memory", "size", "step")

    def __init__(self, secret: bytes, step: int, chunks: Chunks, memory: bytearray | None = None) -> None:
        self.step = step
        self.memory = memory
        """Where the chunks lie until the batch is settled, if they were copied."""
        self.size = 0 if memory is None else sum(map(len, chunks))
        """Bytes that were copied."""
        self._chunks: Chunks = chunks
        self._secret = secret
        self._digest: bytes | None = None

    def digest(self) -> bytes:
        """The salted digest; in any thread, until the batch is settled, and afterwards as it was found."""
        # First: they are let go when the digest is there.
        chunks = self._chunks
        if self._digest is None:
            self._digest = batch_digest(salt(self._secret, "batch", self.step), chunks)
        return self._digest

    def settle(self, objects: ObjectStore | None) -> bytes:
        """The digest; stores the batch in ``objects`` and lets go of it. Again: the digest. Raises Unavailable."""
        digest = self.digest()
        if objects is not None and self._chunks:
            objects.put_named(digest, self._chunks)
        self._chunks = ()
        return digest


class BatchCopies:
    """Copies batches and lets go of them. ``objects``: where every batch is stored under its digest, or None.

    :meth:`copy` belongs to one thread, :meth:`settle` to another that comes after it.
    """

    def __init__(self, secret: bytes, *, objects: ObjectStore | None = None) -> None:
        self._secret = secret
        self._objects = objects
        self._free: deque[bytearray] = deque()
        self._held = 0

    def copy(self, step: int, chunks: Chunks) -> Batch:
        """The batch that ``step`` consumes; ``chunks`` may change afterwards.

        Where there is no memory for the copy it is settled now, and Unavailable raised if it cannot be stored.
        """
        memory = self._take(sum(map(len, chunks)))
        if memory is not None:
            return Batch(self._secret, step, [_copied(chunks, memory)], memory)
        batch = Batch(self._secret, step, chunks)
        batch.settle(self._objects)
        return batch

    def settle(self, batch: Batch) -> bytes:
        """The digest of a batch, which is stored where asked to; its memory is free again.

        Raises Unavailable if it cannot be written.
        """
        digest = batch.settle(self._objects)
        memory, batch.memory = batch.memory, None
        if memory is not None:
            self._free.append(memory)
        return digest

    def _take(self, size: int) -> bytearray | None:
        while self._free:
            # The last one given back is the likeliest to be in a cache.
            memory = self._free.pop()
            if size <= len(memory) <= max(ROOM * size, SMALL):
                return memory
            self._held -= len(memory)
        if self._held and self._held + size > MEMORY:
            return None
        self._held += size
        return bytearray(size)


def _copied(chunks: Chunks, memory: bytearray) -> memoryview:
    """``chunks`` one behind the other in ``memory``."""
    view, end = memoryview(memory), 0
    for chunk in chunks:
        begin, end = end, end + len(chunk)
        copy_bytes(chunk, view[begin:end])
    return view[:end].toreadonly()
