"""``polledger.Recorder``: seals a training loop that polledger does not run. PROTOCOL section 9.

    recorder = Recorder("run", {"model": model, "optimizer": optimizer}, steps=1000)
    ...
        optimizer.step()
        recorder.step(batch, {"loss": loss})
    recorder.close()

What is recorded is committed and timestamped like any run. Without a Task nobody can replay the loop, so its
computation stays UNVERIFIABLE. The recorder changes nothing that training sees: no seeds, switches or gradients.
"""

import contextlib
import logging
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from msgspec import UNSET

from polledger.core.config import encode_config
from polledger.core.encoding import encode
from polledger.core.records import Genesis, GroupValues
from polledger.core.source import TaskSource
from polledger.errors import UsageError
from polledger.keys import load_or_create_key, public_key
from polledger.store.run import RunDirectory
from polledger.training.determinism import describe_environment
from polledger.training.location import locate_file
from polledger.training.nest import encode_nest
from polledger.training.recording import DEFAULT_EVERY, DEFAULT_WARM, Cadence, RunRecorder
from polledger.training.runner import _group_values
from polledger.training.sealer import Sealer
from polledger.training.source import (
    PLAIN_LOOP,
    collect_source,
    imported_distributions,
    source_digest,
    task_modules,
)
from polledger.training.stamping import Stamping, choose_authorities
from polledger.training.startup import RUN_ID_BYTES
from polledger.training.state import describe_objects, flatten_objects

_log = logging.getLogger("polledger")


class Recorder:
    """Records the steps of a plain loop. Use as a context manager, or call :meth:`close` at the end.

    ``objects`` are everything that training changes, by name: modules, optimizers, schedulers, scalers; ``model``
    names the one that is published. ``steps`` is how many steps there will be (or ``config["steps"]``). ``config``
    is committed. ``source`` is the script to commit, by default the caller's file. Raises UsageError if the
    directory holds a run already.
    """

    def __init__(
        self,
        run_dir: str | Path,
        objects: Mapping[str, Any],
        *,
        steps: int | None = None,
        config: Mapping[str, Any] | None = None,
        every: int = DEFAULT_EVERY,
        warm: int = DEFAULT_WARM,
        keep: int = 1,
        model: str = "model",
        key: str | Path | None = None,
        tsa: Sequence[str] = (),
        source: str | Path | None = None,
    ) -> None:
        cadence = Cadence(steps=_steps(steps, config or {}), every=every, warm=warm, keep=keep)
        code, contents = _source(source if source is not None else sys._getframe(1).f_globals.get("__file__"))
        signer = load_or_create_key(None if key is None else Path(key))
        self._objects = _checked(objects, model)
        self._model = model
        self._done = 0
        self._groups = _Hyperparameters(self._objects)
        with contextlib.ExitStack() as opened:
            run = RunDirectory.create(Path(run_dir))
            opened.enter_context(run.lock())
            stamping = Stamping(run, choose_authorities(tsa), warn=_log.warning)
            opened.callback(_close_stamping, stamping)
            for data in (*contents.values(), encode(code)):
                run.objects.put(data)
            genesis = self._genesis(config or {}, cadence, code, public_key(signer))
            sealer = Sealer.create(run, genesis.run, signer, stamp=stamping.stamp)
            opened.callback(sealer.close)
            self._recorder = RunRecorder(run, sealer, cadence)
            self._recorder.begin(genesis, flatten_objects(self._objects))
            self._opened: contextlib.ExitStack | None = opened.pop_all()

    def step(self, batch: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Record the optimizer step that has just been made on ``batch``.

        ``metrics`` are numbers or tensors of one element. Raises UsageError for a batch or metric that cannot be
        recorded. Steps beyond the announced number are not recorded, with one warning.
        """
        if self._opened is None:
            raise UsageError("the recorder is closed")
        if self._done >= self._recorder.cadence.steps:
            if self._done == self._recorder.cadence.steps:
                _log.warning("%d steps were announced: further ones are not recorded", self._done)
                self._done += 1
            return
        number = self._done
        digest = self._recorder.batch(number, encode_nest(batch))
        values = {name: float(value) for name, value in (metrics or {}).items()}
        self._recorder.step(number, batch=digest, groups=self._groups.current(), metrics=values)
        self._done = number + 1
        if self._recorder.cadence.is_checkpoint(self._done):
            self._recorder.checkpoint(self._done, flatten_objects(self._objects))
        self._recorder.seal_if_due()

    def close(self) -> None:
        """Seal what was recorded; the run is finished if all announced steps were. Idempotent."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        with opened:
            total = self._recorder.cadence.steps
            if self._done >= total:
                self._recorder.finish(self._model, flatten_objects(self._objects))
            else:
                self._recorder.seal()
                _log.warning("%d of %d announced steps: the run stays unfinished", self._done, total)
        self._groups.close()
'''
