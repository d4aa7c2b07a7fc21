"""Runs a task step by step so that every step is a function of (seed, step, state, batch). PROTOCOL sections 5, 6, 9.

Recorder and replay use the same runner. It reads no files and keeps no evidence; the caller hashes and stores.
"""

import copy
import operator
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polledger.core.config import KEY_LENGTH
from polledger.core.encoding import real
from polledger.core.order import Order
from polledger.core.records import GroupValues, StateObject
from polledger.core.schedule import Schedule, check_recipe, flatten_value
from polledger.core.seeds import rng_seeds
from polledger.core.state import FlatState
from polledger.errors import UsageError
from polledger.training.attributes import Traits, plain_attributes
from polledger.training.nest import check_exact
from polledger.training.recipe import apply_hyperparameters, map_nest
from polledger.training.seeds import has_drawn, seed_everything
from polledger.training.snapshot import LiveState
from polledger.training.state import (
    describe_objects,
    flatten_objects,
    live_objects,
    load_objects,
    traits_of_objects,
)
from polledger.training.task import Kind, Task, kind_of, overrides

_NAME = re.compile(rf"[a-z0-9_]{{1,{KEY_LENGTH}}}", re.ASCII)


class Runner:
    """One task in execution. Call :meth:`build` first (and again before :meth:`load` of another state).

    ``seed`` is the training seed s. Raises UsageError if the task's config cannot run as a recipe and the task
    relies on one. Not reached: state a task keeps on itself or in globals, threads, generators of its own.
    """

    def __init__(self, task: Task, *, seed: int, device: str = "cpu") -> None:
        self.task = task
        self.kind: Kind = kind_of(type(task))
        self.seed = seed
        self.device = device
        task.seed, task.device = seed, device
        self._own_batch = overrides(type(task), "batch")
        self._schedule: Schedule | None = None
        if not overrides(type(task), "build"):
            check_recipe(task.config)
            self._schedule = Schedule(task.config)
        self._data: Any = None
        self._order: Order | None = None
        self.objects: dict[str, Any] = {}
        self._parameters: list[nn.Parameter] = []
        self._modes: list[tuple[nn.Module, bool]] = []
        self._built: dict[str, Traits] = {}
        self._task_before: dict[str, str] | None = None
        self._group_counts: dict[str, int] = {}
        self._hyperparameters = Hyperparameters()

    def build(self) -> None:
        """Build every object under the build seed, replacing what was there.

        Raises UsageError unless the task gives named objects with ``state_dict`` and ``load_state_dict``, the
        model among them.
        """
        self._seed(0, "build")
        self.task.step_number = 0
        with torch.enable_grad():
            objects = self.task.build()
        _check_objects(objects)
        self.objects = dict(objects)
        modules = [value for value in self.objects.values() if isinstance(value, nn.Module)]
        self._parameters = [parameter for module in modules for parameter in module.parameters()]
        self._modes = [(module, module.training) for root in modules for module in root.modules()]
        self._built = traits_of_objects(self.objects)
        self._task_before = None
        self._group_counts = self._param_group_counts()

    @property
    def makes_batches(self) -> bool:
        """Whether the task's own ``batch`` makes the batches, not its data set and the order of the seed."""
        return self._own_batch

    @property
    def data(self) -> Any:
        """The task's data set, read once. Raises UsageError if it has no length or is empty."""
        if self._data is None:
            self._seed(0, "build")
            data = self.task.dataset()
            try:
                size = len(data)
            except TypeError:
                raise UsageError("dataset() has no len(): a map-style data set is needed") from None
            if size < 1:
                raise UsageError("dataset() is empty")
            self._data, self._order = data, Order(self.seed, size)
        return self._data

    def batch_indices(self, n: int) -> list[int] | None:
        """Indices of the examples of step ``n``; None if the task makes its batches itself."""
        if self._own_batch:
            return None
        size = self.task.config.get("batch_size")
        if type(size) is not int or size < 1:
            raise UsageError("config key 'batch_size': expected an integer of at least 1")
        order = self._order if self.data is not None else None
        return [] if order is None else order.step(n, size)

    def example(self, index: int) -> Any:
        """Example ``index``, on the CPU and in memory of its own, as it comes back from its canonical bytes.

        What ``collate`` does to it does not reach the data set. Raises UsageError if it would come back otherwise.
        """
        value = self.data[index]
        try:
            check_exact(value)
        except UsageError as error:
            raise UsageError(
                f"dataset()[{index}]: {error}; give plain tensors, arrays, numbers, texts, lists and dicts"
            ) from None
        return _own(value, "cpu")

    def batch(self, n: int) -> Any:
        """The batch of step ``n``, on the CPU or wherever the task puts it."""
        indices = self.batch_indices(n)
        if indices is not None:
            self._seed(n, "batch")
            return self.collate_examples(n, [self.example(index) for index in indices])
        self._seed(n, "batch")
        self.task.step_number = n
        value = self.task.batch(n)
        try:
            check_exact(value)
        except UsageError as error:
            raise UsageError(
                f"batch({n}): {error}; give plain tensors, arrays, numbers and containers"
            ) from None
        return value

    def collate_examples(self, n: int, examples: Sequence[Any]) -> Any:
        """The batch of step ``n`` from its examples: the same whether they were read here or opened from a proof."""
        self._seed(n, "batch")
        self.task.step_number = n
        return self.task.collate(list(examples))

    def prepare(self, n: int) -> None:
        """Put the recipe's hyperparameters of step ``n`` in force; nothing for a task that builds its own objects."""
        if self._schedule is not None:
            apply_hyperparameters(self.objects["optimizer"], self._schedule.at(n))

    def hyperparameters(self) -> list[GroupValues]:
        """Every numeric hyperparameter in force, read from the optimizers: call :meth:`prepare` before."""
        return [
            values
            for name, optimizer in self.objects.items()
            for values in self._hyperparameters.read(name, _param_groups(optimizer))
        ]

    def step(self, n: int, batch: Any) -> dict[str, float]:
        """Run step ``n`` on ``batch`` and return its metrics.

        Before it: gradients are None, modules are in the mode in which they were built, the generators are seeded.
        The task gets a copy of ``batch`` whose tensors lie in memory as if read from bytes: layout decides bits, and
        a batch from another process or from a proof has no other.
        Raises UsageError for metrics that are no numbers or have unfit names.
        """
        self.prepare(n)
        self._clear_gradients()
        for module, mode in self._modes:
            if module.training is not mode:
                module.training = mode
        batch = _own(batch, self.device)
        self.task.step_number = n
        self._seed(n, "step")
        with torch.enable_grad():
            metrics = self.task.step(self.objects, batch)
        return {} if metrics is None else {name: _metric(name, value) for name, value in metrics.items()}

    def drew(self, n: int) -> bool:
        """Whether step ``n``, the last that ran, used a generator of torch: other hardware draws other numbers."""
        return has_drawn(rng_seeds(self.seed, n, "step"), self.device)

    def flatten(self) -> FlatState:
        """The whole state; its data are views of live tensors: copy before the next step."""
        self._clear_gradients()
        return flatten_objects(self.objects, self._built)

    def live(self) -> LiveState:
        """The whole state where it lies: copy before the next step."""
        self._clear_gradients()
        return live_objects(self.objects, self._built)

    def load(self, flat: FlatState) -> None:
        """Bring freshly built objects into the state ``flat``, bit for bit.

        Raises EnvironmentMismatch naming the first path that does not fit.
        """
        load_objects(self.objects, flat, self._built)
        self._clear_gradients()

    def describe(self) -> list[StateObject]:
        """How the state's entries fall into groups."""
        return describe_objects(self.objects)

    def stray(self) -> str | None:
        """What training changed since the last call and no state holds, as far as it can be seen; one line, or None.

        A replay begins without it: where it matters, the run cannot be verified. The first call only looks: what
        the data set or the first step make once, they make in a replay as well.
        """
        before, self._task_before = self._task_before, self._task_attributes()
        changed = [] if before is None else sorted(self._task_before.items() - before.items())
        if changed:
            name = changed[0][0]
            return (
                f"a step changed self.{name} of the task, which is no state: keep it in an object of build()"
            )
        grown = [
            name for name, count in self._param_group_counts().items() if count != self._group_counts[name]
        ]
        if grown:
            return f"parameter groups were added to {grown[0]!r}: a replay cannot, make them all in build()"
        return None

    def _task_attributes(self) -> dict[str, str]:
        own = ("step_number", "seed", "device")
        return {name: repr(value) for name, value in plain_attributes(self.task) if name not in own}

    def _param_group_counts(self) -> dict[str, int]:
        return {name: len(_param_groups(value)) for name, value in self.objects.items()}

    def _seed(self, n: int, purpose: str) -> None:
        seed_everything(rng_seeds(self.seed, n, purpose), self.device)

    def _clear_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        for optimizer in self.objects.values():
            for group in _param_groups(optimizer):
                for parameter in group["params"]:
                    parameter.grad = None


def _check_objects(objects: Any) -> None:
    if not isinstance(objects, Mapping) or not all(isinstance(name, str) and name for name in objects):
        raise UsageError("build() must give a dict of name to object")
    if "model" not in objects:
        raise UsageError('build() must give the model under "model"')
    for name, value in objects.items():
        if not (hasattr(value, "state_dict") and hasattr(value, "load_state_dict")):
            raise UsageError(
                f"build(): {name!r} ({type(value).__name__}) has no state_dict and load_state_dict"
            )


def _param_groups(value: Any) -> list[dict[str, Any]]:
    return value.param_groups if isinstance(value, torch.optim.Optimizer) else []


class Hyperparameters:
    """Reads what parameter groups hold, again only where it may have changed: it is asked for at every step."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, int], _ReadGroup] = {}

    def read(self, optimizer: str, groups: Iterable[dict[str, Any]]) -> list[GroupValues]:
        """The numeric hyperparameters in force in the parameter groups of the optimizer of that name."""
        found = []
        for index, group in enumerate(groups):
            read = self._read.get((optimizer, index))
            if read is None or not read.holds(group):
                values = GroupValues(optimizer=optimizer, index=index, values=group_values(group))
                read = self._read[optimizer, index] = _ReadGroup(values, group)
            found.append(read.values)
        return found


class _ReadGroup:
    """A parameter group as it was read. Other values are other objects, unless one can change by itself."""

    def __init__(self, values: GroupValues, group: dict[str, Any]) -> None:
        self.values = values
        self._names = list(group)
        self._objects = list(group.values())
        self._fixed = all(_is_fixed(value) for key, value in group.items() if key != "params")

    def holds(self, group: dict[str, Any]) -> bool:
        return (
            self._fixed
            and len(group) == len(self._names)
            and all(map(operator.is_, group.values(), self._objects))
            and all(map(operator.eq, group, self._names))
        )


def _is_fixed(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_fixed, value))
    return value is None or type(value) in (bool, int, float, str)


def group_values(group: Mapping[str, Any]) -> dict[str, bytes | int | bool]:
    """The numeric hyperparameters of one parameter group as a record holds them; everything else is left out."""
    numbers: dict[str, Any] = {}
    for key, value in group.items():
        if key != "params":
            numbers.update(flatten_value(key, _plain(value)))
    return {
        _recordable(key): real(value) if isinstance(value, float) else value for key, value in numbers.items()
    }


def _plain(value: Any) -> Any:
    """Numbers out of 0-dim tensors and NumPy scalars, also inside a tuple."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else None
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _recordable(key: str) -> str:
    return re.sub(r"[^a-z0-9_]", "_", key.lower())[:KEY_LENGTH]


def _metric(name: Any, value: Any) -> float:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"metric {name!r}: a name has up to {KEY_LENGTH} of a-z, 0-9 and _")
    value = _plain(value)
    if not isinstance(value, bool | int | float):
        raise UsageError(f"metric {name!r}: a {type(value).__name__} is not one number")
    return float(value)


def _own(value: Any, device: str) -> Any:
    """The nest ``value`` with its tensors on ``device``; tensors and arrays in row-major memory of their own."""
    if isinstance(value, Tensor):
        # Copied even where torch calls it contiguous: strides of dimensions of size 1, and alignment, choose kernels.
        return value.detach().to(device, copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, np.ndarray):
        return np.array(value, dtype=value.dtype.newbyteorder("="), order="C", subok=True)
    if isinstance(value, MutableMapping) and type(value) is not dict:
        owned = copy.copy(value)
        owned.update({key: _own(item, device) for key, item in value.items()})
        return owned
    return map_nest(value, lambda item: _own(item, device))
