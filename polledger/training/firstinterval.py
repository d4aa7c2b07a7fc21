"""Replays the first interval in fresh processes while training goes on. PROTOCOL section 9, last sentence.

A task that keeps state where polledger cannot see it, or draws from generators that are not seeded, is
found out within its first steps instead of at verification.
"""

import threading
from collections.abc import Sequence

from polledger.core.encoding import STATE_LIMITS, parse
from polledger.core.replay import OpenedBatch, ReplayJob
from polledger.core.seeds import batch_digest, salt
from polledger.core.state import Entry, StateManifest
from polledger.errors import PolledgerError
from polledger.training.replay import ReplayContext, ReplayEngine

Steps = Sequence[tuple[Sequence[int] | None, bytes]]
"""Per step from 0: example indices (None: the task's own batch) and the recorded batch digest."""


class FirstInterval:
    """One replay beside the training: tell it the steps and both states, then ask for the finding. Close it."""

    def __init__(self, context: ReplayContext, *, secret: bytes) -> None:
        self._engine = ReplayEngine(context)
        self._secret = secret
        self._start: tuple[bytes, bytes] | None = None
        self._steps: list[tuple[Sequence[int] | None, bytes]] = []
        self._thread: threading.Thread | None = None
        self._finding: str | None = None
        # The processes load torch while the data set is hashed and the model is built.
        self._engine.start()

    def note_start(self, state: bytes, root: bytes) -> None:
        """The state file of checkpoint 0 and its root."""
        self._start = (state, root)

    def note_step(self, indices: Sequence[int] | None, batch: bytes) -> None:
        """The next step: its example indices (None: the task's own batch) and its batch digest."""
        self._steps.append((indices, batch))

    def note_end(self, expected: Sequence[Entry]) -> None:
        """The entries of the state after the steps noted; begins the replay in a thread."""
        if self._start is None or self._thread is not None:
            return
        state, root = self._start
        self._thread = threading.Thread(
            target=self._run, args=(state, root, tuple(expected)), name="first interval", daemon=True
        )
        self._thread.start()

    def finding(self) -> str | None:
        """Wait for the replay; one line about what differs, None if every bit is equal. Ends the processes."""
        if self._thread is not None:
            self._thread.join()
        self.close()
        return self._finding

    def close(self) -> None:
        """End the processes. Idempotent."""
        self._engine.close()

    def _run(self, state: bytes, root: bytes, expected: Sequence[Entry]) -> None:
        try:
            self._finding = self._compare(state, root, expected)
        except PolledgerError as error:
            self._finding = f"the first interval cannot be replayed in a fresh process: {error}"

    def _compare(self, state: bytes, root: bytes, expected: Sequence[Entry]) -> str | None:
        wanted = [(step, indices) for step, (indices, _) in enumerate(self._steps)]
        opened: tuple[OpenedBatch, ...] = tuple(self._engine.open_batches(wanted))
        job = ReplayJob(start=state, root=root, first_step=0, last_step=len(opened), batches=opened)
        outcome = self._engine.replay(job)
        for step, (_, digest) in zip(outcome.steps, self._steps, strict=True):
            if batch_digest(salt(self._secret, "batch", step.step), [step.batch]) != digest:
                return f"the batch of step {step.step} differs when it is made in a fresh process"
        path = first_difference(expected, read_entries(outcome.state))
        if path is None:
            return None
        return f"replayed in a fresh process, the first interval ends in another state, first at {path}"


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
