"""An interval on its way: its data opened, its replay begun, and what that did beside the records."""

from concurrent.futures import Future
from dataclasses import dataclass

from polledger.core.opened import IntervalResult
from polledger.core.records import Step
from polledger.core.replay import OpenedBatch, ReplayJob
from polledger.verify.beside import Done
from polledger.verify.data import OpenedInterval
from polledger.verify.hyperparameters import OtherStep
from polledger.verify.judging import Replayed
from polledger.verify.lineage import Interval
from polledger.verify.replaytask import NotOpened
from polledger.verify.states import LoadedState


@dataclass(slots=True, kw_only=True)
class Prepared:
    """An interval whose data are opened. ``running`` is its replay, once that was begun."""

    interval: Interval
    opened: OpenedInterval
    running: "Running | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A replay that was begun, in turn or ``beside`` others, and what will come of it."""

    start: LoadedState
    job: ReplayJob
    done: Future[Done]
    beside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A replay beside the records: steps that consumed other ``batches``, and ``others`` in their hyperparameters."""

    item: Replayed
    batches: list[Step]
    others: list[OtherStep]
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether it ended in the recorded state."""
        return self.item.state.root == self.item.interval.end.root


def bytes_of(batch: OpenedBatch) -> int:
    """Of what a step consumes, as it was opened."""
    return len(batch.batch or b"") + sum(map(len, batch.examples or ()))


def not_opened(error: Exception) -> NotOpened:
    """What says that an interval could not be replayed because of ``error``."""
    return error if isinstance(error, NotOpened) else NotOpened(str(error))


def agree(one: Replayed, other: Replayed) -> bool:
    """Whether two replays did the same, bit for bit."""
    same_steps = all(
        (a.groups, a.batch) == (b.groups, b.batch)
        for a, b in zip(one.outcome.steps, other.outcome.steps, strict=True)
    )
    return same_steps and one.state.root == other.state.root


def unopened(interval: Interval, why: str, remedy: str) -> IntervalResult:
    """The result of an interval that could not be replayed: unverifiable, and why."""
    return IntervalResult(
        interval=interval.number,
        first=interval.start.step,
        last=interval.end.step,
        outcome="unverifiable",
        exact=False,
        why=why,
        remedy=remedy,
    )
