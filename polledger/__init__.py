"""Seal a PyTorch training run as it happens, and verify it later by replaying sampled intervals.

``Task`` describes a training that polledger runs and can replay; ``Recorder`` seals a plain loop.
Importing this package loads neither torch, numpy nor cryptography: both names load on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polledger.training.recorder import Recorder
    from polledger.training.task import Task

__version__ = "0.1.0"

__all__ = ["Recorder", "Task", "__version__"]

_HOMES = {"Recorder": "polledger.training.recorder", "Task": "polledger.training.task"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'polledger' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
