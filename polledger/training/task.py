"""The task contract: what a user writes, and nothing that needs torch. PROTOCOL section 9.

A *recipe* gives ``config``, ``model``, ``dataset`` and ``loss``; polledger builds the optimizer and runs the step.
Overriding ``build``, ``step`` or ``batch`` makes the task *custom*: anything that trains fits, less is checked.
"""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from polledger.errors import UsageError

Kind = Literal["recipe", "custom"]

T = TypeVar("T", bound="Task")


class Task:
    """Base class of every training task.

    Class attributes:

    - ``config``: committed in genesis; its recipe keys are listed in :mod:`polledger.training.recipe`, any other
      key is the user's own.
    - ``inputs``: names of places where data lies, set by ``--input NAME=PATH`` and never committed.
    - ``domains``: path of a field of an example -> the values it may take (``range``, ``"one_hot"``, a grid).

    On an instance made by :func:`prepare_task`, ``self.config`` and ``self.inputs`` hold the values of this run,
    ``self.device`` is a torch device string, ``self.seed`` the 64-bit training seed, and ``self.step_number`` the
    number of the running step, from 0. An attribute that a step writes on ``self`` is *not* state: it is lost
    between recording and replay. What training changes belongs into an object returned by :meth:`build`.
    """

    config: Mapping[str, Any] = {}
    inputs: Mapping[str, str | None] = {}
    domains: ClassVar[Mapping[str, Any]] = {}

    device: str = "cpu"
    seed: int = 0
    step_number: int = 0

    def model(self) -> Any:
        """The ``torch.nn.Module`` to train, freshly initialised; its RNG is seeded before the call."""
        raise UsageError(f"{type(self).__name__} does not define model()")

    def dataset(self) -> Any:
        """A map-style data set: ``len()`` and ``[i]`` giving tensors, arrays, numbers or nests of them.

        ``dataset()[i]`` must give the same bytes each time; augmentation belongs into :meth:`collate`.
        """
        raise UsageError(f"{type(self).__name__} does not define dataset()")

    def loss(self, model: Any, batch: Any) -> Any:
        """A scalar tensor, or ``(scalar tensor, {"metric": number})``, for one batch on ``self.device``."""
        raise UsageError(f"{type(self).__name__} does not define loss(model, batch)")

    def collate(self, examples: list[Any]) -> Any:
        """One batch from a list of examples. RNG is keyed by the step number, so augmentation lives here.

        The default is torch's ``default_collate``: tensors, arrays and numbers are stacked, nests kept.
        """
        from torch.utils.data import default_collate

        return default_collate(examples)

    def build(self) -> dict[str, Any]:
        """Everything training changes, by name, the model under ``"model"``; by default the recipe's objects."""
        from polledger.training.recipe import build_objects

        return build_objects(self)

    def step(self, state: dict[str, Any], batch: Any) -> Mapping[str, Any] | None:
        """One optimizer step on the objects of :meth:`build`; returns numbers to record. By default the recipe's."""
        from polledger.training.recipe import recipe_step

        return recipe_step(self, state, batch)

    def batch(self, n: int) -> Any:
        """The batch of step ``n``. Not called unless overridden: by default examples follow PROTOCOL section 6."""
        raise UsageError(
            "batch(n) is computed from dataset() and collate(); call those, or override batch fully"
        )


def overrides(cls: type[Task], method: str) -> bool:
    """True when ``cls`` (or a class between it and Task) defines ``method`` itself."""
    return getattr(cls, method) is not getattr(Task, method)


def kind_of(cls: type[Task]) -> Kind:
    """``"custom"`` if and only if ``build``, ``step`` or ``batch`` is overridden. PROTOCOL section 9."""
    return "custom" if any(overrides(cls, name) for name in ("build", "step", "batch")) else "recipe"


def prepare_task(
    cls: type[T],
    *,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str | None] | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> T:
    """An instance of ``cls`` ready to run, the class itself unchanged.

    ``config`` and ``inputs`` are merged over the class's own (copied deeply). ``seed`` is the training seed of
    PROTOCOL section 6. Raises UsageError for an input that ``cls`` does not declare, or if ``cls()`` needs arguments.
    Not checked: whether a config key is known; :func:`polledger.core.schedule.check_recipe` does that.
    """
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise UsageError(f"{cls!r} is not a subclass of polledger.Task")
    unknown = sorted(set(inputs or {}) - set(cls.inputs))
    if unknown:
        known = ", ".join(sorted(cls.inputs)) or "none"
        raise UsageError(f"{cls.__name__} has no input {unknown[0]!r} (declared: {known})")
    try:
        task = cls()
    except TypeError as error:
        raise UsageError(f"{cls.__name__} must be constructible without arguments: {error}") from None
    task.config = copy.deepcopy({**cls.config, **(config or {})})
    task.inputs = {**cls.inputs, **(inputs or {})}
    task.device = device
    task.seed = seed
    task.step_number = 0
    return task
