"""From authenticated records to the final lineage: which intervals count, and in which environment each ran.

PROTOCOL sections 4 and 10, step 4. Abandoned stretches drop out; whatever contradicts genesis or a resume record is
a finding of step 4 that names the record.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from msgspec import UnsetType

from polledger.core.encoding import from_real
from polledger.core.records import (
    AnyRecord,
    Checkpoint,
    Environment,
    Final,
    Genesis,
    GroupValues,
    Resume,
    Step,
)
from polledger.core.report import Finding

Values = dict[tuple[str, int], dict[str, float | int | bool]]
"""Numeric hyperparameters in force, by (optimizer, parameter group)."""

FINDINGS_KEPT = 20
"""Findings of one kind that a report lists: the first ones show the defect, a million would hide it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The steps between two consecutive checkpoints of the final lineage, and the environment they ran in."""

    number: int
    start: Checkpoint
    end: Checkpoint
    steps: tuple[Step, ...]
    environment: Environment

    @property
    def records(self) -> tuple[int, ...]:
        """Indices of every record that replaying this interval opens."""
        return (self.start.index, *(step.index for step in self.steps), self.end.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What remains when abandoned stretches are dropped. ``complete``: it runs from step 0 to a valid ``final``."""

    genesis: Genesis
    intervals: tuple[Interval, ...]
    checkpoints: tuple[Checkpoint, ...]
    final: Final | None
    resumes: tuple[Resume, ...]
    abandoned: int
    complete: bool
    findings: tuple[Finding, ...]


def is_checkpoint_step(genesis: Genesis, step: int) -> bool:
    """True when genesis demands a checkpoint after ``step`` steps: 0, each up to warm, multiples of k, the end."""
    return step <= genesis.warm or step % genesis.every == 0 or step == genesis.steps


def build_lineage(genesis: Genesis, records: Sequence[AnyRecord]) -> Lineage:
    """The final lineage of ``records``, all authenticated and starting with ``genesis``. Never raises."""
    surviving, dropped = _drop_abandoned(records)
    walk = _Walk(genesis=genesis)
    for record in surviving[1:]:
        walk.take(record)
    findings = [*dropped, *walk.findings]
    resumes = tuple(record for record in surviving if isinstance(record, Resume))
    return Lineage(
        genesis=genesis,
        intervals=tuple(walk.intervals),
        checkpoints=tuple(walk.checkpoints),
        final=walk.final,
        resumes=resumes,
        abandoned=len(records) - len(surviving),
        complete=walk.final is not None and not findings,
        findings=tuple(findings[:FINDINGS_KEPT]),
    )


def _fail(record: int, detail: str, *, expected: str | None = None, found: str | None = None) -> Finding:
    return Finding(
        step=4, name="structure", outcome="fail", detail=detail, record=record, expected=expected, found=found
    )


def _drop_abandoned(records: Sequence[AnyRecord]) -> tuple[list[AnyRecord], list[Finding]]:
    surviving: list[AnyRecord] = []
    findings: list[Finding] = []
    for record in records:
        if isinstance(record, Resume):
            findings += _apply_resume(surviving, record)
        surviving.append(record)
    return surviving, findings


def _apply_resume(surviving: list[AnyRecord], resume: Resume) -> list[Finding]:
    """Cut ``surviving`` back to the checkpoint that ``resume`` names."""
    at = _position(surviving, resume.source)
    if at is None or not isinstance(surviving[at], Checkpoint):
        return [
            _fail(
                resume.index, f"resumes from record {resume.source}, which is no checkpoint of this lineage"
            )
        ]
    ended = next((record for record in surviving[at + 1 :] if isinstance(record, Final)), None)
    if ended is not None:
        return [
            _fail(resume.index, f"abandons the final record {ended.index}: a finished run is not resumed")
        ]
    dropped = [record.index for record in surviving[at + 1 :] if not isinstance(record, Resume)]
    del surviving[at + 1 :]
    first, last = resume.first, resume.last
    if isinstance(first, UnsetType) or isinstance(last, UnsetType):
        if dropped:
            text = f"drops records {dropped[0]} to {dropped[-1]} without naming them as abandoned"
            return [_fail(resume.index, text)]
        return []
    if not resume.source < first <= last < resume.index:
        return [_fail(resume.index, f"abandons records {first} to {last}, not between its source and itself")]
    unnamed = [index for index in dropped if not first <= index <= last]
    if unnamed:
        return [_fail(resume.index, f"drops record {unnamed[0]} without naming it as abandoned")]
    return []


def _position(surviving: Sequence[AnyRecord], index: int) -> int | None:
    # Records survive in ascending order of index, and the wanted one is near the end.
    for at in range(len(surviving) - 1, -1, -1):
        if surviving[at].index == index:
            return at
        if surviving[at].index < index:
            return None
    return None


@dataclass(slots=True, kw_only=True)
class _Walk:
    """One pass over the surviving records, checking what comes next."""

    genesis: Genesis
    environment: Environment = field(init=False)
    position: int = 0
    checkpoint: Checkpoint | None = None
    steps: list[Step] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    final: Final | None = None
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.environment = self.genesis.environment

    def take(self, record: AnyRecord) -> None:
        if self.final is not None:
            self._fail(record.index, "a record follows the final one")
        match record:
            case Step():
                self._step(record)
            case Checkpoint():
                self._checkpoint(record)
            case Resume():
                self.environment = record.environment
            case Final():
                self._final(record)
            case _:
                self._fail(record.index, "a second genesis")

    def _fail(self, record: int, detail: str, **values: str) -> None:
        if len(self.findings) < FINDINGS_KEPT:
            self.findings.append(_fail(record, detail, **values))

    def _step(self, record: Step) -> None:
        if self.checkpoint is None:
            self._fail(record.index, "a step before the checkpoint of step 0")
        elif self.checkpoint.step != self.position and is_checkpoint_step(self.genesis, self.position):
            self._fail(record.index, f"the checkpoint after step {self.position} is missing")
        if record.step != self.position:
            self._fail(
                record.index, "steps are not contiguous", expected=str(self.position), found=str(record.step)
            )
        if self.position >= self.genesis.steps:
            self._fail(record.index, f"a step beyond the {self.genesis.steps} of genesis")
        self.position = record.step + 1
        self.steps.append(record)

    def _checkpoint(self, record: Checkpoint) -> None:
        if record.step != self.position:
            self._fail(
                record.index,
                "a checkpoint does not follow its step",
                expected=str(self.position),
                found=str(record.step),
            )
        elif not is_checkpoint_step(self.genesis, record.step):
            self._fail(record.index, f"a checkpoint after step {record.step}, where genesis has none")
        if self.checkpoint is not None:
            self._close_interval(self.checkpoint, record)
        self.checkpoint = record
        self.checkpoints.append(record)
        self.position = record.step
        self.steps = []

    def _close_interval(self, start: Checkpoint, end: Checkpoint) -> None:
        numbers = [step.step for step in self.steps]
        if start.step == end.step or numbers != list(range(start.step, end.step)):
            self._fail(end.index, f"no contiguous steps between the checkpoints {start.step} and {end.step}")
            return
        self.intervals.append(
            Interval(
                number=len(self.intervals),
                start=start,
                end=end,
                steps=tuple(self.steps),
                environment=self.environment,
            )
        )

    def _final(self, record: Final) -> None:
        last = self.checkpoint
        if last is None or record.checkpoint != last.index:
            self._fail(
                record.index,
                "final does not name the last checkpoint",
                expected=str(last.index if last else "none"),
                found=str(record.checkpoint),
            )
        if self.steps or record.steps != self.position or record.steps != self.genesis.steps:
            self._fail(
                record.index,
                "the number of steps is not the one of genesis",
                expected=str(self.genesis.steps),
                found=str(record.steps if record.steps != self.genesis.steps else self.position),
            )
        self.final = record


def changed_values(values: Values, groups: list[GroupValues] | UnsetType) -> Values:
    """``values`` with the recorded changes of one step applied. The argument is not modified."""
    if isinstance(groups, UnsetType):
        return values
    merged = dict(values)
    for group in groups:
        key = (group.optimizer, group.index)
        decoded = {name: from_real(v) if isinstance(v, bytes) else v for name, v in group.values.items()}
        merged[key] = {**merged.get(key, {}), **decoded}
    return merged


def stretch_to_stored(intervals: Sequence[Interval], first: Interval) -> Interval | None:
    """``first`` and the intervals after it up to a stored end, as one; None where the environment changes between."""
    steps = list(first.steps)
    for interval in intervals[first.number + 1 :]:
        if interval.environment != first.environment:
            return None
        steps += interval.steps
        if interval.end.stored:
            return replace(first, end=interval.end, steps=tuple(steps))
    return None
