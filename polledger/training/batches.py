"""Where the batches of a training come from: this process, or ``--workers`` processes that make them ahead of it.

A batch is a function of (seed, step), so who makes it changes no bit. PROTOCOL section 9.
"""

import collections
import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process, resource_tracker
from typing import TYPE_CHECKING, Any, Protocol

from polledger.errors import Unavailable, UsageError
from polledger.helper import stay_with_parent

if TYPE_CHECKING:
    from polledger.training.rehearsal import RunRequest
    from polledger.training.runner import Runner

AHEAD = 2
"""Batches in the making per worker: one being made, one waiting."""


class BatchSource(Protocol):
    """Gives the batches of consecutive steps."""

    def batch(self, n: int) -> Any:
        """The batch of step ``n``."""
        ...

    def close(self) -> None:
        """End whatever makes batches. Idempotent."""
        ...


class InProcess:
    """Batches made by the training's own runner, when they are needed."""

    def __init__(self, runner: "Runner") -> None:
        self._runner = runner

    def batch(self, n: int) -> Any:
        """The batch of step ``n``."""
        return self._runner.batch(n)

    def close(self) -> None:
        """Nothing to end."""


class InWorkers:
    """Batches made ahead by ``workers`` processes, handed over as canonical nests.

    Steps have to be asked for in ascending order from ``first``; none is made at or beyond ``last``.
    """

    def __init__(self, request: "RunRequest", *, workers: int, first: int, last: int) -> None:
        self._pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_load, initargs=(request.to_json(),)
        )
        self._steps = iter(range(first, last))
        self._waiting: collections.deque[Future[bytes]] = collections.deque()
        for _ in range(AHEAD * workers):
            self._order()

    def _order(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            # The pool starts its processes when the first steps are submitted.
            with _interrupts_held():
                self._waiting.append(self._pool.submit(_make, step))

    def batch(self, n: int) -> Any:
        """The batch of step ``n``. Raises what the task's code raised, or Unavailable if a worker ended."""
        from polledger.training.nest import decode_nest

        try:
            data = self._waiting.popleft().result()
        except BrokenProcessPool:
            raise Unavailable(f"a worker process ended while it made the batch of step {n}") from None
        self._order()
        return decode_nest(data)

    def close(self) -> None:
        """End the workers without waiting for what they make."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that the block starts are born deaf to Ctrl-C; one that comes meanwhile is delivered after it."""
    # Starting this one lets signals through again, as a side effect.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pack_batch(batch: Any) -> bytes:
    """The bytes in which a worker hands ``batch`` over. Raises UsageError if it would come back as something else."""
    from polledger.training.nest import encode_nest

    try:
        return b"".join(bytes(part) for part in encode_nest(batch, exact=True))
    except UsageError as error:
        raise UsageError(
            f"with --workers, batches are plain tensors, arrays, numbers, texts, lists, tuples and dicts: {error}"
        ) from None


_runner: "Runner | None" = None


def _load(job: Mapping[str, Any]) -> None:
    """Runs once in each worker: load the task, and keep its prints away from standard output."""
    global _runner
    stay_with_parent()
    parent = parent_process()
    if parent is not None and parent.pid != os.getppid():
        # It was gone before the line above, and nobody would ever end this process.
        os._exit(1)
    from polledger.training.determinism import apply_switches
    from polledger.training.rehearsal import load_task, parse_request
    from polledger.training.runner import Runner

    os.dup2(2, 1)
    request = parse_request(job)
    apply_switches(request.device)
    _runner = Runner(load_task(request), seed=request.seed, device=request.device)


def _make(n: int) -> bytes:
    if _runner is None:
        raise Unavailable("a worker process has no task")
    return pack_batch(_runner.batch(n))
