"""The child process in which task code runs during verification. PROTOCOL section 10, "Replay runs in a fresh child".

It gets, over its standard input, the task, checkpoint i, the opened examples and the config; it returns bytes.
It never learns what was recorded: the parent hashes and compares. Everything here may be under the control of
the task's code, so nothing it says is believed beyond the bytes that hash to what was committed.
"""

import os
import pickle  # only for the name of its error: nothing is unpickled here
import sys
import traceback
from collections.abc import Callable
from io import BufferedReader, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from polledger.core.encoding import real
from polledger.core.records import Environment
from polledger.errors import EnvironmentMismatch, MalformedError, PolledgerError, UsageError
from polledger.training import wire
from polledger.training.isolation import isolate

if TYPE_CHECKING:
    from polledger.training.runner import Runner

FRAME_LIMIT = 1 << 40
"""Bytes in one frame from the parent, which is trusted: only a guard against a broken pipe read as a length."""

CRASH = 70
"""Exit status after an error outside any request."""


def main() -> None:
    """Serve requests until the parent closes the pipe. Started by :mod:`polledger.training.replay`."""
    requests, replies = _take_pipes()
    try:
        setup = wire.read_request(requests)
        if isinstance(setup, wire.ReadModel):
            _read_model(setup, replies)
            return
        if not isinstance(setup, wire.Setup):
            raise MalformedError("the first message is not a setup")
        session = _start(setup, replies)
    except EOFError:
        return
    except Exception as error:
        _fail(replies, error)
        sys.exit(CRASH)
    _serve(session, requests, replies)


def _take_pipes() -> tuple[BufferedReader, BinaryIO]:
    """Move the two pipes away from descriptors 0 and 1, so that prints of the task go to standard error."""
    requests: BufferedReader = BufferedReader(FileIO(os.dup(0), "rb"), 1 << 20)
    replies = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, replies


def _start(setup: wire.Setup, replies: BinaryIO) -> "_Session":
    here = Path.cwd()
    readable = [Path(os.fsdecode(path)) for path in setup.readable]
    taken = isolate(readable=readable, writable=[here], cuda=setup.device.startswith("cuda"))
    # Before the task loads: its code could say anything.
    wire.write_message(replies, wire.Isolated(v=1, files=taken.files, network=taken.network))
    replies.flush()
    session = _Session(setup)
    wire.write_message(replies, session.ready())
    replies.flush()
    return session


def _read_model(request: wire.ReadModel, replies: BinaryIO) -> None:
    """Tensors of a ``.safetensors`` or ``.pt`` file, read where a hostile file can do no harm."""
    path = Path(os.fsdecode(request.path))
    isolate(readable=[path], writable=[Path.cwd()])
    from polledger.core.state import encode_state
    from polledger.training.state import flatten_objects

    state = encode_state(flatten_objects({"model": _load_tensors(path)}))
    wire.write_message(replies, wire.ModelRead(v=1, root=state.root))
    wire.write_frame(replies, state.header, *state.payload)
    replies.flush()


def _load_tensors(path: Path) -> object:
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise UsageError(
                "reading .safetensors needs the package safetensors: pip install polledger[safetensors]"
            ) from None
        return _read(lambda: load_file(path))
    import torch

    # weights_only: tensors and plain containers, no code; the only way a pickle is ever opened, and only in here.
    return _read(lambda: torch.load(path, map_location="cpu", weights_only=True))


def _read(load: Callable[[], object]) -> object:
    """What ``load`` gives. A library's own advice about a file that it refuses may be to run what is in it."""
    try:
        return load()
    except MemoryError:
        raise
    except Exception as error:
        reason = (
            "it holds more than tensors" if isinstance(error, pickle.UnpicklingError) else "it is damaged"
        )
        raise UsageError(f"{reason}, or no file of tensors: give the state_dict alone") from error


def _serve(session: "_Session", requests: BufferedReader, replies: BinaryIO) -> None:
    while True:
        try:
            request = wire.read_request(requests)
        except EOFError:
            return
        try:
            session.answer(request, requests, replies)
        except Exception as error:
            _fail(replies, error)
            # After a failed request unread frames may be left in the pipe: the parent starts a new child.
            return
        replies.flush()


def _fail(replies: BinaryIO, error: BaseException) -> None:
    kind = "usage" if isinstance(error, PolledgerError) else "task"
    text = str(error) if kind == "usage" else f"{type(error).__name__}: {error}"
    line = " ".join(text.split())[:500]
    trace = "".join(traceback.format_exception(error))[-4000:]
    wire.write_message(
        replies, wire.Failed(v=1, kind=kind, message=_printable(line), trace=_printable(trace))
    )
    replies.flush()


def _printable(text: str) -> str:
    # ASCII is NFC, which the encoding demands.
    return text.encode("ascii", "backslashreplace").decode("ascii")


class _Session:
    """One loaded task and the runner that executes it."""

    def __init__(self, setup: wire.Setup) -> None:
        # Imported here: torch loads only after the environment was pinned and the process was restricted.
        from polledger.core.config import decode_config
        from polledger.training import determinism
        from polledger.training.location import TaskLocation, load_task_class

        determinism.apply_environment(setup.environment)
        location = TaskLocation(
            path=Path.cwd() / setup.entry if setup.materialised else None,
            module=setup.module or None,
            class_name=setup.class_name,
            root=Path.cwd() if setup.materialised else None,
        )
        self._setup = setup
        self._device = determinism.matching_device(setup.device, setup.environment.device)
        self._task = load_task_class(location)
        self._config = decode_config(setup.config)
        omitted = sorted(self._task.config.keys() - self._config.keys())
        if omitted:
            raise UsageError(
                f"genesis leaves out {omitted[0]!r}, which the config of {self._task.__name__} has"
            )
        self._runner = self._make_runner()
        # Seen here and not in the source alone: what a base class overrides counts as well.
        if setup.kind and self._runner.kind != setup.kind:
            raise UsageError(
                f"genesis calls the task a {setup.kind} task, its class is a {self._runner.kind} one"
            )
        self._environment = self._describe()

    def _describe(self) -> Environment:
        from polledger.training.determinism import describe_environment

        try:
            return describe_environment(self._device)
        except EnvironmentMismatch as error:
            recorded = self._setup.environment.device
            raise EnvironmentMismatch(
                f"{error}, and {recorded} is what it was recorded on; a policy may name another (replay.device)"
            ) from None

    def _make_runner(self) -> "Runner":
        """A runner with a task of its own: what one interval leaves behind on a task is no part of the next."""
        from polledger.training.runner import Runner
        from polledger.training.task import prepare_task

        setup = self._setup
        task = prepare_task(
            self._task,
            config=self._config,
            inputs={name: os.fsdecode(path) for name, path in setup.inputs},
            device=self._device,
            seed=int(setup.seed),
        )
        return Runner(task, seed=int(setup.seed), device=self._device)

    def ready(self) -> wire.Ready:
        return wire.Ready(v=1, environment=self._environment)

    def answer(self, request: wire.Request, requests: BufferedReader, replies: BinaryIO) -> None:
        """Carry out one request and write its whole answer."""
        match request:
            case wire.Rebuild():
                self._rebuild(replies)
            case wire.Open():
                self._open(request, replies)
            case wire.Replay():
                self._replay(request, requests, replies)
            case _:
                raise UsageError("a second setup")

    def _rebuild(self, replies: BinaryIO) -> None:
        from polledger.core.state import encode_state
        from polledger.training.domains import encode_domains

        self._runner.build()
        state = encode_state(self._runner.flatten())
        objects = self._runner.describe()
        self._runner.prepare(0)
        groups = self._runner.hyperparameters()
        domains = encode_domains(self._task.domains)
        wire.write_message(replies, wire.Rebuilt(v=1, objects=objects, groups=groups, domains=domains))
        wire.write_frame(replies, state.header, *state.payload)

    def _open(self, request: wire.Open, replies: BinaryIO) -> None:
        from polledger.training.nest import encode_nest

        if request.custom != self._runner.makes_batches:
            made = (
                "batch() of the task"
                if self._runner.makes_batches
                else "its data set, which is not committed"
            )
            raise UsageError(f"the batches of this task come from {made}")
        # The verifier takes the order from genesis: another one here comes from other data.
        if not request.custom and list(request.indices) != self._runner.batch_indices(request.step):
            size = len(self._runner.data)
            raise UsageError(f"the data set here has {size} examples: it is not the committed one")
        if request.custom:
            values = [self._runner.batch(request.step)]
        else:
            values = [self._runner.example(index) for index in request.indices]
        wire.write_message(replies, wire.Opened(v=1, frames=len(values)))
        for value in values:
            wire.write_frame(replies, *encode_nest(value))

    def _replay(self, request: wire.Replay, requests: BufferedReader, replies: BinaryIO) -> None:
        from polledger.core.state import encode_state, parse_state
        from polledger.training.nest import decode_nest, encode_nest

        start = wire.read_frame(requests, limit=FRAME_LIMIT)
        inputs = [
            [wire.read_frame(requests, limit=FRAME_LIMIT) for _ in range(frames)] for frames in request.frames
        ]
        runner = self._make_runner()
        runner.build()
        # The parent hashed these bytes before it sent them.
        runner.load(parse_state(start, root=request.root, rehash=False))
        for step, frames in zip(range(request.first, request.last), inputs, strict=True):
            values = [decode_nest(frame) for frame in frames]
            batch = values[0] if request.custom else runner.collate_examples(step, values)
            encoded = [bytes(chunk) for chunk in encode_nest(batch)]
            runner.prepare(step)
            groups = runner.hyperparameters()
            metrics = {name: real(value) for name, value in runner.step(step, batch).items()}
            wire.write_message(
                replies, wire.Stepped(v=1, step=step, groups=groups, metrics=metrics, drew=runner.drew(step))
            )
            wire.write_frame(replies, *encoded)
        state = encode_state(runner.flatten())
        wire.write_message(replies, wire.Ended(v=1))
        wire.write_frame(replies, state.header, *state.payload)
