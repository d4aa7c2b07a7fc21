"""Replays the first intervals in fresh processes while training goes on. PROTOCOL section 9, last sentence.

A task that draws from generators that are not seeded is found out in the first interval. One that keeps state
where polledger cannot see it differs only when a fresh process takes over in between: hence the second as well.
"""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from polledger.core.encoding import STATE_LIMITS, parse
from polledger.core.replay import ReplayJob
from polledger.core.seeds import batch_digest, salt
from polledger.core.state import EncodedState, Entry, StateManifest
from polledger.errors import PolledgerError
from polledger.training.replay import ReplayContext, ReplayEngine

CLOSE_SECONDS = 5.0
"""How long an interrupted training waits for a replay that nobody will read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Early:
    """A checkpoint kept until the replay: its state file, root and entries."""

    step: int
    state: bytes
    root: bytes
    entries: tuple[Entry, ...]


class FirstInterval:
    """Replays the intervals that end at ``ends``, once the last of these is recorded. Close it after use."""

    def __init__(self, context: ReplayContext, *, secret: bytes, ends: Sequence[int]) -> None:
        self._engine = ReplayEngine(context)
        self._secret = secret
        self._ends = tuple(ends)
        self._checkpoints: list[_Early] = []
        self._steps: list[tuple[Sequence[int] | None, bytes]] = []
        self._thread: threading.Thread | None = None
        self._finding: str | None = None
        # The processes load torch while the data set is hashed and the model is built.
        self._engine.start()

    def note_step(self, step: int, indices: Sequence[int] | None, batch: bytes) -> None:
        """Step ``step`` is recorded with this batch digest; ``indices`` None: the task made the batch itself."""
        if step < self._ends[-1]:
            self._steps.append((indices, batch))

    def note_checkpoint(self, step: int, state: EncodedState) -> None:
        """The state after ``step`` steps is recorded; the last one needed begins the replay in a thread."""
        if self._thread is not None or step not in (0, *self._ends):
            return
        data = b"".join(state.chunks())
        self._checkpoints.append(_Early(step=step, state=data, root=state.root, entries=state.entries))
        if step == self._ends[-1]:
            self._thread = threading.Thread(target=self._run, name="first interval", daemon=True)
            self._thread.start()

    def finding(self) -> str | None:
        """Wait for the replay; one line about what differs, None if every bit is equal. Ends the processes."""
        if self._thread is not None:
            self._thread.join()
        self.close()
        return self._finding

    def close(self) -> None:
        """End the processes; a replay that does not end soon is left to end with this process. Idempotent."""
        if self._thread is None:
            self._engine.close()
        else:
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        # The later interval first: a process that has replayed the earlier one is not fresh any more.
        pairs = reversed(list(itertools.pairwise(self._checkpoints)))
        try:
            findings = (self._compare(start, end) for start, end in pairs)
            self._finding = next((finding for finding in findings if finding is not None), None)
        except PolledgerError as error:
            self._finding = f"the first steps cannot be replayed in a fresh process: {error}"
        finally:
            self._checkpoints.clear()
            # An engine belongs to one thread.
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
            if digest != self._steps[step.step][1]:
                return f"the batch of step {step.step} differs when it is made in a fresh process"
        path = first_difference(end.entries, read_entries(outcome.state))
        if path is None:
            return None
        steps = f"step {start.step}" if len(numbers) == 1 else f"steps {start.step} to {end.step - 1}"
        return f"replayed in a fresh process, {steps} gave another state, first at {path}"


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
