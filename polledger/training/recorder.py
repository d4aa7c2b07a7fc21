"""``polledger.Recorder``: seals a training loop that polledger does not run. PROTOCOL section 9.

    recorder = Recorder("run", {"model": model, "optimizer": optimizer}, steps=1000)
    ...
        optimizer.step()
        recorder.step(batch, {"loss": loss})
    recorder.close()

What is recorded is committed and timestamped like any run. Without a Task nobody can replay the loop, so
its computation stays UNVERIFIABLE. The recorder changes nothing that training sees: no seeds, switches or
gradients.
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
from polledger.training.runner import Hyperparameters
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
from polledger.training.state import describe_objects, flatten_objects, live_objects, traits_of_objects

_log = logging.getLogger("polledger")


class Recorder:
    """Records the steps of a plain loop. Use as a context manager, or call :meth:`close` at the end.

    ``objects`` are everything that training changes, by name: modules, optimizers, schedulers, scalers;
    ``model`` names the one that is published. ``steps`` is how many steps there will be (or
    ``config["steps"]``). ``config`` is committed. ``source`` is the script to commit, by default the
    caller's file. Raises UsageError if the directory holds a run already.
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
        self._built = traits_of_objects(self._objects)
        self._model = model
        self._done = 0
        self._failed = self._overrun = False
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
            # Its thread holds two copies of the state for as long as it lives.
            opened.callback(self._recorder.close)
            self._recorder.begin(genesis, live_objects(self._objects, self._built))
            self._hyperparameters = _Hyperparameters(self._objects)
            self._opened: contextlib.ExitStack | None = opened.pop_all()

    def step(self, batch: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Record the optimizer step that has just been made on ``batch``.

        ``metrics`` are numbers or tensors of one element. Raises UsageError for a batch or metric that
        cannot be recorded. Steps beyond the announced number are not recorded, with one warning; neither is any
        step after one that failed: a gap would contradict the record for ever.
        """
        if self._opened is None:
            raise UsageError("the recorder is closed")
        if self._failed:
            return
        try:
            self._step(batch, metrics)
        except BaseException:
            self._failed = True
            _log.warning(
                "step %d could not be recorded: recording ends here, the run stays unfinished", self._done
            )
            raise

    def _step(self, batch: Any, metrics: Mapping[str, Any] | None) -> None:
        number, total = self._done, self._recorder.cadence.steps
        if number >= total:
            if not self._overrun:
                _log.warning("%d steps were announced: further ones are not recorded", total)
            self._overrun = True
            return
        consumed = self._recorder.batch(number, encode_nest(batch))
        values = {name: _number(name, value) for name, value in metrics.items()} if metrics else None
        self._recorder.step(number, batch=consumed, groups=self._hyperparameters.current, metrics=values)
        self._done = number + 1
        if self._recorder.cadence.is_checkpoint(self._done):
            self._recorder.checkpoint(self._done, live_objects(self._objects, self._built))
        if self._done == total:
            self._recorder.finish(self._model, flatten_objects(self._objects, self._built))
        self._recorder.seal_if_due()

    def close(self) -> None:
        """Seal what was recorded; the run is finished if all announced steps were. Idempotent."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        with opened:
            self._hyperparameters.close()
            self._recorder.seal()
            if self._done < self._recorder.cadence.steps:
                total = self._recorder.cadence.steps
                _log.warning("%d of %d announced steps: the run stays unfinished", self._done, total)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _genesis(self, config: Mapping[str, Any], cadence: Cadence, code: TaskSource, key: bytes) -> Genesis:
        return Genesis(
            v=1,
            run=secrets.token_bytes(RUN_ID_BYTES),
            index=0,
            task=source_digest(code),
            kind="custom",
            config=encode_config(config),
            seed=0,
            bound=False,
            key=key,
            every=cadence.every,
            warm=cadence.warm,
            steps=cadence.steps,
            objects=describe_objects(self._objects),
            environment=describe_environment(_device(self._objects[self._model])),
            origin="scratch",
        )


class _Hyperparameters:
    """Values in force when the optimizers made their last step: a scheduler may have moved on since."""

    def __init__(self, objects: Mapping[str, Any]) -> None:
        optimizers = {
            name: value for name, value in objects.items() if isinstance(value, torch.optim.Optimizer)
        }
        self._read = Hyperparameters()
        self._values: dict[str, list[GroupValues]] = {}
        self.current: list[GroupValues] = []
        for name, optimizer in optimizers.items():
            self._note(name, optimizer)
        self._hooks = [
            optimizer.register_step_pre_hook(self._noting(name)) for name, optimizer in optimizers.items()
        ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _noting(self, name: str) -> Callable[[torch.optim.Optimizer, Any, Any], None]:
        def note(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            self._note(name, optimizer)

        return note

    def _note(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        self._values[name] = self._read.read(name, optimizer.param_groups)
        self.current = [group for groups in self._values.values() for group in groups]


def _number(name: str, value: Any) -> float:
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"metric {name!r} is not one number") from None


def _steps(steps: int | None, config: Mapping[str, Any]) -> int:
    announced = config.get("steps", steps)
    if type(announced) is not int or announced < 1:
        raise UsageError("a Recorder needs the number of steps: Recorder(…, steps=N), or 'steps' in config")
    if steps not in (None, announced):
        raise UsageError(f"steps={steps}, but config says {announced}")
    return announced


def _checked(objects: Mapping[str, Any], model: str) -> dict[str, Any]:
    if not isinstance(objects.get(model), torch.nn.Module):
        raise UsageError(
            f"objects needs the module that is published under {model!r}, or name it with model="
        )
    return dict(objects)


def _device(model: torch.nn.Module) -> str:
    parameter = next(model.parameters(), None)
    return "cpu" if parameter is None else str(parameter.device)


def _source(script: str | Path | None) -> tuple[TaskSource, dict[str, bytes]]:
    """The code that calls: its file and every module it has loaded from outside site-packages."""
    if script is None or not Path(script).is_file():
        raise UsageError("a Recorder commits the script that trains: give its file as source=")
    location = locate_file(Path(script).absolute())
    modules = dict(sys.modules)
    return collect_source(
        location,
        class_name=PLAIN_LOOP,
        modules=task_modules(location, modules),
        distributions=imported_distributions(modules),
    )


def _close_stamping(stamping: Stamping) -> None:
    waiting = stamping.close()
    if waiting:
        _log.warning(
            "%d timestamps wait for their authority: `polledger timestamp retry` asks again", len(waiting)
        )
