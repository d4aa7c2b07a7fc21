"""A rehearsal of build, first batch and first step in a process of its own, before anything is committed.

It tells which code the task loads, checks what a verifier will rely on, and fails early where training would.
PROTOCOL sections 6 and 9.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from polledger.core.source import Distribution
from polledger.errors import EnvironmentMismatch, PolledgerError, UsageError
from polledger.helper import Job, Report, Worker
from polledger.training.location import TaskLocation, describe_error

if TYPE_CHECKING:
    from polledger.training.task import Task

T = TypeVar("T")

EXAMPLES_READ_TWICE = 16
"""PROTOCOL section 6: enough to catch augmentation in `dataset()`, too few to be felt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the user asked to train: the task, its settings, and where and from which seed it runs.

    ``seed`` is the training seed s of PROTOCOL section 6. Settings are NAME=VALUE as typed; a ``config``
    stands in for the task's own and its settings. ``workers`` is how many processes will make batches, 0 for none.
    """

    location: TaskLocation
    settings: tuple[str, ...]
    config: Mapping[str, Any] | None = None
    inputs: Mapping[str, str]
    seed: int
    device: str
    workers: int = 0

    def to_json(self) -> dict[str, Any]:
        """The request as a child process takes it."""
        place = self.location
        return {
            "path": None if place.path is None else str(place.path),
            "module": place.module,
            "class_name": place.class_name,
            "root": None if place.root is None else str(place.root),
            "settings": list(self.settings),
            "config": None if self.config is None else dict(self.config),
            "inputs": dict(self.inputs),
            "seed": self.seed,
            "device": self.device,
            "workers": self.workers,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a rehearsal found out. ``modules`` maps paths in the source tree to files."""

    class_name: str
    kind: str
    config: dict[str, Any]
    modules: dict[str, str]
    distributions: list[Distribution]
    state_bytes: int
    """Of one stored state."""
    examples: int | None
    """Size of the data set, None for a task without one."""
    seconds_per_example: float


def run_rehearsal(request: RunRequest) -> Rehearsal:
    """Rehearse the task in a child process that has this one's environment.

    Raises UsageError for whatever in the task or its settings would not train or not replay.
    """
    job = Job(function="polledger.training.rehearsal:rehearse", argument=request.to_json())
    with Worker(job) as worker:
        found = worker.result()
    return msgspec.convert(found, Rehearsal)


def parse_request(job: Mapping[str, Any]) -> RunRequest:
    """The inverse of :meth:`RunRequest.to_json`."""
    location = TaskLocation(
        path=None if job["path"] is None else Path(job["path"]),
        module=job["module"],
        class_name=job["class_name"],
        root=None if job["root"] is None else Path(job["root"]),
    )
    return RunRequest(
        location=location,
        settings=tuple(job["settings"]),
        config=job["config"],
        inputs=job["inputs"],
        seed=job["seed"],
        device=job["device"],
        workers=job["workers"],
    )


def load_task(request: RunRequest) -> "Task":
    """The task of ``request``, ready to run in this process. Raises UsageError if it does not load or fit."""
    from polledger.core.config import encode_config
    from polledger.core.schedule import check_recipe
    from polledger.training.domains import encode_domains
    from polledger.training.location import load_task_class
    from polledger.training.overrides import apply_settings, recipe_settings, step_count
    from polledger.training.task import kind_of, prepare_task

    cls = load_task_class(request.location)
    recipe = kind_of(cls) == "recipe"
    known = recipe_settings(cls.config, request.settings) if recipe else {}
    config = request.config or apply_settings(cls.config, request.settings, known=known)
    step_count(config)
    encode_config(config)
    encode_domains(cls.domains)
    if recipe:
        check_recipe(config)
    return prepare_task(cls, config=config, inputs=request.inputs, device=request.device, seed=request.seed)


def rehearse(job: Mapping[str, Any], send: Report | None = None) -> dict[str, Any]:
    """Runs in the child: one build, batch and step, and what they loaded. Returns :class:`Rehearsal` as JSON."""
    from polledger.training import determinism

    request = parse_request(job)
    paths = list(sys.path)
    check_device(request.device)
    determinism.apply_switches(request.device)
    task = load_task(request)
    report: dict[str, Any] = {"examples": None, "seconds_per_example": 0.0}
    report["state_bytes"] = attempt(
        lambda: _train_one_step(task, workers=request.workers), "the rehearsal", request, task
    )
    if has_dataset(task):
        report |= attempt(lambda: check_dataset(task), "dataset()", request, task)
    return report | _loaded(request, task, paths)


def check_device(device: str) -> None:
    """Raises UsageError unless torch can compute on ``device`` here."""
    from polledger.training.switches import device_name

    try:
        device_name(device)
    except (EnvironmentMismatch, RuntimeError):
        raise UsageError(f"there is no device {device!r} here") from None


def attempt(action: Callable[[], T], what: str, request: RunRequest, task: "Task") -> T:
    """Run task code; what it raises becomes a UsageError with the line it came from."""
    try:
        return action()
    except (PolledgerError, OSError, KeyboardInterrupt, BrokenPipeError) as error:
        if isinstance(error, OSError):
            raise UsageError(f"{what} failed: {describe_error(error, request.location.root)}") from error
        raise
    except (Exception, SystemExit) as error:
        unset = sorted(name for name, value in task.inputs.items() if value is None)
        hint = f"; --input {unset[0]}=PATH was not given" if unset else ""
        reason = describe_error(error, request.location.root)
        raise UsageError(f"{what} failed: {reason}{hint}") from error


def has_dataset(task: "Task") -> bool:
    """True if the task can enumerate its data."""
    from polledger.training.task import overrides

    return overrides(type(task), "dataset")


def check_dataset(task: "Task") -> dict[str, Any]:
    """Read 16 examples twice, under different seeds and from data sets made anew; they must have equal bytes.

    Returns size and reading time. Raises UsageError otherwise, or if the data set is empty or has no length.
    """
    from polledger.core.seeds import rng_seeds
    from polledger.training.nest import encode_nest
    from polledger.training.seeds import seed_everything

    readings = []
    for purpose in ("first reading", "second reading"):
        seed_everything(rng_seeds(task.seed, 0, purpose), task.device)
        data = task.dataset()
        size = dataset_size(data)
        start = time.perf_counter()
        read = [b"".join(encode_nest(data[index], exact=True)) for index in _spread(size)]
        seconds = (time.perf_counter() - start) / len(read)
        readings.append((size, read))
        del data
    if readings[0][0] != readings[1][0]:
        raise UsageError(
            f"dataset() has {readings[0][0]} examples, then {readings[1][0]}: it must not change"
        )
    for index, *both in zip(_spread(size), readings[0][1], readings[1][1], strict=True):
        if both[0] != both[1]:
            raise UsageError(
                f"dataset()[{index}] differs from one reading to the next: move augmentation to collate, "
                "and random splits to a fixed seed"
            )
    return {"examples": size, "seconds_per_example": seconds}


def dataset_size(data: Any) -> int:
    """``len(data)``, at least 1. Raises UsageError for a data set that has no length or no examples."""
    try:
        size = len(data)
    except TypeError:
        raise UsageError(
            "dataset() has no len(): give a map-style data set, or override batch(n) and leave dataset() out"
        ) from None
    if size < 1:
        raise UsageError("dataset() is empty")
    return size


def _spread(size: int) -> Sequence[int]:
    count = min(size, EXAMPLES_READ_TWICE)
    return [index * (size - 1) // max(1, count - 1) for index in range(count)]


def _train_one_step(task: "Task", *, workers: int) -> int:
    """Returns the bytes of the state after it: optimizers make their slots in the first step."""
    from polledger.core.state import encode_state
    from polledger.training.batches import pack_batch
    from polledger.training.nest import encode_nest
    from polledger.training.recording import check_metric_names
    from polledger.training.runner import Runner
    from polledger.training.task import overrides

    runner = Runner(task, seed=task.seed, device=task.device)
    runner.build()
    batch = runner.batch(0)
    encode_nest(batch, exact=overrides(type(task), "batch"))
    if workers:
        pack_batch(batch)
    check_metric_names(runner.step(0, batch))
    return encode_state(runner.flatten()).size


def _loaded(request: RunRequest, task: "Task", paths: Sequence[str]) -> dict[str, Any]:
    from polledger.training.source import imported_distributions, task_modules
    from polledger.training.task import kind_of

    modules = dict(sys.modules)
    distributions = imported_distributions(modules)
    return {
        "class_name": type(task).__name__,
        "kind": kind_of(type(task)),
        "config": dict(task.config),
        "modules": task_modules(request.location, modules, environment_paths=paths),
        "distributions": msgspec.to_builtins(distributions),
    }
