"""Replays the first intervals in fresh processes while training goes on. PROTOCOL section 9, last sentence.

A task that draws from generators that are not seeded is found out in the first interval. One that keeps state
where polledger cannot see it differs only when a fresh process takes over in between: hence the second as well.
"""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from polledger.core.encoding import STATE_LIMITS, parse
from polledger.core.replay import IsolationReport, ReplayJob
from polledger.core.seeds import batch_digest, salt
from polledger.core.state import EncodedState, Entry, StateManifest
from polledger.errors import PolledgerError
from polledger.training.batchcopies import Batch
from polledger.training.replay import ReplayContext, ReplayEngine

WAIT_SECONDS = 60.0
"""How long training waits for the replay once its verdict is due. It has run beside the training since the last of its
steps was recorded: one that needs a minute more hangs, or is so slow that training is not to stand still for it."""

CLOSE_SECONDS = 5.0
"""How long closing waits for the thread of a replay whose processes have been ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Early:
    """A checkpoint kept until the replay: its state file, root and entries."""

    step: int
    state: bytes
    root: bytes
    entries: tuple[Entry, ...]


class FirstInterval:
    """Replays the intervals that end at ``ends``, once the last of these is recorded. Close it after use.

    ``skipped`` says why not everything was replayed, where that is so: no finding, but the user should know.
    """

    def __init__(self, context: ReplayContext, *, secret: bytes, ends: Sequence[int]) -> None:
        self.skipped: str | None = None
        self._device = context.device
        self._engine = ReplayEngine(context)
        self._secret = secret
        self._ends = tuple(ends)
        self._checkpoints: list[_Early] = []
        self._steps: list[tuple[Sequence[int] | None, Batch]] = []
        self._thread: threading.Thread | None = None
        self._finding: str | None = None
        self._closed = False
        # Checkpoints are noted by the thread that hashes them, while training may close.
        self._lock = threading.RLock()
        # The processes load torch while the data set is hashed and the model is built.
        self._engine.start()

    def note_step(self, step: int, indices: Sequence[int] | None, batch: Batch) -> None:
        """Step ``step`` is recorded with this batch; ``indices`` None: the task made the batch itself."""
        if step < self._ends[-1]:
            self._steps.append((indices, batch))

    def note_checkpoint(self, step: int, state: EncodedState) -> None:
        """The state after ``step`` steps is recorded; the last one needed begins the replay in a thread."""
        with self._lock:
            if self._closed or self._thread is not None or step not in (0, *self._ends):
                return
            data = b"".join(state.chunks())
            self._checkpoints.append(_Early(step=step, state=data, root=state.root, entries=state.entries))
            if step == self._ends[-1]:
                self._begin()

    def _begin(self) -> None:
        self.skipped = lack_of_memory(self._device)
        if self.skipped is not None:
            self._checkpoints.clear()
            self.close()
            return
        self._thread = threading.Thread(target=self._run, name="first interval", daemon=True)
        self._thread.start()

    def finding(self, *, wait: float | None = None) -> str | None:
        """One line about what differs, None if every bit is equal or nothing was replayed. Ends the processes.

        Waits for the replay, ``wait`` seconds at most; one that is not finished then is ``skipped``.
        """
        if self._thread is not None:
            self._thread.join(wait)
        unfinished = self._thread is not None and self._thread.is_alive()
        found = self._finding
        self.close()
        if not unfinished:
            return found
        self.skipped = (
            f"the replay of the first steps was not finished {wait:g} s after training had to wait for it, and "
            "was given up"
        )
        return None

    def isolation(self) -> IsolationReport:
        """What was kept from the processes."""
        return self._engine.isolation()

    def close(self) -> None:
        """End the processes, and with them a replay that goes on. Idempotent."""
        with self._lock:
            self._closed = True
        self._engine.close()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
            # The thread may just have been starting another process.
            self._engine.close()

    def _run(self) -> None:
        # The later interval first: a process that has replayed the earlier one is not fresh any more.
        pairs = reversed(list(itertools.pairwise(self._checkpoints)))
        try:
            findings = (self._compare(start, end) for start, end in pairs)
            self._finding = next((finding for finding in findings if finding is not None), None)
        except Exception as error:
            # Whatever it is, silence would mean that every bit was equal.
            reason = error if isinstance(error, PolledgerError) else f"{type(error).__name__}: {error}"
            self._finding = f"the first steps cannot be replayed in a fresh process: {reason}"
        finally:
            self._checkpoints.clear()
            self._engine.close()

    def _compare(self, start: _Early, end: _Early) -> str | None:
        numbers = range(start.step, end.step)
        opened = tuple(self._engine.open_batches([(number, self._steps[number][0]) for number in numbers]))
        job = ReplayJob(
            start=start.state, root=start.root, first_step=start.step, last_step=end.step, batches=opened
        )
        outcome = self._engine.replay(job)
        for step in outcome.steps:
            digest = batch_digest(salt(self._secret, "batch", step.step), [step.batch])
            if digest != self._steps[step.step][1].digest():
                return f"the batch of step {step.step} differs when it is made in a fresh process"
        path = first_difference(end.entries, read_entries(outcome.state))
        if path is None:
            return None
        steps = f"step {start.step}" if len(numbers) == 1 else f"steps {start.step} to {end.step - 1}"
        return f"replayed in a fresh process, {steps} gave another state, first at {path}"


def lack_of_memory(device: str) -> str | None:
    """Why a replay does not fit beside this process on an accelerator; None if it does, as far as can be told.

    It needs about what this process holds by now. Told only for CUDA.
    """
    if not device.startswith("cuda"):
        return None
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    if free >= held:
        return None
    return (
        f"the first steps were not replayed beside the training: {device} has {free >> 20} MiB left, training holds "
        f"{held >> 20} MiB"
    )


def read_entries(state: bytes | memoryview) -> list[Entry]:
    """The entries that a state file lists. Raises MalformedError; the data behind them are not checked."""
    view = memoryview(state)
    length = int.from_bytes(view[:8], "big")
    manifest: StateManifest = parse(bytes(view[8 : 8 + length]), StateManifest, limits=STATE_LIMITS)
    return manifest.entries


def first_difference(expected: Sequence[Entry], found: Sequence[Entry]) -> str | None:
    """Path of the first entry that one of the two lacks or has otherwise, tensors first; None if all are equal."""
    before = {(type(entry).__name__, entry.path): entry for entry in expected}
    after = {(type(entry).__name__, entry.path): entry for entry in found}
    # A tensor's path says more than that of the object it belongs to.
    keys = sorted({*before, *after}, key=lambda key: (key[0] != "TensorEntry", key[1]))
    return next((path for kind, path in keys if before.get((kind, path)) != after.get((kind, path))), None)
