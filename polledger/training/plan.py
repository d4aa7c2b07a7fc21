"""What a sealed training is made of: the user's options, and a run that is ready to train."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from polledger.core.records import Genesis, Terms
from polledger.core.timesummary import Waiting
from polledger.errors import UsageError
from polledger.store.run import RunDirectory
from polledger.training.keeping import Auto
from polledger.training.location import TaskLocation
from polledger.training.recording import RunRecorder
from polledger.training.stamping import Stamping

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from polledger.training.batches import BatchSource
    from polledger.training.firstinterval import FirstInterval
    from polledger.training.runner import Runner

_LEAST = {"every": 1, "warm": 0, "keep": 1, "seal_every": 1, "seed": 0, "workers": 0}


class TaskFailed(UsageError):
    """The task's own code raised while it trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealOptions:
    """What ``polledger seal`` was asked. None means: the default, or on resume what the run has.

    ``parent`` or ``external``: what the model starts from; ``whole``: the parent's optimizer and all else as well;
    ``fresh``: patterns of names that are not taken.
    """

    task: str
    run: Path
    key: Path | None = None
    every: int | None = None
    warm: int | None = None
    keep: int | Auto | None = None
    seal_every: int | None = None
    seed: int | None = None
    settings: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    authorities: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    device: str | None = None
    workers: int = 0
    unbound: bool = False
    store_batches: bool = False
    withhold_metrics: bool = False
    terms: Terms | None = None
    """What a verifier fixed before training."""
    resume: bool = False
    parent: Path | None = None
    external: Path | None = None
    whole: bool = False
    fresh: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, int) and not least <= value < 1 << 53:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} takes an integer of at least {least}, not {value}")
        self._check_origin()

    def _check_origin(self) -> None:
        if self.parent is not None and self.external is not None:
            raise UsageError("--parent and --external both say what the run starts from: give one of them")
        if self.whole and self.parent is None:
            raise UsageError("--continue goes on from the whole state of another run: give it with --parent")
        if self.fresh and (self.whole or (self.parent is None and self.external is None)):
            raise UsageError("--fresh names what a model does not take from --parent or --external")


class Watcher(Protocol):
    """Who is told how a run goes on. Warnings may come from any thread."""

    def phase(self, text: str) -> None:
        """Something that takes a while begins."""
        ...

    def progress(self, done: int, total: int) -> None:
        """How many examples of the data set are hashed."""
        ...

    def step(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """``done`` of ``total`` steps are done; the metrics of the last one."""
        ...

    def warn(self, text: str) -> None:
        """Something the user should know, and that stops nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and for whom a run is sealed: the locked directory, the task's place, the key, who stamps and watches."""

    options: SealOptions
    run: RunDirectory
    location: TaskLocation
    key: "Ed25519PrivateKey"
    stamping: Stamping
    watcher: Watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run that is ready to train from step ``start``. Close it after use."""

    genesis: Genesis
    runner: "Runner"
    recorder: RunRecorder
    start: int
    inputs: Mapping[str, str]
    batches: "BatchSource"
    first: "FirstInterval | None" = None

    def close(self) -> None:
        """Close the ledger and end child processes, each whatever the others raise. Seals nothing."""
        with contextlib.ExitStack() as stack:
            if self.first is not None:
                stack.callback(self.first.close)
            stack.callback(self.batches.close)
            stack.callback(self.recorder.close)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealResult:
    """How a sealed training ended: after ``steps`` of ``total`` steps, ``trained`` of them now.

    ``metrics`` are those of the last step. ``model_root`` is None for a run that is not finished.
    ``waiting`` counts timestamp requests that no authority has answered yet, ``pending`` says which; ``unwitnessed``
    are the heads that a witness has not cosigned yet. ``blocked`` are the seconds, of ``seconds``, that training had to
    wait because sealing was slower.
    """

    run: Path
    run_id: bytes
    kind: str
    steps: int
    total: int
    trained: int
    model_root: bytes | None
    metrics: dict[str, float]
    interrupted: bool
    waiting: int
    blocked: float
    seconds: float
    inputs: Mapping[str, str]
    pending: tuple[Waiting, ...] = ()
    unwitnessed: tuple[Waiting, ...] = ()
