"""What a replay session is given, and how it says that something could not be replayed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from polledger.core.records import Environment
from polledger.core.replay import OpenedBatch, Replayer, ReplayJob
from polledger.store.objects import ObjectStore
from polledger.verify.lineage import Interval, Lineage, Values
from polledger.verify.openings import Openings
from polledger.verify.policy import Policy
from polledger.verify.states import LoadedState

Engines = Callable[[Environment], AbstractContextManager[Replayer]]
"""Starts a fresh replayer, pinned to a recorded environment; leaving the context ends its processes."""

ELSEWHERE = "verify where the run was recorded, or with the versions and thread count it records"

PACKAGE = "package "
"""What the name of a distribution follows where versions differ."""


class NotOpened(Exception):
    """An interval that could not be replayed; the message says why and ``remedy`` what to do.

    Findings were recorded where they belong.
    """

    def __init__(self, why: str, remedy: str = ELSEWHERE) -> None:
        super().__init__(why)
        self.remedy = remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayTask:
    """What a session needs. ``values``: hyperparameters before each interval; ``seed``: the verifier's noise seed.

    ``inputs_declared``: the task reads inputs the verifier supplies, so a differing custom batch may be the verifier's
    file. ``packages``: ``package NAME`` for imported distributions that have another version here. ``own``: the code is
    a module of polledger itself.
    """

    lineage: Lineage
    values: Sequence[Values]
    objects: ObjectStore
    openings: Openings
    policy: Policy
    engines: Engines
    inputs_declared: bool
    packages: tuple[str, ...]
    own: bool
    seed: bytes
    data_here: bool
    """Whatever a task's own ``batch`` reads is at hand: it declares no inputs, or the verifier gave them."""
    ends_read: bool
    """Step 5 reads every stored state and says which are damaged: it need not be asked again of those reached."""
    compact: bool
    """Records are shown only where they are opened: what a value was before may not be known for certain."""
    clock: Callable[[], float]


def job_of(interval: Interval, start: LoadedState, batches: tuple[OpenedBatch, ...]) -> ReplayJob:
    """The replay of ``interval`` from ``start`` on."""
    return ReplayJob(
        start=start.data,
        root=start.root,
        first_step=interval.start.step,
        last_step=interval.end.step,
        batches=batches,
    )
