"""What is done behind a training, in order: batches and states are hashed and stored, records appended, seals made."""

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from polledger.core.records import Checkpoint, Step
from polledger.core.state import EncodedState, TensorEntry, encode_state, header_size
from polledger.store.blockfile import Disk
from polledger.store.run import RunDirectory
from polledger.training.batchcopies import Batch, BatchCopies
from polledger.training.pipeline import Pipeline
from polledger.training.sealer import Sealer, encode_record
from polledger.training.snapshot import Copy

LARGE = 1 << 20
"""Bytes from which a state is written past the page cache, while it is hashed."""

Told = Callable[[EncodedState], None]
"""Is told how a state was encoded. Its payload is valid during the call."""


@dataclass(slots=True, kw_only=True)
class OpenStep:
    """A step's record that lacks the digest of its batch."""

    record: Step
    batch: Batch


Line: TypeAlias = bytes | OpenStep
"""A record, encoded or as good as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state after ``step`` steps on its way to the record ``index``. ``told`` as :meth:`RunRecorder.checkpoint`.

    ``known``: entries of the tensors that ``copy`` lacks, of a state that is not stored. ``packed``: stored in fewer
    bytes.
    """

    step: int
    index: int
    copy: Copy
    known: Sequence[TensorEntry]
    stored: bool
    packed: bool
    told: Told | None


class Writer:
    """What the other thread does with what it is given."""

    def __init__(
        self, run: RunDirectory, sealer: Sealer, batches: BatchCopies, pipeline: Pipeline, disk: Disk
    ) -> None:
        self._batches = batches
        self._run = run
        self._sealer = sealer
        self._pipeline = pipeline
        self._disk = disk

    def checkpoint(self, records: Sequence[Line], wanted: Snapshot) -> None:
        """Append the records before it, hash and store the state, append its record."""
        self.append(records)
        encoded = self._encode(wanted)
        record = Checkpoint(
            v=1,
            run=self._sealer.run_id,
            index=wanted.index,
            step=wanted.step,
            root=encoded.root,
            stored=wanted.stored,
        )
        self.append([encode_record(record)])
        # A killed process loses the steps since here, not since the last seal.
        self._sealer.flush()
        if wanted.told is not None:
            wanted.told(encoded)

    def _encode(self, wanted: Snapshot) -> EncodedState:
        state = wanted.copy.state
        large = sum(len(tensor.data) for tensor in state.tensors) >= LARGE
        if wanted.stored and large and not wanted.packed:
            return self._encode_large(wanted.copy)
        encoded = encode_state(state, run=self._pipeline.map, known=wanted.known)
        if wanted.stored and wanted.packed:
            self._run.objects.put_packed(encoded.root, encoded.size, list(encoded.parts()))
        elif wanted.stored:
            self._run.objects.put_named(encoded.root, list(encoded.chunks()))
        return encoded

    def _encode_large(self, copy: Copy) -> EncodedState:
        """Hash the state while others write what is hashed already."""
        head, memory = header_size(copy.state), copy.block.memory
        with self._run.objects.new(head=head, disk=self._disk, memory=memory) as new:
            encoded = encode_state(copy.state, write=new.write, run=self._pipeline.map)
            new.finish(encoded.root, encoded.header)
        copy.block.expect(encoded)
        return encoded

    def seal(self, records: Sequence[Line]) -> None:
        """Append the records, seal everything."""
        self.append(records)
        self._sealer.seal()

    def close(self) -> None:
        self._disk.close()
        self._sealer.close()

    def append(self, records: Sequence[Line]) -> None:
        """Hash and store the batches of the steps, append the records to the ledger."""
        # Hashed here or by a training that has to wait; each is settled, in order, below.
        batches = [line.batch for line in records if isinstance(line, OpenStep)]
        collections.deque(self._pipeline.map(Batch.digest, batches), maxlen=0)
        for line in records:
            self._sealer.append(line if isinstance(line, bytes) else self._closed(line))

    def _closed(self, line: OpenStep) -> bytes:
        return encode_record(msgspec.structs.replace(line.record, batch=self._batches.settle(line.batch)))
