"""The verifier's side of replay: starts isolated child processes, hands them work, takes bytes back.

Never imports torch or task code. One child opens examples where the data lies, another rebuilds and replays
and never sees data beyond what was opened. PROTOCOL section 10.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec

from polledger.core.encoding import from_real
from polledger.core.records import Environment
from polledger.core.replay import (
    AS_RECORDED,
    IsolationReport,
    OpenedBatch,
    RebuiltState,
    ReplayedStep,
    ReplayFailed,
    ReplayJob,
    ReplayOutcome,
    Variant,
)
from polledger.core.source import TaskSource
from polledger.errors import MalformedError
from polledger.training import wire
from polledger.training.childprocess import ChildProcess, spawn
from polledger.training.determinism import process_environment

BATCH_LIMIT = 1 << 30
"""Bytes that a child may return for the examples of one step, or for its batch: 1 GiB, far above what fits a replay."""

REBUILT_LIMIT = 1 << 36
"""Bytes of a rebuilt first state whose recorded size is not known, and of a model file's tensors: 64 GiB."""

PATIENCE = 3600.0
"""Seconds that task code may take for one message unless the caller says otherwise: a step of the largest models takes
minutes, and code that hangs must not hold a verifier for ever."""

BATCH_SLACK = 1 << 24
"""Bytes by which a batch may exceed sixteen times its examples."""

STATE_SLACK = 1 << 26
"""Bytes by which a replayed state may exceed eight times the given one: the first step makes the optimizer slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProgram:
    """The committed code: its source manifest and the bytes of its files, already checked against their digests.

    ``files`` None runs a module of polledger itself, whose local files the caller has checked.
    """

    source: TaskSource
    files: Mapping[str, bytes] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayContext:
    """Everything about a run that its replay needs. ``config`` is the encoded form of genesis."""

    program: TaskProgram
    config: Mapping[str, Any]
    seed: int
    device: str
    environment: Environment
    inputs: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    """``recipe`` or ``custom`` as genesis says: a child whose task is the other one refuses. Empty: not checked."""
    patience: float = PATIENCE
    """Seconds to wait for one message."""


def read_model(path: Path) -> tuple[bytes, bytes]:
    """State root (as the child computed it) and state file of the tensors in a ``.pt`` or ``.safetensors`` file.

    Raises ReplayFailed if the file cannot be read safely. The caller parses, and so re-hashes, what comes back.
    """
    with tempfile.TemporaryDirectory(prefix="polledger-") as directory:
        process = spawn(Path(directory), {})
        child = ChildProcess(process, PATIENCE)
        try:
            child.send(wire.ReadModel(v=1, path=os.fsencode(path.resolve())))
            reply = child.expect(wire.ModelRead)
            return reply.root, bytes(child.frame(limit=REBUILT_LIMIT))
        except (EOFError, BrokenPipeError):
            raise ReplayFailed(f"it cannot be read: {child.last_words()}") from None
        finally:
            child.close()


class ReplayEngine:
    """Implements :class:`polledger.core.replay.Replayer` with child processes; close it after use."""

    def __init__(self, context: ReplayContext) -> None:
        self._context = context
        self._children: dict[tuple[str, Variant], _Child] = {}
        self._refusals: dict[tuple[str, Variant], str] = {}
        self._isolation = IsolationReport(files=True, network=True)
        # One thread may have data opened while another waits for a replay, or closes all.
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> "ReplayEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every child, and begin no more. Idempotent."""
        with self._lock:
            self._closed = True
            children, self._children = self._children, {}
        with contextlib.ExitStack() as stack:
            for child in children.values():
                stack.callback(child.close)

    def start(self) -> None:
        """Begin to start the two children, so that they load side by side."""
        self._child("replay", AS_RECORDED)
        self._child("data", AS_RECORDED)

    def ready(self, *, variant: Variant = AS_RECORDED) -> IsolationReport:
        """See :meth:`polledger.core.replay.Replayer.ready`."""
        with _Conversation(self, "replay", variant):
            return self._isolation

    def isolation(self) -> IsolationReport:
        """What the system enforced on every child so far."""
        return self._isolation

    def rebuild(self, *, variant: Variant = AS_RECORDED, size: int | None = None) -> RebuiltState:
        """See :meth:`polledger.core.replay.Replayer.rebuild`."""
        limit = REBUILT_LIMIT if size is None else 2 * size + STATE_SLACK
        with _Conversation(self, "replay", variant) as child:
            child.send(wire.Rebuild(v=1))
            reply = child.expect(wire.Rebuilt)
            state = child.frame(limit=limit)
            return RebuiltState(
                state=bytes(state),
                objects=tuple(reply.objects),
                groups=tuple(reply.groups),
                domains=tuple(reply.domains),
                environment=child.environment,
            )

    def open_batches(self, steps: Sequence[tuple[int, Sequence[int] | None]]) -> Iterator[OpenedBatch]:
        """See :meth:`polledger.core.replay.Replayer.open_batches`."""
        for step, indices in steps:
            with _Conversation(self, "data", AS_RECORDED) as child:
                child.send(wire.Open(v=1, step=step, indices=list(indices or ()), custom=indices is None))
                reply = child.expect(wire.Opened)
                if reply.frames != (1 if indices is None else len(indices)):
                    raise MalformedError(f"step {step}: {reply.frames} frames opened")
                frames = _frames(child, reply.frames)
            yield OpenedBatch(
                step=step,
                indices=None if indices is None else tuple(indices),
                examples=None if indices is None else frames,
                batch=frames[0] if indices is None else None,
            )

    def replay(self, job: ReplayJob, *, variant: Variant = AS_RECORDED) -> ReplayOutcome:
        """See :meth:`polledger.core.replay.Replayer.replay`."""
        with _Conversation(self, "replay", variant) as child:
            _send_job(child, job)
            steps = tuple(_replayed_step(child, batch) for batch in job.batches)
            child.expect(wire.Ended)
            state = child.frame(limit=8 * len(job.start) + STATE_SLACK)
            return ReplayOutcome(
                state=memoryview(state).toreadonly(), steps=steps, environment=child.environment
            )

    def _child(self, role: str, variant: Variant) -> "_Child":
        if (role, variant) in self._refusals:
            raise ReplayFailed(self._refusals[role, variant])
        with self._lock:
            if self._closed:
                raise ReplayFailed("replaying was ended")
            child = self._children.get((role, variant))
            if child is None:
                child = self._children[role, variant] = _Child(self._context, role=role, variant=variant)
            return child

    def _drop(self, role: str, variant: Variant) -> None:
        with self._lock:
            child = self._children.pop((role, variant), None)
        if child is not None:
            child.close()

    def _note(self, taken: wire.Isolated) -> None:
        with self._lock:
            before = self._isolation
            self._isolation = IsolationReport(
                files=before.files and taken.files, network=before.network and taken.network
            )


class _Conversation:
    """One exchange with a child; on any error that child is ended, and the error becomes ReplayFailed."""

    def __init__(self, engine: ReplayEngine, role: str, variant: Variant) -> None:
        self._engine, self._role, self._variant = engine, role, variant
        self._child = engine._child(role, variant)

    def __enter__(self) -> "_Child":
        try:
            self._engine._note(self._child.isolated())
            self._child.ready()
        except ReplayFailed as error:
            # What the task or this machine lacks it will lack in the next child as well.
            self._engine._refusals[self._role, self._variant] = str(error)
            self._abandon(error)
            raise
        except BaseException as error:
            self._abandon(error)
            raise
        return self._child

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._abandon(error)

    def _abandon(self, error: BaseException) -> None:
        """End the child; raise ReplayFailed in place of what a broken child causes."""
        ended = isinstance(error, EOFError | BrokenPipeError)
        words = self._child.last_words() if ended else str(error)
        self._engine._drop(self._role, self._variant)
        if ended:
            raise ReplayFailed(f"the {self._role} process ended: {words}") from None
        if isinstance(error, MalformedError):
            raise ReplayFailed(f"the {self._role} process answered nonsense: {words}") from None
        if isinstance(error, MemoryError):
            raise ReplayFailed(f"what the {self._role} process answers does not fit into memory") from None


def _send_job(child: "_Child", job: ReplayJob) -> None:
    custom = any(batch.batch is not None for batch in job.batches)
    frames = [[batch.batch] if custom else list(batch.examples or ()) for batch in job.batches]
    if len(frames) != job.last_step - job.first_step:
        raise MalformedError("a job needs one opened batch per step")
    child.send(
        wire.Replay(
            v=1,
            root=job.root,
            first=job.first_step,
            last=job.last_step,
            custom=custom,
            frames=[len(part) for part in frames],
        ),
        job.start,
        *(cast(bytes, frame) for part in frames for frame in part),
    )


def _frames(child: "_Child", count: int) -> tuple[bytes, ...]:
    """``count`` frames that together keep within BATCH_LIMIT."""
    frames, room = [], BATCH_LIMIT
    for _ in range(count):
        frames.append(bytes(child.frame(limit=room)))
        room -= len(frames[-1])
    return tuple(frames)


def _replayed_step(child: "_Child", opened: OpenedBatch) -> ReplayedStep:
    reply = child.expect(wire.Stepped)
    if reply.step != opened.step:
        raise MalformedError(f"step {reply.step} instead of {opened.step}")
    given = sum(map(len, opened.examples or ())) + len(opened.batch or b"")
    return ReplayedStep(
        step=opened.step,
        groups=tuple(reply.groups),
        # Augmentation may crop, pad, tokenise: the batch is of the size of its examples, not equal to it.
        batch=bytes(child.frame(limit=min(BATCH_LIMIT, 16 * given + BATCH_SLACK))),
        metrics={name: from_real(value) for name, value in reply.metrics.items()},
        drew=reply.drew,
    )


class _Child(ChildProcess):
    """One child process with its task, and the conversation with it."""

    def __init__(self, context: ReplayContext, *, role: str, variant: Variant) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="polledger-")
        self._isolated: wire.Isolated | None = None
        self._ready: wire.Ready | None = None
        directory = Path(self._directory.name)
        environment = _deviate(context.environment, variant)
        setup = _prepare(context, environment, role=role, directory=directory)
        super().__init__(spawn(directory, process_environment(environment)), context.patience)
        # A child that ended at once is noticed when its first answer is read.
        with contextlib.suppress(BrokenPipeError):
            self.send(setup)

    @property
    def environment(self) -> Environment:
        """The environment the child described itself."""
        return self.ready().environment

    def isolated(self) -> wire.Isolated:
        """Wait until the process is kept apart; what it says of that, it says before it loads the task."""
        if self._isolated is None:
            self._isolated = self.expect(wire.Isolated)
        return self._isolated

    def ready(self) -> wire.Ready:
        """Wait until the task is loaded."""
        self.isolated()
        if self._ready is None:
            self._ready = self.expect(wire.Ready)
        return self._ready

    def close(self) -> None:
        """Kill the process and remove its directory. Idempotent."""
        super().close()
        self._directory.cleanup()


def _deviate(environment: Environment, variant: Variant) -> Environment:
    threads = environment.threads if variant.threads is None else variant.threads
    capability = environment.capability if variant.capability is None else variant.capability
    return msgspec.structs.replace(environment, threads=threads, capability=capability)


def _prepare(context: ReplayContext, environment: Environment, *, role: str, directory: Path) -> wire.Setup:
    source = context.program.source
    files = context.program.files
    for path, data in (files or {}).items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    inputs = context.inputs if role == "data" else {}
    return wire.Setup(
        v=1,
        entry=source.entry,
        module="" if isinstance(source.module, msgspec.UnsetType) else source.module,
        materialised=files is not None,
        class_name=source.class_name,
        config=dict(context.config),
        inputs=[(name, os.fsencode(Path(path).resolve())) for name, path in inputs.items()],
        seed=str(context.seed),
        device=context.device,
        environment=environment,
        readable=[os.fsencode(Path(path).resolve()) for path in inputs.values()],
        kind=context.kind,
    )
