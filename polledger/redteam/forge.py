"""A forger's bench: writes a complete, well-formed run that says whatever it is told, sealed as a prover seals.

Built from what ``polledger seal`` itself uses, so that a refutation is due to the lie and to nothing else: a forgery
that lies about nothing is an honest run. The thief owns its key, its run secret and its embedded authority.

Cost is counted in gradient computations: one forward and backward pass of one step's batch is 1. What differentiates
twice (a gradient of a gradient) counts 3: the pass itself, and a backward pass through its own graph, which is twice
as long. A forward pass alone is not counted.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from polledger.core.records import Final, Genesis, GroupValues
from polledger.core.state import FlatState
from polledger.redteam.spoof import Attempt, Target
from polledger.redteam.states import owned, with_tensors
from polledger.store.run import RunDirectory
from polledger.training.batchcopies import Batch
from polledger.training.location import resolve_task
from polledger.training.nest import encode_nest
from polledger.training.plan import SealOptions, Setting
from polledger.training.recipe import split_batch, update_ema
from polledger.training.recording import Cadence, RunRecorder
from polledger.training.rehearsal import Rehearsal, RunRequest, run_rehearsal
from polledger.training.runner import Runner
from polledger.training.session import MODEL
from polledger.training.stamping import Stamping, choose_authorities
from polledger.training.startup import (
    Draft,
    commit_data,
    draft_run,
    make_genesis,
    open_recorder,
    request_of,
)

DOUBLE_BACKWARD = 3
"""Gradient computations that one gradient of a gradient counts as."""

_rehearsals: dict[tuple[str, str, tuple[tuple[str, str], ...]], Rehearsal] = {}


def thief_key(seed: int, name: str = "") -> Ed25519PrivateKey:
    """The key of the thief number ``seed``: the same each time, so that a forgery can be made again."""
    digest = hashlib.sha256(f"polledger/redteam/key/{name}/{seed}".encode()).digest()
    return Ed25519PrivateKey.from_private_bytes(digest)


def seal_options(target: Target, attempt: Attempt, **changes: Any) -> SealOptions:
    """What a thief would give ``polledger seal`` to train the target's task into ``attempt.directory / "run"``.

    ``settings`` among ``changes`` are added to the target's, everything else replaces.
    """
    settings = (*target.settings, *changes.pop("settings", ()))
    options = SealOptions(
        task=target.task,
        run=attempt.directory / "run",
        every=target.every,
        warm=target.warm,
        settings=settings,
        inputs=dict(target.inputs),
    )
    return replace(options, **changes)


@contextlib.contextmanager
def forging(options: SealOptions, key: Ed25519PrivateKey) -> Iterator["Forge"]:
    """A :class:`Forge` for the run that ``options`` describe (its ``key`` is not looked at); nothing recorded yet.

    The task is rehearsed in a child process the first time this process meets its code, and not again.
    """
    run = RunDirectory.create(options.run)
    with run.lock():
        stamping = Stamping(run, choose_authorities(options.authorities), warn=_ignore)
        setting = Setting(
            options=options,
            run=run,
            location=resolve_task(options.task),
            key=key,
            stamping=stamping,
            watcher=_Silent(),
        )
        try:
            with contextlib.closing(Forge(draft_run(setting, _rehearsed(setting)))) as forge:
                yield forge
        finally:
            stamping.close()


class Forge:
    """One run in the making. Made by :func:`forging`.

    Edit ``genesis`` before :meth:`begin`; then for every step either :meth:`train` it, or :meth:`say` that it was
    taken and :meth:`move` the live objects wherever they are wanted, and :meth:`checkpoint` where one is due;
    :meth:`finish` at the end. ``objects`` are live: a spoof may compute with them as it likes.
    """

    def __init__(self, draft: Draft) -> None:
        self.runner: Runner = draft.runner
        self.request: RunRequest = draft.request
        self.run: RunDirectory = draft.setting.run
        self.cadence: Cadence = draft.cadence
        self.genesis: Genesis = make_genesis(draft, commit_data(draft))
        self.gradients = 0.0
        """Gradient computations so far; add what is computed outside :meth:`train`."""
        self.adjust: Callable[[int, dict[str, Any]], None] | None = None
        """Called with the step and each parameter group once the schedule's values are in force, to change them: what
        is then in force is what is computed with and recorded."""
        self._draft = draft
        self._recorder: RunRecorder | None = None
        self._scheduled = self.runner.prepare
        self.runner.prepare = self._prepare  # type: ignore[method-assign]

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.cadence.steps

    @property
    def objects(self) -> dict[str, Any]:
        """The live objects of the task: model, optimizer and what else it builds."""
        return self.runner.objects

    @property
    def recorder(self) -> RunRecorder:
        """What writes the records, for lies that no method here tells."""
        if self._recorder is None:
            self._recorder = open_recorder(self._draft, self.genesis)
        return self._recorder

    def cost(self, target: Target) -> float:
        """Gradient computations spent, in those of the honest training of the stolen model."""
        return self.gradients / target.steps

    def state(self) -> FlatState:
        """A copy of the whole live state."""
        return owned(self.runner.flatten())

    def weights(self) -> FlatState:
        """A copy of the live model's entries, as :attr:`Target.weights` has them."""
        return part_of(self.state(), MODEL)

    def load(self, state: FlatState) -> None:
        """Bring the live objects into ``state``, which was taken from objects of this task."""
        self.runner.build()
        self.runner.load(state)

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite tensors of the live state by their paths; optimizer slots only once they exist."""
        self.load(with_tensors(self.state(), tensors))

    def begin(self, state: FlatState | None = None) -> None:
        """Record and seal genesis with ``state`` (default: the live one) as checkpoint 0."""
        self.recorder.begin(self.genesis, self.state() if state is None else state)

    def batch(self, n: int) -> Any:
        """The batch that an honest step ``n`` consumes."""
        return self.runner.batch(n)

    def train(self, n: int, batch: Any = None, *, committed: Batch | bytes | None = None) -> dict[str, float]:
        """Take step ``n`` on the live objects, on its ordinary batch or on ``batch``, and record it."""
        batch = self.batch(n) if batch is None else batch
        committed = self._commit(n, batch) if committed is None else committed
        self.runner.prepare(n)
        groups = self.runner.hyperparameters()
        metrics = self.runner.step(n, batch)
        self.gradients += 1
        self.recorder.step(n, batch=committed, groups=groups, metrics=metrics)
        return metrics

    def say(
        self,
        n: int,
        batch: Any = None,
        *,
        groups: Sequence[GroupValues] | None = None,
        metrics: Mapping[str, float] | None = None,
        committed: Batch | bytes | None = None,
    ) -> None:
        """Record step ``n`` without taking it: by default its ordinary batch, the scheduled hyperparameters."""
        if committed is None:
            committed = self._commit(n, self.batch(n) if batch is None else batch)
        self.runner.prepare(n)
        groups = self.runner.hyperparameters() if groups is None else groups
        self.recorder.step(n, batch=committed, groups=groups, metrics=metrics)

    def move(self, n: int, weights: Mapping[str, Tensor]) -> None:
        """Leave the live objects as if step ``n`` had ended at these model tensors, without a gradient.

        Optimizers take a step on gradients of zero, so that counters, moments and scheduled values are those after
        the step; the exponential moving average follows. Whatever else the objects hold stays.
        """
        self.runner.prepare(n)
        for value in self.objects.values():
            if isinstance(value, torch.optim.Optimizer):
                _step_on_zeros(value)
        self.put(weights)
        self._average()

    def coast(self, n: int) -> None:
        """Take step ``n`` with gradients of zero and record it as an ordinary one.

        The loss is computed forwards, as the step would, so that running statistics and random draws are those of the
        step; nothing is differentiated.
        """
        batch = self.batch(n)
        self.runner.prepare(n)
        groups = self.runner.hyperparameters()
        task: Any = self.runner.task
        task.step = self._without_gradient
        try:
            self.runner.step(n, batch)
        finally:
            del task.step
        self.recorder.step(n, batch=self._commit(n, batch), groups=groups)

    def _without_gradient(self, state: Mapping[str, Any], batch: Any) -> None:
        config = self.runner.task.config
        with torch.no_grad():
            for part in split_batch(batch, config.get("accumulate", 1)):
                self.runner.task.loss(state[MODEL], part)
        self._idle()

    def _idle(self) -> None:
        """One step of every optimizer on gradients of zero; the moving average follows."""
        for value in self.objects.values():
            if isinstance(value, torch.optim.Optimizer):
                _step_on_zeros(value)
        self._average()

    def _average(self) -> None:
        if "ema" in self.objects:
            update_ema(self.objects["ema"], self.objects[MODEL], self.runner.task.config["ema"])

    def checkpoint(self, done: int, state: FlatState | None = None) -> None:
        """Record ``state`` (default: the live one) as that after ``done`` steps, if one is due there."""
        if self.cadence.is_checkpoint(done):
            self.recorder.checkpoint(done, self.state() if state is None else state)
            self.recorder.seal_if_due()

    def train_through(self, first: int, last: int, watch: Callable[[int], None] | None = None) -> None:
        """Honest steps ``first`` to ``last`` − 1 with their checkpoints."""
        for n in range(first, last):
            self.train(n)
            self.checkpoint(n + 1)
            if watch is not None:
                watch(n + 1)

    def finish(self, state: FlatState | None = None) -> Final:
        """Record and seal the end: the model of ``state`` (default: the live one) is the published one."""
        return self.recorder.finish(MODEL, self.state() if state is None else state)

    def close(self) -> None:
        """Close the ledger. Idempotent."""
        if self._recorder is not None:
            self._recorder.close()

    def _prepare(self, n: int) -> None:
        self._scheduled(n)
        for value in self.objects.values():
            if self.adjust is not None and isinstance(value, torch.optim.Optimizer):
                for group in value.param_groups:
                    self.adjust(n, group)

    def _commit(self, n: int, batch: Any) -> Batch:
        return self.recorder.batch(n, encode_nest(batch))


def part_of(state: FlatState, name: str) -> FlatState:
    """The entries of the object ``name`` alone."""
    return FlatState(
        skeletons=[entry for entry in state.skeletons if entry.path == name],
        tensors=[tensor for tensor in state.tensors if tensor.path.startswith(f"{name}/")],
    )


def _step_on_zeros(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _rehearsed(setting: Setting) -> Rehearsal:
    """Which code the task loads, from a child process; kept for as long as its file has the same bytes."""
    path = setting.location.path
    digest = "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
    key = (setting.options.task, digest, tuple(sorted(setting.options.inputs.items())))
    if key not in _rehearsals:
        _rehearsals[key] = run_rehearsal(request_of(setting))
    return _rehearsals[key]


def _ignore(text: str) -> None:
    """A thief heeds no warnings."""


class _Silent:
    def phase(self, text: str) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def step(self, done: int, total: int, metrics: Mapping[str, float]) -> None: ...

    def warn(self, text: str) -> None: ...
