"""What a verification is asked, who is told how it goes on, and what it has found so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from polledger.core.opened import IntervalResult, Odds, Sample
from polledger.core.report import Finding
from polledger.core.reportform import (
    CodeForm,
    Comparison,
    EnvironmentForm,
    OriginForm,
    TrajectoryForm,
)
from polledger.core.sketch import Sketches
from polledger.core.timesummary import TimeSummary, Waiting
from polledger.timestamp.trust import Trust
from polledger.verify.ancestry import FindRun
from polledger.verify.asking import Asked
from polledger.verify.binding import ReadModel
from polledger.verify.claim import ClaimRequest
from polledger.verify.lineage import Lineage
from polledger.verify.policy import Policy
from polledger.verify.replaytask import Engines
from polledger.verify.sampling import SampleRequest
from polledger.verify.screening import Screening


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Whether and how the task's code runs. ``engines`` None: it does not, and ``finding`` says why."""

    summary: CodeForm
    engines: Engines | None
    finding: Finding | None = None
    inputs_declared: bool = True
    own: bool = False
    """polledger's own module runs, not code that the prover brought."""
    data_here: bool = True
    """Whatever a task's own ``batch`` reads is at hand: it declares no inputs, or the verifier gave them."""
    packages: tuple[str, ...] = ()
    """Distributions that the task imports and that have another version here: this makes the class another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the verifier asks. ``nonce`` is the verifier's own, ``now`` its clock.

    ``waiting`` and ``made`` are the prover's notes about time: requests in the queue, and when seals were made."""

    policy: Policy
    nonce: bytes
    now: datetime
    sample: SampleRequest = field(default_factory=SampleRequest)
    trust: Trust | None = None
    asked: Asked | None = None
    """The challenge that says what is opened; its nonce is ``nonce``. ``sample`` is not looked at then."""
    model: Path | None = None
    read_model: ReadModel | None = None
    """Reads torch files for step 10; without it only ``.safetensors`` is read."""
    claim: ClaimRequest | None = None
    """A claim about the run that is held against it in step 10."""
    replay: bool = True
    scan: bool = True
    external: Path | None = None
    """The file that the run, or the first of its parents, says that it starts from."""
    waiting: tuple[Waiting, ...] = ()
    made: Mapping[int, datetime] = field(default_factory=dict)


class Watcher(Protocol):
    """Who is told how a verification goes on."""

    def note(self, text: str) -> None:
        """One line about what comes next."""
        ...

    def scanned(self, done: int, total: int) -> None:
        """A stored checkpoint was read and measured: the ``done``-th of ``total``."""
        ...

    def opened(self, result: IntervalResult, done: int, total: int) -> None:
        """An interval was replayed: the ``done``-th of ``total``."""
        ...


@dataclass(slots=True, kw_only=True)
class Verification:
    """One verification in progress. ``depth``: how many runs that start from it led here, by its head ``named``."""

    request: Request
    clock: Callable[[], float]
    watcher: Watcher
    find: FindRun
    depth: int = 0
    named: bytes | None = None
    lineage: Lineage | None = None
    origin: OriginForm = field(default_factory=lambda: OriginForm())
    findings: list[Finding] = field(default_factory=list)
    time: TimeSummary = field(default_factory=TimeSummary)
    screening: Screening | None = None
    trajectory: TrajectoryForm | None = None
    sample: Sample | None = None
    odds: tuple[Odds, ...] = ()
    intervals: tuple[IntervalResult, ...] = ()
    code: CodeForm = field(default_factory=lambda: CodeForm())
    environment: EnvironmentForm = field(default_factory=lambda: EnvironmentForm())
    timing: dict[str, float] = field(default_factory=dict)
    comparison: Comparison = "none"
    screened: bool = True
    sketches: Sketches | None = None
    skipped: str = ""
    """Why steps 7 to 9 were not done, for the findings that say so."""
