"""Where salts, commitments and opened data come from: the prover's own directory, or a proof. PROTOCOL section 11.

Step 7 asks both the same questions, so that the same sample gets the same verdict.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from polledger.core.digest import DIGEST_BYTES
from polledger.core.merkle import leaf_hash, verify_common
from polledger.core.merkle import root as tree_root
from polledger.core.records import Dataset
from polledger.core.replay import OpenedBatch, Replayer, ReplayFailed
from polledger.core.seeds import example_leaf, salt
from polledger.errors import Unavailable
from polledger.store.objects import ObjectStore
from polledger.store.unpack import Proof

Purpose = Literal["example", "batch"]
Wanted = Sequence[tuple[int, Sequence[int] | None]]

LEAVES_BYTES = 1 << 40
"""Largest list of example leaves read: 32 bytes for each of 2^32 examples and room; memory is the real bound."""

ELSEWHERE = "verify where the run was recorded"
ASK = "ask the prover to open the sample"


class Openings(Protocol):
    """What step 7 takes. A salt lies under no signature: see ``conclusive``."""

    @property
    def problem(self) -> str:
        """Why opened data cannot be checked at all; empty where they can."""
        ...

    @property
    def remedy(self) -> str:
        """What helps where something cannot be opened."""
        ...

    @property
    def conclusive(self) -> bool:
        """Whether a batch that has another digest can contradict its record: not where each salt comes alone."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the commitments of all examples are at hand, which bounds how many there can be."""
        ...

    def salt(self, purpose: Purpose, number: int) -> bytes | None:
        """The salt of an example or a batch; None where it was not opened."""
        ...

    def entry(self, dataset: Dataset, index: int) -> bytes | None:
        """What ``dataset`` commits to at ``index``; None where that was not opened. Raises Unavailable."""
        ...

    def batches(self, wanted: Wanted, replayer: Replayer, *, data_here: bool) -> Iterator[OpenedBatch]:
        """What each step consumes. Raises ReplayFailed or Unavailable where that cannot be opened.

        ``data_here``: whatever the task's own ``batch`` reads is at hand.
        """
        ...


@dataclass(slots=True, kw_only=True)
class RunOpenings:
    """The prover's own directory: salts from its secret, data from the task's code. No ``secret``: see ``problem``."""

    secret: bytes | None
    objects: ObjectStore
    problem: str = ""
    _leaves: bytes | None = None
    _missing: Unavailable | None = None

    @property
    def remedy(self) -> str:
        """The data lie elsewhere."""
        return ELSEWHERE

    @property
    def conclusive(self) -> bool:
        """True: one secret makes all salts, and one that matched once is the run's."""
        return True

    @property
    def whole(self) -> bool:
        """True: the list of leaves lies in the run."""
        return True

    def salt(self, purpose: Purpose, number: int) -> bytes | None:
        """Derived from the run secret."""
        return None if self.secret is None else salt(self.secret, purpose, number)

    def entry(self, dataset: Dataset, index: int) -> bytes | None:
        """From the run's list of leaves, checked against root and size on first use."""
        if self._missing is not None:
            raise self._missing
        if self._leaves is None:
            try:
                self._leaves = _read_leaves(self.objects, dataset)
            except Unavailable as error:
                self._missing = error
                raise
        return self._leaves[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def batches(self, wanted: Wanted, replayer: Replayer, *, data_here: bool) -> Iterator[OpenedBatch]:
        """Made by the task's code."""
        return replayer.open_batches(wanted)


def _read_leaves(objects: ObjectStore, dataset: Dataset) -> bytes:
    """The entries of the data set's leaves, checked against its root and size."""
    data = bytes(objects.read(dataset.root, limit=min(LEAVES_BYTES, dataset.size * DIGEST_BYTES)))
    entries = [data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES)]
    if (
        len(data) != dataset.size * DIGEST_BYTES
        or tree_root([leaf_hash(entry) for entry in entries]) != dataset.root
    ):
        raise Unavailable(
            f"object {dataset.root.hex()} (example leaves) is damaged: it does not give its root"
        )
    return data


@dataclass(slots=True, kw_only=True)
class ProofOpenings:
    """What a proof opens: examples with their salts and one inclusion proof of all of them, and salts of batches."""

    proof: Proof
    _entries: dict[int, bytes] | None = None
    _missing: Unavailable | None = None

    @property
    def problem(self) -> str:
        """Always empty: what is not opened is missing piece by piece."""
        return ""

    @property
    def remedy(self) -> str:
        """Only the prover can open more."""
        return ASK

    @property
    def conclusive(self) -> bool:
        """False: nothing tells a wrong salt from a wrong batch."""
        return False

    @property
    def whole(self) -> bool:
        """False: a proof holds what was opened."""
        return False

    def salt(self, purpose: Purpose, number: int) -> bytes | None:
        """As the proof has it."""
        return self.proof.example_salt(number) if purpose == "example" else self.proof.batch_salt(number)

    def entry(self, dataset: Dataset, index: int) -> bytes | None:
        """One of the opened entries, all of which were shown to be in ``dataset`` together."""
        if self._missing is not None:
            raise self._missing
        if self._entries is None:
            self._entries = dict(self._included(dataset))
        return self._entries.get(index)

    def _included(self, dataset: Dataset) -> Iterator[tuple[int, bytes]]:
        entries = {}
        for index in self.proof.examples():
            opened = self.proof.example(index)
            if opened is not None and index < dataset.size:
                entries[index] = example_leaf(opened.salt, [opened.data])
        nodes = self.proof.nodes
        shown = verify_common(
            leaf_hashes={index: leaf_hash(entry) for index, entry in entries.items()},
            size=dataset.size,
            proof=[nodes[at : at + DIGEST_BYTES] for at in range(0, len(nodes), DIGEST_BYTES)],
            root=dataset.root,
        )
        if not shown:
            self._missing = Unavailable("the opened examples do not lead to the root of the data set")
            raise self._missing
        return iter(entries.items())

    def batches(self, wanted: Wanted, replayer: Replayer, *, data_here: bool) -> Iterator[OpenedBatch]:
        """From the proof; a task's own batches from its code, where that can make them here."""
        for step, indices in wanted:
            if indices is None and data_here:
                yield from replayer.open_batches([(step, None)])
            else:
                yield self._batch(step, indices)

    def _batch(self, step: int, indices: Sequence[int] | None) -> OpenedBatch:
        if indices is None:
            opened = self.proof.batch(step)
            if opened is None or not opened.data:
                raise ReplayFailed(f"the proof does not open the batch of step {step}")
            return OpenedBatch(step=step, indices=None, examples=None, batch=opened.data)
        examples = []
        for index in indices:
            opened = self.proof.example(index)
            if opened is None:
                raise ReplayFailed(f"the proof does not open example {index}, which step {step} consumed")
            examples.append(opened.data)
        return OpenedBatch(step=step, indices=tuple(indices), examples=tuple(examples), batch=None)
