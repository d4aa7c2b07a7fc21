"""Turns what training does into records, payloads and seals. PROTOCOL sections 4, 7 and 12.

Used by the session, which runs the training, and by the public Recorder, which watches a plain loop.
"""

import contextlib
import functools
import operator
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from polledger.core.config import KEY_LENGTH
from polledger.core.encoding import encode, real
from polledger.core.published import model_root
from polledger.core.records import Checkpoint, Final, Genesis, GroupValues, Resume, Step
from polledger.core.state import (
    PIECE,
    FlatState,
    TensorEntry,
)
from polledger.errors import UsageError
from polledger.store.blockfile import Disk
from polledger.store.run import RunDirectory
from polledger.training.batchcopies import Batch, BatchCopies, Chunks
from polledger.training.pipeline import Pipeline
from polledger.training.sealer import Sealer, encode_record
from polledger.training.snapshot import State, size_of
from polledger.training.writing import Line, OpenStep, Snapshot, Told, Writer

if TYPE_CHECKING:
    from polledger.training.devicehash import DeviceHashing

DEFAULT_EVERY = 10
"""Checkpointing interval k: long enough to cost little, short enough that honest error stays far below movement."""

DEFAULT_WARM = 10
"""PROTOCOL section 4: the steps in which training is chaotic."""

DEFAULT_SEAL_EVERY = 50
"""Checkpoints between two seals, and SEAL_SECONDS the time: one fdatasync of about 4 ms and one token each."""

SEAL_SECONDS = 60.0

LINES = 1000
"""Steps whose batches may wait to be hashed, however small these are."""

_METRIC_NAME = re.compile(rf"[a-z0-9_]{{1,{KEY_LENGTH}}}")
_MAX_METRICS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """After which steps something is committed. ``keep``: every how many checkpoints one is stored."""

    steps: int
    every: int = DEFAULT_EVERY
    warm: int = DEFAULT_WARM
    keep: int = 1
    seal_every: int = DEFAULT_SEAL_EVERY
    seal_seconds: float = SEAL_SECONDS

    def __post_init__(self) -> None:
        for name in ("steps", "every", "keep", "seal_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.warm < 0:
            raise UsageError(f"warm must be at least 0, not {self.warm}")

    def is_checkpoint(self, step: int) -> bool:
        """Whether the state after ``step`` steps is committed: 0, up to warm, every k, the end."""
        return step <= self.warm or step % self.every == 0 or step == self.steps

    def is_stored(self, step: int) -> bool:
        """Whether the payload of that checkpoint is kept: the warm ones, the last, and every ``keep``-th."""
        return step <= self.warm or step == self.steps or step % (self.every * self.keep) == 0

    @property
    def early_ends(self) -> tuple[int, ...]:
        """Where the first two intervals end, which are replayed at once; one where the run has no second."""
        first = min(self.steps, 1 if self.warm else self.every)
        second = min(self.steps, first + 1 if first < self.warm else (first // self.every + 1) * self.every)
        return (first, second) if second > first else (first,)


class RunRecorder:
    """Writes one run: genesis, steps, checkpoints, final; seals when one is due. For one thread.

    What the calls leave behind is hashed, written and sealed by another thread, in order. Its errors (Unavailable for a
    full disk) are raised by the next call; the run is then as if it had been killed where the error occurred.
    ``hashing``: computes roots where tensors lie, of states that are not stored. ``state_bytes``: how large a state
    will be, as far as that is known: memory for it is made ready at once.
    """

    def __init__(
        self,
        run: RunDirectory,
        sealer: Sealer,
        cadence: Cadence,
        *,
        store_batches: bool = False,
        withhold_metrics: bool = False,
        state_bytes: int = 0,
        hashing: "DeviceHashing | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cadence = cadence
        self._run_id = sealer.run_id
        self._batches = BatchCopies(run.secret(), objects=run.objects if store_batches else None)
        self._withhold_metrics = withhold_metrics
        self._clock = clock
        disk = Disk()
        # Of training's own priority: they take next to no time, and would get their turn too late.
        self._pipeline = Pipeline(before=disk.start)
        self._pipeline.reserve(state_bytes)
        self._writer = Writer(run, sealer, self._batches, self._pipeline, disk)
        self._hashing = hashing
        self._size = sealer.size
        self._records: list[Line] = []
        self._unhashed = 0
        self._last: tuple[int, int] | None = None
        self._groups = ChangedGroups()
        self._metric_names: frozenset[str] = frozenset()
        self._unsealed = 0
        self._sealed_at = clock()

    @property
    def waited(self) -> float:
        """Seconds that training has waited because sealing was slower."""
        return self._pipeline.waited

    def begin(self, genesis: Genesis, state: State, *, told: Told | None = None) -> None:
        """Record genesis and the state before step 0, and seal both. Raises UsageError for what cannot be encoded."""
        self._append(encode(genesis))
        # The first touch of memory can take longer than a step: training shall not come upon it later.
        self._pipeline.reserve(size_of(state))
        self.checkpoint(0, state, told=told)
        self.seal()

    def resume(self, resume: Resume, source: Checkpoint) -> None:
        """Record that training continues from the checkpoint ``source`` after an interruption."""
        self._append(encode(resume))
        self._last = (source.index, source.step)

    def batch(self, step: int, chunks: Chunks) -> Batch:
        """The batch that ``step`` consumes, for :meth:`step`: a copy, hashed and stored (where asked to) later.

        At once where there is no memory for a copy; raises Unavailable if it cannot be stored then.
        """
        return self._batches.copy(step, chunks)

    def step(
        self,
        step: int,
        *,
        batch: Batch | bytes,
        groups: Sequence[GroupValues] = (),
        metrics: Mapping[str, float] | None = None,
        examples: Sequence[int] | None = None,
    ) -> int:
        """Record one optimizer step and return the record's index. Raises UsageError for a metric's bad name.

        ``batch``: what :meth:`batch` returned, or a digest.
        """
        self._pipeline.check()
        record = Step(
            v=1,
            run=self._run_id,
            index=self._size,
            step=step,
            batch=batch if isinstance(batch, bytes) else b"",
            groups=self._groups.changes(groups),
            examples=UNSET if examples is None else list(examples),
            metrics=self._encode_metrics(metrics) if metrics and not self._withhold_metrics else UNSET,
        )
        if isinstance(batch, bytes):
            return self._append(encode_record(record))
        index = self._append(OpenStep(record=record, batch=batch))
        self._unhashed += batch.size
        if self._unhashed >= PIECE or len(self._records) >= LINES:
            self._pipeline.give(functools.partial(self._writer.append, self._taken()))
        return index

    def checkpoint(self, step: int, state: State, *, told: Told | None = None) -> None:
        """Copy the state after ``step`` steps, to be hashed, stored (where ``keep`` says so) and recorded.

        ``told`` is called in the other thread with the state as it was encoded, which is valid during the call.
        """
        stored = self.cadence.is_stored(step)
        known: Sequence[TensorEntry] = ()
        if self._hashing is not None and not stored and told is None:
            state, known = self._hashing.split(state)
        copy = self._pipeline.copy(state)
        # Taking it apart lets other threads run: the one below would go first and hold training up.
        del state
        wanted = Snapshot(
            step=step,
            index=self._size,
            copy=copy,
            known=known,
            stored=stored,
            packed=self.cadence.keep > 1,
            told=told,
        )
        self._pipeline.give(functools.partial(self._writer.checkpoint, self._taken(), wanted), copy)
        self._last = (self._size, step)
        self._size += 1
        self._unsealed += 1

    def seal_if_due(self) -> None:
        """Have a seal made after ``seal_every`` checkpoints or ``seal_seconds``, whichever comes first."""
        late = self._clock() - self._sealed_at >= self.cadence.seal_seconds
        if late or self._unsealed >= self.cadence.seal_every:
            self._give_seal()

    def seal(self) -> None:
        """Seal everything so far, if anything is new; durable on return."""
        self._give_seal()
        self.drain()

    def drain(self) -> None:
        """Wait until everything so far is hashed and written; not sealed."""
        self._pipeline.drain()

    def finish(self, object_name: str, state: FlatState) -> Final:
        """Record which object of ``state``, the last checkpoint's, is the published model, and seal.

        Raises UsageError if the last step has no checkpoint, or there is no such object.
        """
        if self._last is None or self._last[1] != self.cadence.steps:
            raise UsageError(f"a run ends with the checkpoint of its step {self.cadence.steps}")
        index, step = self._last
        final = Final(
            v=1,
            run=self._run_id,
            index=self._size,
            checkpoint=index,
            object=object_name,
            model_root=model_root(state, object_name),
            steps=step,
        )
        self._append(encode(final))
        self.seal()
        return final

    def store_all(self) -> None:
        """Store every checkpoint from now on: what does not replay cannot be derived again."""
        self.cadence = replace(self.cadence, keep=1)

    def close(self) -> None:
        """Write what was recorded, as far as that is possible, and close the ledger without sealing."""
        # What an error stopped stays as it is; whoever closes has heard of it, or is about to.
        with contextlib.suppress(Exception):
            self._pipeline.give(functools.partial(self._writer.append, self._taken()))
        self._pipeline.close()
        self._writer.close()

    def _append(self, record: Line) -> int:
        """The index of ``record``, which is given to the other thread with others, a checkpoint or a seal."""
        self._records.append(record)
        self._size += 1
        return self._size - 1

    def _taken(self) -> list[Line]:
        """The records that are not given to the other thread yet; they are now."""
        records, self._records, self._unhashed = self._records, [], 0
        return records

    def _give_seal(self) -> None:
        self._pipeline.give(functools.partial(self._writer.seal, self._taken()))
        self._unsealed = 0
        self._sealed_at = self._clock()

    def _encode_metrics(self, metrics: Mapping[str, float]) -> dict[str, bytes]:
        if len(metrics) > _MAX_METRICS or not self._metric_names.issuperset(metrics):
            check_metric_names(metrics)
            self._metric_names |= metrics.keys()
        return {name: real(value) for name, value in metrics.items()}


def check_metric_names(names: Iterable[object]) -> None:
    """Raises UsageError unless all are 1 to 64 of a-z, 0-9 and _, and at most 256."""
    listed = list(names)
    for name in listed:
        if not isinstance(name, str) or not _METRIC_NAME.fullmatch(name):
            allowed = f"1 to {KEY_LENGTH} lower-case letters, digits and _"
            raise UsageError(f"the metric {name!r} cannot be recorded: its name has to be {allowed}")
    if len(listed) > _MAX_METRICS:
        raise UsageError(f"{len(listed)} metrics in one step, at most {_MAX_METRICS} can be recorded")


class ChangedGroups:
    """Tells which hyperparameters changed since the step before; at first, all of them."""

    def __init__(self) -> None:
        self._given: Sequence[GroupValues] = ()
        self._encoded = b""
        self._values: dict[tuple[str, int], dict[str, bytes | int | bool]] = {}

    def changes(self, groups: Sequence[GroupValues]) -> list[GroupValues] | UnsetType:
        """What a step record carries for ``groups``, the values in force, which nobody changes any more."""
        if len(groups) == len(self._given) and all(map(operator.is_, groups, self._given)):
            return UNSET
        self._given = list(groups)
        # Bytes tell True from 1, which comparing values does not.
        encoded = msgspec.msgpack.encode(groups)
        if encoded == self._encoded:
            return UNSET
        self._encoded = encoded
        changed = [item for group in groups if (item := self._change(group)) is not None]
        return changed or UNSET

    def _change(self, group: GroupValues) -> GroupValues | None:
        before = self._values.get((group.optimizer, group.index), {})
        values = {name: value for name, value in group.values.items() if not _same(before.get(name), value)}
        self._values[group.optimizer, group.index] = dict(group.values)
        if not values:
            return None
        return GroupValues(optimizer=group.optimizer, index=group.index, values=values)


def _same(before: bytes | int | bool | None, value: bytes | int | bool) -> bool:
    return type(before) is type(value) and before == value
