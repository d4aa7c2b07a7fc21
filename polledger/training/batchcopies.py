"""Batches on their way to their digests: copied by the training thread, hashed and stored behind it.

A batch belongs to whoever made it, who may change it as soon as the step is over. The copy takes a fifth of the time
of SHA-256 and needs memory until the other thread has hashed it: of that there is a bounded amount, and where none is
left the batch is hashed on the spot.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from polledger.core.nest import OpenNest
from polledger.core.seeds import batch_digest, salt
from polledger.store.objects import ObjectStore
from polledger.training.snapshot import copy_bytes

MEMORY: Final = 1 << 25
"""Most bytes of copies at a time; one batch may be larger."""


class Batch:
    """The batch that one step consumes. Whoever asks first for its digest computes it; that may happen twice."""

    __slots__ = ("_digest", "_secret", "memory", "nest", "step")

    def __init__(self, secret: bytes, step: int, nest: OpenNest, memory: bytearray | None) -> None:
        self.step = step
        self.nest = nest
        self.memory = memory
        """Where the data lie until the batch is settled. None: what is to be done with them was done at once."""
        self._secret = secret
        self._digest: bytes | None = None

    @property
    def held(self) -> int:
        """Bytes of memory that wait for the batch to be settled."""
        return 0 if self.memory is None else len(self.memory)

    def digest(self) -> bytes:
        """The salted digest. In any thread, as long as the data are valid; afterwards if it was computed before."""
        if self._digest is None:
            self._digest = batch_digest(salt(self._secret, "batch", self.step), self.nest.chunks())
        return self._digest


class BatchCopies:
    """Copies batches and lets go of them. ``objects``: where every batch is stored under its digest, or None.

    :meth:`copy` belongs to one thread, :meth:`settle` to another that comes after it.
    """

    def __init__(self, secret: bytes, *, objects: ObjectStore | None = None) -> None:
        self._secret = secret
        self._objects = objects
        self._free: deque[bytearray] = deque()
        self._held = 0

    def copy(self, step: int, nest: OpenNest) -> Batch:
        """The batch that ``step`` consumes; its data may change afterwards. Raises Unavailable as :meth:`settle`."""
        memory = self._take(sum(map(len, nest.data)))
        if memory is None:
            batch = Batch(self._secret, step, nest, None)
            self._store(batch)
            return batch
        copied = OpenNest(structure=nest.structure, tensors=nest.tensors, data=[_copied(nest.data, memory)])
        return Batch(self._secret, step, copied, memory)

    def settle(self, batch: Batch) -> bytes:
        """The digest of a batch, which is stored where asked to; its memory is free again.

        Raises Unavailable if it cannot be written.
        """
        if batch.memory is not None:
            self._store(batch)
            self._free.append(batch.memory)
            batch.memory = None
        return batch.digest()

    def _store(self, batch: Batch) -> None:
        digest = batch.digest()
        if self._objects is not None:
            self._objects.put_named(digest, batch.nest.chunks())

    def _take(self, size: int) -> bytearray | None:
        while self._free:
            # The last one given back is the likeliest to be in a cache.
            memory = self._free.pop()
            if len(memory) >= size:
                return memory
            self._held -= len(memory)
        if self._held and self._held + size > MEMORY:
            return None
        self._held += size
        return bytearray(size)


def _copied(data: Sequence[memoryview], memory: bytearray) -> memoryview:
    """``data`` one behind the other in ``memory``."""
    view, end = memoryview(memory), 0
    for part in data:
        begin, end = end, end + len(part)
        copy_bytes(part, view[begin:end])
    return view[:end].toreadonly()
