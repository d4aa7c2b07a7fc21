"""From authenticated records to the final lineage: which intervals count, and in which environment each ran.

PROTOCOL sections 4 and 10, step 4. Abandoned stretches drop out; whatever contradicts genesis or a resume record is
a finding of step 4 that names the record.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import cast

from msgspec import UnsetType

from polledger.core.encoding import from_real
from polledger.core.lazily import Lazy
from polledger.core.records import (
    AnyRecord,
    Checkpoint,
    Environment,
    Final,
    Genesis,
    GroupValues,
    Resume,
    Step,
    Unshown,
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
    steps: Sequence[Step]
    environment: Environment

    @property
    def shown(self) -> bool:
        """Whether what its steps recorded is at hand."""
        return not any(isinstance(step, Unshown) for step in self.steps)

    @property
    def records(self) -> tuple[int, ...]:
        """Indices of every record that replaying this interval opens."""
        return (self.start.index, *(step.index for step in self.steps), self.end.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What remains when abandoned stretches are dropped. ``complete``: it runs from step 0 to a valid ``final``.

    Intervals and checkpoints are made from their records at each access.
    """

    genesis: Genesis
    intervals: Sequence[Interval]
    checkpoints: Sequence[Checkpoint]
    final: Final | None
    resumes: tuple[Resume, ...]
    abandoned: int
    complete: bool
    findings: tuple[Finding, ...]


def is_checkpoint_step(genesis: Genesis, step: int) -> bool:
    """True when genesis demands a checkpoint after ``step`` steps: 0, each up to warm, multiples of k, the end."""
    return step <= genesis.warm or step % genesis.every == 0 or step == genesis.steps


def checkpoint_steps(genesis: Genesis, steps: int) -> int:
    """How many of the steps 0 to ``steps``, which may be a lie, demand a checkpoint; none of them is walked."""
    warm = min(genesis.warm, steps)
    regular = steps // genesis.every - warm // genesis.every
    end = warm < genesis.steps <= steps and genesis.steps % genesis.every != 0
    return warm + 1 + regular + end


def build_lineage(genesis: Genesis, records: Sequence[AnyRecord]) -> Lineage:
    """The final lineage of ``records``, all authenticated and starting with ``genesis``. Never raises.

    What stays in memory is 8 bytes a record and 16 an interval, besides ``records`` themselves.
    """
    surviving, dropped = _drop_abandoned(genesis, records)
    walk = _Walk(genesis=genesis)
    for position, at in enumerate(islice(surviving, 1, None), start=1):
        walk.take(records[at], position)
    findings = [*dropped, *walk.findings]
    made = _Made(records=records, surviving=surviving, walk=walk)
    return Lineage(
        genesis=genesis,
        intervals=Lazy(made.interval, range(len(walk.starts))),
        checkpoints=Lazy(made.checkpoint, range(len(walk.checkpoints))),
        final=walk.final,
        resumes=tuple(walk.resumes),
        abandoned=len(records) - len(surviving),
        complete=walk.final is not None and not findings,
        findings=tuple(findings[:FINDINGS_KEPT]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """Makes intervals and checkpoints from the records: ``surviving`` are the indices of those that count."""

    records: Sequence[AnyRecord]
    surviving: Sequence[int]
    walk: "_Walk"

    def checkpoint(self, number: int) -> Checkpoint:
        return self._checkpoint(self.walk.checkpoints[number])

    def _checkpoint(self, place: int) -> Checkpoint:
        return cast(Checkpoint, self.records[self.surviving[place]])

    def _step(self, place: int) -> Step:
        return cast(Step, self.records[self.surviving[place]])

    def interval(self, number: int) -> Interval:
        walk = self.walk
        start, end = self._checkpoint(walk.starts[number]), self._checkpoint(walk.ends[number])
        # Its steps lie right before its end, unless a resume that counts for nothing lies among them.
        last = walk.ends[number]
        places = walk.scattered.get(number, range(last - (end.step - start.step), last))
        change = bisect_left(walk.changes, last, key=lambda change: change[0]) - 1
        return Interval(
            number=number,
            start=start,
            end=end,
            steps=Lazy(self._step, places),
            environment=walk.changes[change][1],
        )


def _fail(record: int, detail: str, *, expected: str | None = None, found: str | None = None) -> Finding:
    return Finding(
        step=4, name="structure", outcome="fail", detail=detail, record=record, expected=expected, found=found
    )


def _drop_abandoned(genesis: Genesis, records: Sequence[AnyRecord]) -> tuple["array[int]", list[Finding]]:
    """Indices of the records that survive, ascending."""
    surviving = array("Q")
    findings: list[Finding] = []
    final: int | None = None
    for index, record in enumerate(records):
        if isinstance(record, Resume):
            findings += _apply_resume(genesis, records, surviving, record, final)
        elif isinstance(record, Final) and final is None:
            final = index
        surviving.append(index)
    return surviving, findings


def _apply_resume(
    genesis: Genesis,
    records: Sequence[AnyRecord],
    surviving: "array[int]",
    resume: Resume,
    final: int | None,
) -> list[Finding]:
    """Cut ``surviving`` back to the checkpoint that ``resume`` names; ``final`` is the first final record."""
    at = bisect_left(surviving, resume.source)
    found = surviving[at] if at < len(surviving) else None
    if found != resume.source or not isinstance(records[found], Checkpoint):
        return [
            _fail(
                resume.index, f"resumes from record {resume.source}, which is no checkpoint of this lineage"
            )
        ]
    if final is not None and final > found:
        return [_fail(resume.index, f"abandons the final record {final}: a finished run is not resumed")]
    dropped = [index for index in surviving[at + 1 :] if not isinstance(records[index], Resume)]
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
    return _hidden(genesis, records[found], Lazy(records.__getitem__, dropped))


def _hidden(genesis: Genesis, source: AnyRecord, dropped: Sequence[AnyRecord]) -> list[Finding]:
    """Why what is not shown of an abandoned stretch cannot be steps: with a final record in it, it is not abandoned.

    Where all of it is shown, nothing hides in it.
    """
    if not isinstance(source, Checkpoint) or not any(isinstance(record, Unshown) for record in dropped):
        return []
    walk = _Walk(genesis=genesis, position=source.step)
    walk.take(source, 0)
    for place, record in enumerate(dropped, start=1):
        walk.take(record, place)
    return walk.findings


@dataclass(slots=True, kw_only=True)
class _Walk:
    """One pass over the surviving records, checking what comes next.

    ``checkpoints``, ``starts`` and ``ends`` of intervals are places among these records; ``changes`` says from which
    place on which environment is in force. ``steps`` and their ``places`` are those since the last checkpoint;
    ``scattered`` has the places of an interval's steps where other records lie between them.
    """

    genesis: Genesis
    place: int = 0
    position: int = 0
    checkpoint: Checkpoint | None = None
    steps: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    scattered: dict[int, list[int]] = field(default_factory=dict)
    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    ends: "array[int]" = field(default_factory=lambda: array("Q"))
    checkpoints: "array[int]" = field(default_factory=lambda: array("Q"))
    resumes: list[Resume] = field(default_factory=list)
    changes: list[tuple[int, Environment]] = field(init=False)
    final: Final | None = None
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.changes = [(0, self.genesis.environment)]

    def take(self, record: AnyRecord, place: int) -> None:
        self.place = place
        if self.final is not None:
            self._fail(record.index, "a record follows the final one")
        match record:
            case Step():
                self._step(record)
            case Checkpoint():
                self._checkpoint(record)
            case Resume():
                self.resumes.append(record)
                self.changes.append((place, record.environment))
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
        step = self.position if isinstance(record, Unshown) else record.step
        if step != self.position:
            self._fail(record.index, "steps are not contiguous", expected=str(self.position), found=str(step))
        if self.position >= self.genesis.steps:
            self._fail(record.index, f"a step beyond the {self.genesis.steps} of genesis")
        self.position = step + 1
        self.steps.append(step)
        self.places.append(self.place)

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
        self.checkpoints.append(self.place)
        self.position = record.step
        self.steps, self.places = [], []

    def _close_interval(self, start: Checkpoint, end: Checkpoint) -> None:
        if start.step == end.step or self.steps != list(range(start.step, end.step)):
            self._fail(end.index, f"no contiguous steps between the checkpoints {start.step} and {end.step}")
            return
        if self.places[0] + len(self.places) != self.place:
            self.scattered[len(self.starts)] = self.places
        self.starts.append(self.checkpoints[-1])
        self.ends.append(self.place)

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
    for number in range(first.number + 1, len(intervals)):
        interval = intervals[number]
        if interval.environment != first.environment:
            return None
        steps += interval.steps
        if interval.end.stored:
            return replace(first, end=interval.end, steps=tuple(steps))
    return None
