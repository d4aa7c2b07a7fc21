"""The prover's side of a challenge: what of a run goes into a proof. PROTOCOL section 11.

Opened are the intervals of the sample and what lies between the same stored checkpoints: their states, examples and
salts. Everything else of the run is left where it is. The task's code is run only to get at the examples, where the
data lie.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import UNSET

from polledger.core.challenge import Challenge
from polledger.core.digest import DIGEST_BYTES, sha256
from polledger.core.encoding import SOURCE_LIMITS, encode
from polledger.core.head import open_note
from polledger.core.merkle import Tree, leaf_hash
from polledger.core.proof import ProofHeader
from polledger.core.records import Genesis, Step, TokenRef
from polledger.core.renewal import parse_statement
from polledger.core.replay import Replayer
from polledger.core.seeds import batch_digest
from polledger.core.source import parse_source
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.store.bundle import Contents, Opened, ledger_size
from polledger.store.run import RunDirectory
from polledger.verify.asking import Asked, opened_for, root_at
from polledger.verify.data import DataChecks
from polledger.verify.evidence import Evidence, read_evidence
from polledger.verify.heads import Heads, match_heads, parse_records
from polledger.verify.lineage import Interval, Lineage, build_lineage
from polledger.verify.openings import LEAVES_BYTES
from polledger.verify.replaytask import Engines


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """A run that can be opened: all that was sealed is there, and its secret. Made by :func:`read_run`."""

    run: RunDirectory
    evidence: Evidence
    heads: Heads
    lineage: Lineage

    @property
    def genesis(self) -> Genesis:
        """Record 0."""
        return self.lineage.genesis


def read_run(run: RunDirectory) -> Readable:
    """``run`` as its prover opens it. Raises Unavailable if it is damaged, not sealed, or the secret is not there."""
    evidence = read_evidence(run)
    heads = match_heads(evidence, parse_records(evidence))
    genesis = heads.records[0] if heads.records else None
    if not isinstance(genesis, Genesis) or not heads.whole:
        raise Unavailable(f"{run.path} cannot be opened: `polledger verify` says what is missing or damaged")
    if evidence.openings.problem:
        raise Unavailable(evidence.openings.problem)
    return Readable(run=run, evidence=evidence, heads=heads, lineage=build_lineage(genesis, heads.records))


def check_asked(readable: Readable, challenge: Challenge) -> None:
    """Raise UsageError unless ``challenge`` is about this run, under a head that it signed."""
    if challenge.run != readable.genesis.run:
        raise UsageError(
            f"the challenge is about run {challenge.run.hex()}, this is {readable.genesis.run.hex()}"
        )
    try:
        head = open_note(challenge.note, key=readable.genesis.key)
    except MalformedError as error:
        raise UsageError(f"the head in the challenge is not one of this run: {error}") from None
    if root_at(readable.evidence, head.size) != head.root:
        raise UsageError("the head in the challenge covers other records than this run has")


@dataclass(slots=True, kw_only=True)
class Answer:
    """An answer in the making. ``opened``: the intervals that it opens."""

    readable: Readable
    asked: Asked
    engines: Engines
    compact: bool = False
    sketches: bytes = b""
    opened: tuple[int, ...] = field(init=False)
    _data: DataChecks = field(init=False)

    def __post_init__(self) -> None:
        self.opened = opened_for(self.asked, self.readable.lineage)
        self._data = DataChecks(genesis=self.readable.genesis, openings=self.readable.evidence.openings)

    @property
    def _intervals(self) -> list[Interval]:
        return [self.readable.lineage.intervals[number] for number in self.opened]

    def contents(self) -> Contents:
        """What goes into the file; examples and batches are made while it is written.

        Raises Unavailable where something that is opened is missing, then or while writing.
        """
        run, evidence = self.readable.run, self.readable.evidence
        size = self.readable.heads.sealed
        indices = sorted(self._shown()) if self.compact else range(size)
        return Contents(
            header=ProofHeader(
                v=1,
                run=self.readable.genesis.run,
                challenge=self.asked.digest,
                mode="compact" if self.compact else "full",
                size=size if self.compact else ledger_size(data for _, data in self._records(indices)),
                sketches=sha256(self.sketches) if self.sketches else UNSET,
            ),
            challenge=encode(self.asked.challenge),
            seals=[encode(run.read_seal(number)) for number in run.seals()],
            renewals=[encode(run.read_renewal(number)) for number in run.renewals()],
            records=self._records(indices),
            leaves=b"".join(filter(None, map(evidence.leaf, range(size)))) if self.compact else b"",
            store=run.objects,
            objects=sorted({*self._states(), *self._source(), *self._tokens()}),
            sketches=self.sketches,
            nodes=self._nodes() if self.opened else (),
            examples=self._examples(),
            batches=self._batches(),
        )

    def _records(self, indices: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        for index in indices:
            record = self.readable.evidence.records[index]
            if record is None:
                raise Unavailable(f"record {index} cannot be read")
            yield index, record

    def _shown(self) -> set[int]:
        """What compact mode shows: the frame of the run, the opened steps, and what is in force when they begin."""
        shown = {record.index for record in self.readable.heads.records if not isinstance(record, Step)}
        opened, setters = set(self.opened), dict[tuple[str, int, str], int]()
        for interval in self.readable.lineage.intervals:
            if interval.number in opened:
                shown |= {step.index for step in interval.steps} | set(setters.values())
            for step in interval.steps:
                setters |= dict.fromkeys(_stated(step), step.index)
        return shown

    def _states(self) -> Iterator[bytes]:
        for interval in self._intervals:
            for end in (interval.start, interval.end):
                if end.stored:
                    if not self.readable.run.objects.has(end.root):
                        raise Unavailable(
                            f"the state after step {end.step} is missing: object {end.root.hex()}"
                        )
                    yield end.root

    def _source(self) -> list[bytes]:
        """The task's code, as far as it is there: what was lost is missing in the proof as well."""
        store, task = self.readable.run.objects, self.readable.genesis.task
        try:
            source = parse_source(store.get(task, limit=SOURCE_LIMITS.size))
        except (Unavailable, MalformedError):
            return []
        return [task, *(entry.digest for entry in source.files if store.has(entry.digest))]

    def _tokens(self) -> Iterator[bytes]:
        """Everything that tokens rest on, as far as it is there."""
        run = self.readable.run
        seals = (run.read_seal(number).tokens for number in run.seals())
        renewals = [run.read_renewal(number) for number in run.renewals()]
        names = [*_named(token for tokens in seals for token in tokens)]
        for renewal in renewals:
            statement = parse_statement(renewal.statement)
            revocation = [] if statement.revocation is UNSET else statement.revocation
            names += [*_named(renewal.tokens), statement.root, *revocation]
        return (name for name in names if run.objects.has(name))

    def _nodes(self) -> Sequence[bytes]:
        dataset = self._data.dataset
        if dataset is None:
            return ()
        indices = {
            i
            for interval in self._intervals
            for step in interval.steps
            for i in self._data.indices(step) or ()
        }
        data = bytes(self.readable.run.objects.read(dataset.root, limit=LEAVES_BYTES))
        entries = (data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES))
        tree = Tree([leaf_hash(entry) for entry in entries])
        if (tree.root, tree.size) != (dataset.root, dataset.size):
            raise Unavailable(
                f"object {dataset.root.hex()} (example leaves) is damaged: restore it from a copy"
            )
        return tree.common_proof(indices)

    def _examples(self) -> Iterator[Opened]:
        if self._data.dataset is None or not self.opened:
            return
        seen: set[int] = set()
        with contextlib.ExitStack() as stack:
            for interval, replayer in self._replayers(stack):
                opened = self._data.open(interval, replayer)
                if not opened.authentic:
                    finding = self._data.findings[-1]
                    raise Unavailable(f"{finding.detail}: {finding.remedy or 'the run cannot be opened'}")
                for batch in opened.batches:
                    for index, example in zip(batch.indices or (), batch.examples or (), strict=True):
                        if index not in seen:
                            seen.add(index)
                            yield Opened(number=index, salt=self._salt("example", index), data=example)

    def _replayers(self, stack: contextlib.ExitStack) -> Iterator[tuple[Interval, Replayer]]:
        """Every opened interval with processes pinned to the environment that it ran in."""
        pinned, replayer = None, None
        for interval in self._intervals:
            if replayer is None or pinned != interval.environment:
                stack.close()
                pinned = interval.environment
                replayer = stack.enter_context(self.engines(pinned))
            yield interval, replayer

    def _batches(self) -> Iterator[Opened]:
        with contextlib.ExitStack() as stack:
            for interval, replayer in self._replayers(stack):
                for step in interval.steps:
                    data = b"" if self._data.dataset is not None else self._own_batch(step, replayer)
                    yield Opened(number=step.step, salt=self._salt("batch", step.step), data=data)

    def _own_batch(self, step: Step, replayer: Replayer) -> bytes:
        """A batch that the task made itself: as it was kept, or made again."""
        try:
            data = bytes(self.readable.run.objects.read(step.batch, limit=BATCH_BYTES))
        except Unavailable:
            data = next(iter(replayer.open_batches([(step.step, None)]))).batch or b""
        if batch_digest(self._salt("batch", step.step), [data]) != step.batch:
            raise Unavailable(f"the batch of step {step.step} is not the one that was recorded")
        return data

    def _salt(self, purpose: str, number: int) -> bytes:
        salt = self.readable.evidence.openings.salt("example" if purpose == "example" else "batch", number)
        if salt is None:
            raise Unavailable("the run secret is not there")
        return salt


BATCH_BYTES = 1 << 34
"""Largest kept batch that is opened, 16 GiB: a guard against nonsense, memory is the real bound."""


def _stated(step: Step) -> Iterator[tuple[str, int, str]]:
    """The hyperparameters that a step's record states: optimizer, group, name."""
    for group in [] if step.groups is UNSET else step.groups:
        for name in group.values:
            yield group.optimizer, group.index, name


def _named(tokens: Iterable[TokenRef]) -> Iterator[bytes]:
    for token in tokens:
        yield token.request
        yield token.response
        for digests in (token.chain, token.revocation):
            yield from [] if digests is UNSET else digests
