"""What a verifier asks of whatever replays training steps, and what it gets back: values only.

The verifier is handed a :class:`Replayer`; the one that runs task code in isolated child processes is
:class:`polledger.training.replay.ReplayEngine`. States and batches are byte strings that the verifier hashes
itself. PROTOCOL section 10, steps 7 to 9.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from polledger.core.records import Domain, Environment, GroupValues, StateObject
from polledger.errors import EXIT_UNVERIFIABLE, PolledgerError


class ReplayFailed(PolledgerError):
    """The task's code could not be run here to its end: it raised, ended or answered nonsense.

    That is missing evidence, never a refutation.
    """

    exit_code: ClassVar[int] = EXIT_UNVERIFIABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A deviation from the recorded environment: another thread count or CPU capability (None: as recorded)."""

    threads: int | None = None
    capability: str | None = None


AS_RECORDED = Variant()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedBatch:
    """What step ``step`` consumes: examples as canonical nests with their indices, or a custom batch as one nest."""

    step: int
    indices: tuple[int, ...] | None
    examples: tuple[bytes, ...] | None
    batch: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayJob:
    """One interval: a state file whose state root is ``root``, and the batches of steps first to last − 1."""

    start: bytes | memoryview
    root: bytes
    first_step: int
    last_step: int
    batches: tuple[OpenedBatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedStep:
    """One replayed step: hyperparameters in force, the canonical batch it consumed, metrics.

    ``drew``: it used torch's random numbers, by the word of the process that ran it.
    """

    step: int
    groups: tuple[GroupValues, ...]
    batch: bytes
    metrics: dict[str, float]
    drew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOutcome:
    """The state file after the last step (unverified bytes: parse and hash it), and what each step did."""

    state: bytes | memoryview
    steps: tuple[ReplayedStep, ...]
    environment: Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltState:
    """The first state as the seed gives it: state file, object descriptions, hyperparameters at step 0.

    ``domains`` are those that the task's class declares.
    """

    state: bytes
    objects: tuple[StateObject, ...]
    groups: tuple[GroupValues, ...]
    domains: tuple[Domain, ...]
    environment: Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationReport:
    """What the system enforces on the process that runs task code."""

    files: bool
    network: bool


class Replayer(Protocol):
    """Runs the committed task somewhere. Every method may raise :class:`ReplayFailed`."""

    def rebuild(self, *, variant: Variant = AS_RECORDED, size: int | None = None) -> RebuiltState:
        """The state before step 0, built from the committed seed; ``size``: bytes of the recorded one, if at hand.

        A state far above ``size`` is none that could be equal, and is refused.
        """
        ...

    def open_batches(self, steps: Sequence[tuple[int, Sequence[int] | None]]) -> Iterator[OpenedBatch]:
        """For each (step, example indices), what lies there; indices None means the task's own ``batch``."""
        ...

    def replay(self, job: ReplayJob, *, variant: Variant = AS_RECORDED) -> ReplayOutcome:
        """Run one interval. Jobs come in ascending order, so that no answer is ever in reach of the code."""
        ...

    def ready(self, *, variant: Variant = AS_RECORDED) -> IsolationReport:
        """Start what replays, before it is given anything, and say what was enforced on the children so far."""
        ...

    def isolation(self) -> IsolationReport:
        """What was enforced on the children so far (all True before the first one)."""
        ...
