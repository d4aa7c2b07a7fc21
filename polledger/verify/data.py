"""Step 7: what opened steps consumed, against what genesis and the records commit to. PROTOCOL section 10, step 7.

Examples come from the data where the run was recorded, or from a proof. One that does not match the data set's root
may be the wrong file: that is ``unverifiable``. Once examples are authenticated, a batch that differs is the record's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import UnsetType

from polledger.core.config import decode_config
from polledger.core.order import SIZE_MAX, Order
from polledger.core.records import Dataset, Genesis, Step
from polledger.core.replay import OpenedBatch, Replayer
from polledger.core.report import Finding
from polledger.core.seeds import batch_digest, example_leaf, training_seed
from polledger.core.tolerance import Outcome
from polledger.errors import MalformedError, Unavailable, UsageError
from polledger.verify.domains import DomainCheck
from polledger.verify.knowndata import NAME as KNOWN
from polledger.verify.knowndata import KnownData
from polledger.verify.lineage import Interval
from polledger.verify.openings import Openings, Wanted

NAME = "inclusion"

BATCH_MAX = 131_072
"""Most examples of one batch that are opened: what a step record can list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedInterval:
    """Batches of one interval. ``authentic``: every example matches the committed data set (or none is committed)."""

    batches: tuple[OpenedBatch, ...]
    authentic: bool


@dataclass(slots=True, kw_only=True)
class DataChecks:
    """Opens and checks what steps consumed, collecting findings.

    ``known``: digests of data sets, if it has to be one of these. ``data_here``: see :class:`Openings`.
    """

    genesis: Genesis
    openings: Openings
    data_here: bool = True
    known: Sequence[str] = ()
    findings: list[Finding] = field(default_factory=list)
    secret_proven: bool = False
    """Some committed example or batch matched under the run secret: one that does not match now is not its damage."""
    domains: DomainCheck = field(init=False)
    known_data: KnownData | None = None
    _order: Order | None = None
    _batch_size: int = 0
    _reported: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        declared = self.genesis.domains
        self.domains = DomainCheck([] if isinstance(declared, UnsetType) else declared)
        dataset = self.dataset
        size = decode_config(self.genesis.config).get("batch_size")
        # Genesis may state any size: nothing that only its claim makes large is computed.
        if dataset is not None and type(size) is int and 1 <= size <= BATCH_MAX and dataset.size <= SIZE_MAX:
            self._batch_size = size
            self._order = Order(self.training_seed, dataset.size)
        if self.known and dataset is not None:
            self.known_data = KnownData(known=self.known, findings=self.findings)

    @property
    def dataset(self) -> Dataset | None:
        """The committed data set, if there is one."""
        dataset = self.genesis.dataset
        return None if isinstance(dataset, UnsetType) else dataset

    @property
    def training_seed(self) -> int:
        """The seed s of PROTOCOL section 6."""
        return training_seed(self.genesis.seed, self.genesis.key if self.genesis.bound else None)

    def open(self, interval: Interval, replayer: Replayer) -> OpenedInterval:
        """Get what each step of ``interval`` consumes and check it against the data set's root.

        Raises ReplayFailed if the task's code cannot open it.
        """
        wanted = [(step.step, self.indices(step)) for step in interval.steps]
        self._read_known(replayer)
        authentic = True
        batches = []
        opened = self.openings.batches(wanted, replayer, data_here=self.data_here)
        for step, batch in zip(interval.steps, opened, strict=True):
            batches.append(batch)
            authentic = self._check_examples(step, batch, interval.number) and authentic
        return OpenedInterval(batches=tuple(batches), authentic=authentic)

    def _read_known(self, replayer: Replayer) -> None:
        if self.known_data is None or self._order is None:
            return
        # Genesis may state any size: the list of leaves, which has to be here and of that size, bounds what is read.
        if not self.openings.whole:
            self._once(
                "the policy lists known data sets, and a proof holds only the opened examples",
                remedy="verify in the prover's own run directory, or leave data.known out of the policy",
            )
        elif self._entry(0) is not None:
            self.known_data.read(replayer, self._order, self._batch_size)

    def indices(self, step: Step) -> tuple[int, ...] | None:
        """The examples that ``step`` consumed; None for a task that makes its own batches."""
        indices, problems = self._consumed(step)
        for problem in problems:
            self._add("fail", problem, step)
        return indices

    def undisputed(self, interval: Interval) -> Wanted | None:
        """What each step of ``interval`` consumed, without finding anything; None where there is something to find."""
        if self.openings.problem or not interval.shown:
            return None
        consumed = [(step.step, *self._consumed(step)) for step in interval.steps]
        if any(problems for _, _, problems in consumed):
            return None
        return [(number, indices) for number, indices, _ in consumed]

    def _consumed(self, step: Step) -> tuple[tuple[int, ...] | None, list[str]]:
        """The examples that ``step`` consumed, and what contradicts that it did."""
        if self.dataset is None:
            return None, []
        expected = self._order.step(step.step, self._batch_size) if self._order is not None else None
        if isinstance(step.examples, UnsetType):
            return None if expected is None else tuple(expected), []
        # Whoever makes batches of its own commits no data set: here the order is the seed's, whatever the kind.
        problems = []
        if expected is not None and step.examples != expected:
            problems.append("the recorded examples do not follow from the seed")
        if any(index >= self.dataset.size for index in step.examples):
            problems.append(f"an example beyond the {self.dataset.size} of the data set")
            return () if expected is None else tuple(expected), problems
        return tuple(step.examples), problems

    def _check_examples(self, step: Step, batch: OpenedBatch, interval: int) -> bool:
        """True when every example of ``batch`` is a committed one, or no data set is committed."""
        if batch.examples is None or batch.indices is None:
            return self.dataset is None or self._unshown(step, interval)
        for index, example in zip(batch.indices, batch.examples, strict=True):
            committed, salt = self._entry(index), self.openings.salt("example", index)
            if committed is None or salt is None:
                return False
            if example_leaf(salt, [example]) != committed:
                self._add(
                    "unverifiable",
                    f"example {index} is not the one that was committed",
                    step,
                    interval=interval,
                    remedy="give the data the run was trained on with --input NAME=PATH, or restore the run secret",
                )
                return False
            self.secret_proven = True
            self._check_domain(step, index, example, interval)
        return self.known_data is None or self.known_data.check(batch)

    def _unshown(self, step: Step, interval: int) -> bool:
        """False: a batch that the task made itself cannot be shown to come from the data set that genesis names."""
        detail = (
            f"step {step.step}: a data set is committed, and nothing shows that its examples were consumed"
        )
        self._add(
            "unverifiable", detail, step, interval=interval, remedy="none: the run has to be sealed anew"
        )
        return False

    def _check_domain(self, step: Step, index: int, example: bytes, interval: int) -> None:
        try:
            problem = self.domains.check(example)
        except (MalformedError, UsageError, ValueError) as error:
            self._add("unverifiable", f"example {index} cannot be read: {error}", step, interval=interval)
            return
        if problem:
            self._add("fail", f"example {index}: {problem}", step, interval=interval)

    def _entry(self, index: int) -> bytes | None:
        """What is committed at ``index``; None, and a finding, where that cannot be told."""
        if self.dataset is None:
            return None
        try:
            return self.openings.entry(self.dataset, index)
        except Unavailable as error:
            self._once(
                str(error), remedy="restore the list of example leaves, or ask the prover for another proof"
            )
            return None

    def batch_matches(self, step: Step, batch: bytes) -> bool:
        """True when ``batch`` (canonical nest as consumed) has the digest that ``step`` records. Remembered."""
        matches = self.has_digest(step, batch)
        self.secret_proven = self.secret_proven or matches
        return matches

    def has_digest(self, step: Step, batch: bytes) -> bool:
        """The same, and nothing remembered."""
        salt = self.openings.salt("batch", step.step)
        return salt is not None and batch_digest(salt, [batch]) == step.batch

    def report_batch(self, step: Step, interval: int, *, confirmed: bool, why: str) -> None:
        """Record that the batch of ``step`` is not the recorded one; ``confirmed`` makes it a contradiction."""
        if not self.openings.conclusive:
            confirmed, why = False, why or "or its salt is another one"
        detail = f"step {step.step}: the batch is not the recorded one{f' ({why})' if why else ''}"
        self._add("fail" if confirmed else "unverifiable", detail, step, interval=interval)

    def report_closed(self, why: str, *, inputs: bool) -> None:
        """Record that examples or batches cannot be opened here; ``inputs``: the task reads some of the verifier's."""
        here = inputs and self.openings.whole
        remedy = (
            "give the data the run was trained on with --input NAME=PATH" if here else self.openings.remedy
        )
        self._once(f"the data cannot be opened: {why}", remedy=remedy)

    def readable(self) -> bool:
        """True when opened data can be checked at all. Otherwise that is reported once."""
        problem = self.openings.problem
        if problem:
            remedy = "verify in the prover's own run directory, or ask the prover to open the sample"
            self._once(f"opened data cannot be checked: {problem}", remedy=remedy)
        return not problem

    def _once(self, detail: str, *, remedy: str) -> None:
        if detail not in self._reported:
            self._reported.add(detail)
            self.findings.append(
                Finding(step=7, name=NAME, outcome="unverifiable", detail=detail, remedy=remedy)
            )

    def _add(
        self,
        outcome: Outcome,
        detail: str,
        step: Step,
        *,
        interval: int | None = None,
        remedy: str | None = None,
    ) -> None:
        if outcome == "unverifiable" and remedy is None:
            remedy = self.openings.remedy
        self.findings.append(
            Finding(
                step=7,
                name=NAME,
                outcome=outcome,
                detail=detail,
                record=step.index,
                interval=interval,
                remedy=remedy,
            )
        )

    def summary(self, *, steps: int) -> Iterator[Finding]:
        """The closing findings of step 7; ``steps`` went through every check, 0 if one did not."""
        if not any(finding.blocks for finding in self.findings) and steps:
            detail = f"{steps} opened steps: {self._source()}{self._fields()}"
            yield Finding(step=7, name=NAME, outcome="pass", detail=detail)
        if self.dataset is None:
            detail = "batches are committed, but their data have no committed origin"
            if not self._made_here:
                detail += ": the prover gave them, the task's code did not make them here"
            yield Finding(step=7, name="data.origin", outcome="unverifiable", detail=detail)
            if self.known:
                detail = "the policy names data sets, and the run commits to none"
                yield Finding(step=7, name=KNOWN, outcome="unverifiable", detail=detail)

    @property
    def _made_here(self) -> bool:
        """Whether the task's own batches were made again here: a proof brings them where their data are not at hand."""
        return self.openings.whole or self.data_here

    def _source(self) -> str:
        if self.dataset is not None:
            return "their examples are in the committed data set"
        if self._made_here:
            return "their batches re-run equal"
        return "their batches, as the prover gave them, have the recorded digests"

    def _fields(self) -> str:
        parts = (
            [f"{len(self.domains.seen)} declared fields within their domains"] if self.domains.seen else []
        )
        parts += [f"field {path!r} holds {seen}" for path, seen in sorted(self.domains.observed.items())[:8]]
        parts += [
            f"declared field {path!r} is in no example" for path in self.domains.unseen[:8] if self.dataset
        ]
        return f"; {'; '.join(parts)}" if parts else ""
