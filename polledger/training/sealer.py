"""The growing end of a run: appends records, keeps the tree, signs heads. PROTOCOL sections 2 and 7.

Crash order of a seal: objects, then records with one fdatasync, then the manifest, then the authorities.
Time and memory per record do not grow with the ledger.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polledger.core.digest import ZERO
from polledger.core.encoding import encode_unchecked
from polledger.core.head import Head, SignatureInvalid, open_note, sign_head
from polledger.core.merkle import Frontier, chainpoint_node, leaf_hash
from polledger.core.records import Record, Seal
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.store.ledger import LedgerWriter, read_ledger
from polledger.store.run import RunDirectory

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Stamp = Callable[[int, Head], None]
"""Asks for timestamps over the head of a durable seal. Must neither wait for a network nor raise."""


def encode_record(record: Record) -> bytes:
    """Canonical bytes of a record whose values are known to be valid; for others use the gate.

    What comes from a task (config, names, metrics) was checked on its way in.
    """
    return encode_unchecked(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """A run's end as it was found: the sealer to go on with, every record, the last head and its seal's number."""

    sealer: "Sealer"
    records: Sequence[bytes]
    head: Head
    seal: int


class Sealer:
    """Appends records to one run and seals them. For one thread of the process that holds the run's lock."""

    def __init__(
        self, run: RunDirectory, run_id: bytes, key: "Ed25519PrivateKey", *, stamp: Stamp | None = None
    ) -> None:
        self.run_id = run_id
        self._run = run
        self._key = key
        self._stamp = stamp
        self._tree = Frontier()
        self._chainpoint = Frontier(chainpoint_node)
        self._previous = ZERO
        self._seals = 0
        self.sealed = 0
        """How many records the last seal covers."""
        self._ledger: LedgerWriter | None = None

    @classmethod
    def create(
        cls, run: RunDirectory, run_id: bytes, key: "Ed25519PrivateKey", *, stamp: Stamp | None = None
    ) -> "Sealer":
        """Begin a ledger. Records without a seal over them, left by an earlier attempt, are dropped.

        Raises UsageError if the run has a seal, Unavailable if the ledger cannot be written.
        """
        if run.seals():
            raise UsageError(
                f"{run.path} holds a run already: choose another one (seal --resume continues that one)"
            )
        sealer = cls(run, run_id, key, stamp=stamp)
        sealer._ledger = LedgerWriter.open(run.ledger_path, truncate_to=0)
        return sealer

    @classmethod
    def reopen(cls, run: RunDirectory, key: "Ed25519PrivateKey", *, stamp: Stamp | None = None) -> Reopened:
        """Continue a sealed run: check its last head against the records, cut a torn tail, rebuild the tree.

        Raises UsageError if the head is not signed by ``key``, Unavailable if records that were sealed are
        damaged or differ from the head.
        """
        head, seals = _last_head(run, key)
        sealer = cls(run, head.run, key, stamp=stamp)
        sealer._ledger = LedgerWriter.open(run.ledger_path, sealed=head.size)
        records: list[bytes] = []
        for record in read_ledger(run.ledger_path).records:
            if record is None:
                raise Unavailable(f"{run.ledger_path}: record {len(records)} cannot be read")
            records.append(record)
            sealer._grow(record)
            if len(records) == head.size:
                sealer._check(head)
        sealer._previous, sealer._seals, sealer.sealed = head.digest(), seals, head.size
        return Reopened(sealer=sealer, records=records, head=head, seal=seals - 1)

    @property
    def size(self) -> int:
        """How many records there are: the index of the next one."""
        return self._tree.size

    def append(self, record: bytes) -> int:
        """Append an encoded record and return its index. Not durable before the next :meth:`seal`."""
        if self._ledger is None:
            raise UsageError("the ledger is closed")
        index = self._ledger.append(record)
        self._grow(record)
        return index

    def flush(self) -> None:
        """Let what was appended outlive this process, if not the machine. Raises Unavailable."""
        if self._ledger is not None:
            self._ledger.flush()

    def head(self) -> Head:
        """The tree head over everything so far, not yet signed. Its cost does not grow with the ledger."""
        return Head(
            run=self.run_id,
            size=self.size,
            root=self._tree.root(),
            chainpoint=self._chainpoint.root(),
            previous=self._previous,
        )

    def seal(self) -> Head | None:
        """Make everything so far durable, sign the head over it and ask for timestamps; None if nothing is new.

        Raises Unavailable if it cannot be written; the previous seal is then still the last one.
        """
        if self._ledger is None or self.size == self.sealed:
            return None
        self._run.objects.sync()
        self._ledger.sync()
        head = self.head()
        index = self._seals
        self._run.write_seal(Seal(v=1, index=index, note=sign_head(head, self._key), tokens=[]))
        self._previous, self._seals, self.sealed = head.digest(), index + 1, head.size
        if self._stamp is not None:
            self._stamp(index, head)
        return head

    def close(self) -> None:
        """Close the ledger without sealing. Idempotent."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _grow(self, record: bytes) -> None:
        leaf = leaf_hash(hashlib.sha256(record).digest())
        self._tree.append(leaf)
        self._chainpoint.append(leaf)

    def _check(self, head: Head) -> None:
        if (self._tree.root(), self._chainpoint.root()) != (head.root, head.chainpoint):
            raise Unavailable(
                f"{self._run.ledger_path} does not match its last seal over {head.size} records: "
                "restore the file from a copy"
            )


def _last_head(run: RunDirectory, key: "Ed25519PrivateKey") -> tuple[Head, int]:
    """The newest head and how many seals there are."""
    numbers = run.seals()
    if not numbers:
        raise UsageError(f"{run.path} has no seal to continue from")
    last = numbers[-1]
    try:
        note = run.read_seal(last).note
        return open_note(note, key=key.public_key().public_bytes_raw()), last + 1
    except SignatureInvalid:
        raise UsageError(f"{run.path} was begun with another key: give the one that signed it") from None
    except MalformedError as error:
        raise Unavailable(str(error)) from None
