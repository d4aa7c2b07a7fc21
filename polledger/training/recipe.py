"""The step polledger runs itself: optimizer, schedule, precision, clipping, accumulation and EMA from config.

========== ============================================================================================= ==========
key        meaning                                                                                       default
========== ============================================================================================= ==========
steps      optimizer steps                                                                               required
batch_size examples per optimizer step                                                                   required
optimizer  class of ``torch.optim`` by name; LBFGS needs an own ``step()``                               required
lr         learning rate at the schedule's factor 1                                                      required
...        any further constructor argument of that optimizer: momentum, betas (a list), weight_decay …  torch's
groups     list of {name, match, lr, lr_scale, frozen, further arguments}: a parameter belongs to the    []
           first group one of whose glob patterns in ``match`` fits its name, else to a last group of all
           others; ``frozen = true`` keeps it from training
schedule   constant, linear, cosine, polynomial, exponential, step, multistep, inverse_sqrt, wsd,        constant
           onecycle
warmup     steps of linear warm-up; for onecycle the step of the peak                                    0
final_lr   fraction of lr at the end of linear, cosine, polynomial, wsd, onecycle                        0.0
power      polynomial: integer exponent                                                                  2
gamma      exponential (per step), step, multistep: factor                                               0.99, 0.1
step_size  step: steps between two factors                                                               100
milestones multistep: steps at which the factor applies                                                  []
decay_steps  wsd: steps of the linear descent at the end                                                 100
start_lr   onecycle: fraction of lr at step 0                                                            0.04
clip       largest global norm of the gradients; 0 for none                                              0.0
accumulate equal micro-batches per step, the loss averaged over them                                     1
precision  fp32, tf32 (CUDA products), bf16 (autocast), fp16 (autocast and gradient scaler)              fp32
ema        decay of an exponential moving average of the model, the object "ema"; 0 for none             0.0
========== ============================================================================================= ==========

A key that is not in this table is the task's own. Objects: ``model``, ``optimizer`` and, where asked for, ``scaler``
and ``ema``. The schedule is no object: learning rates are functions of (config, step). PROTOCOL section 9.
"""

import copy
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polledger.core.schedule import (
    DEFAULTS,
    Number,
    Schedule,
    all_groups,
    check_recipe,
    near,
    optimizer_arguments,
    trained_groups,
)
from polledger.errors import UsageError
from polledger.training.switches import allow_tf32
from polledger.training.task import Task

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the step itself takes from config."""

    clip: float
    accumulate: int
    precision: str
    ema: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """The settings of a checked config."""
        return cls(**{key: config.get(key, DEFAULTS[key]) for key in cls.__slots__})


def build_objects(task: Task) -> dict[str, Any]:
    """Model, optimizer and what config asks for besides. Raises UsageError for a config a recipe cannot run with."""
    check_recipe(task.config)
    settings = Settings.of(task.config)
    if settings.precision == "tf32":
        allow_tf32()
    model = task.model()
    if not isinstance(model, nn.Module):
        raise UsageError(f"model() gave a {type(model).__name__}, not a torch.nn.Module")
    model.to(task.device)
    objects: dict[str, Any] = {"model": model, "optimizer": _build_optimizer(task.config, model)}
    if settings.precision == "fp16":
        objects["scaler"] = torch.amp.GradScaler(torch.device(task.device).type)
    if settings.ema:
        objects["ema"] = copy.deepcopy(model).requires_grad_(False).eval()
    return objects


def _build_optimizer(config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    schedule = Schedule(config)
    parameters = _split_parameters(config, model)
    groups = []
    for table, members in zip(trained_groups(config), parameters, strict=True):
        own = {
            key: value for key, value in table.items() if key not in ("name", "match", "lr_scale", "frozen")
        }
        groups.append({**_tuples(own), "params": members})
    arguments = {**optimizer_arguments(config), "lr": float(config["lr"])}
    kind = getattr(torch.optim, schedule.optimizer, None)
    if kind is None:
        raise UsageError(f"torch {torch.__version__} has no optimizer {schedule.optimizer}")
    try:
        optimizer: torch.optim.Optimizer = kind(groups, **_tuples(arguments))
    except (TypeError, ValueError) as error:
        raise UsageError(f"torch.optim.{schedule.optimizer}: {error}") from None
    apply_hyperparameters(optimizer, schedule.at(0))
    return optimizer


def _tuples(arguments: Mapping[str, Any]) -> dict[str, Any]:
    # Config holds lists; betas and the like are tuples.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}


def _split_parameters(config: Mapping[str, Any], model: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters of each group that trains, in the model's order, the unmatched last; frozen ones are switched off."""
    groups = all_groups(config)
    members: list[list[nn.Parameter]] = [[] for _ in [*groups, None]]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[_first_match(name, groups)].append(parameter)
    for i, group in enumerate(groups):
        if not members[i]:
            names = [name for name, _ in model.named_parameters()]
            raise UsageError(
                f"config key 'groups[{i}].match' fits no parameter{near(group['match'][0], names)}"
            )
        if group.get("frozen", False):
            for parameter in members[i]:
                parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("the model has no parameter that trains")
    frozen = [bool(group.get("frozen", False)) for group in groups] + [False]
    return [found for found, skipped in zip(members, frozen, strict=True) if not skipped]


def _first_match(name: str, groups: list[Mapping[str, Any]]) -> int:
    for i, group in enumerate(groups):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in group["match"]):
            return i
    return len(groups)


def apply_hyperparameters(optimizer: torch.optim.Optimizer, groups: list[dict[str, Number]]) -> None:
    """Set what config owns (:mod:`polledger.core.schedule`) on every parameter group; all else in it stays."""
    for group, values in zip(optimizer.param_groups, groups, strict=True):
        for key, old in group.items():
            if key in values:
                group[key] = values[key]
            elif isinstance(old, tuple):
                group[key] = tuple(values.get(f"{key}_{i}", item) for i, item in enumerate(old))


def recipe_step(task: Task, state: dict[str, Any], batch: Any) -> dict[str, float]:
    """Forward, backward and one optimizer step on ``batch``, which lies on ``task.device``.

    Returns the loss averaged over the micro-batches, the task's own metrics likewise, and with clipping the norm
    of the gradients before it. Raises UsageError if ``loss`` gives no scalar tensor or the batch cannot be split.
    """
    settings = Settings.of(task.config)
    model, optimizer, scaler = state["model"], state["optimizer"], state.get("scaler")
    metrics: dict[str, float] = {}
    for part in split_batch(batch, settings.accumulate):
        loss, extra = _loss(task, model, part, settings)
        share = loss / settings.accumulate if settings.accumulate > 1 else loss
        (share if scaler is None else scaler.scale(share)).backward()
        for name, value in {"loss": loss.detach(), **extra}.items():
            metrics[name] = metrics.get(name, 0.0) + float(value) / settings.accumulate
    if settings.clip:
        metrics["grad_norm"] = _clip(optimizer, scaler, settings.clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    if settings.ema:
        update_ema(state["ema"], model, settings.ema)
    return metrics


def _loss(task: Task, model: nn.Module, batch: Any, settings: Settings) -> tuple[Tensor, Mapping[str, Any]]:
    dtype = AUTOCAST.get(settings.precision)
    kind = torch.device(task.device).type
    with torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
        result = task.loss(model, batch)
    loss, extra = result if isinstance(result, tuple) else (result, {})
    if not isinstance(loss, Tensor) or loss.ndim or not isinstance(extra, Mapping):
        raise UsageError("loss() must give a scalar tensor, or (scalar tensor, {name: number})")
    return loss, extra


def _clip(optimizer: torch.optim.Optimizer, scaler: Any, norm: float) -> float:
    if scaler is not None:
        scaler.unscale_(optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return float(nn.utils.clip_grad_norm_(parameters, norm))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move every floating parameter of ``ema`` by 1 − decay towards ``model``'s; copy all buffers and other values."""
    for mean, value in zip(ema.parameters(), model.parameters(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value.to(mean.dtype), 1.0 - decay)
        else:
            mean.copy_(value)
    for held, current in zip(ema.buffers(), model.buffers(), strict=True):
        held.copy_(current)


def split_batch(batch: Any, parts: int) -> Iterator[Any]:
    """``parts`` equal micro-batches: every tensor (and list of texts or numbers) cut along its first dimension.

    Nests keep their structure; numbers and 0-dim tensors go into every part. Raises UsageError if the first
    dimensions differ or are not a multiple of ``parts``.
    """
    if parts == 1:
        yield batch
        return
    lengths = set(_lengths(batch))
    if len(lengths) != 1:
        raise UsageError(f"accumulate: the batch has no common first dimension (found {sorted(lengths)})")
    (length,) = lengths
    if length % parts:
        raise UsageError(f"accumulate: a batch of {length} cannot be cut into {parts} equal parts")
    size = length // parts
    for start in range(0, length, size):
        yield _slice(batch, start, start + size)


def _is_column(value: Any) -> bool:
    """A list as ``default_collate`` makes it from texts."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str | bytes | int | float)


def _lengths(value: Any) -> Iterator[int]:
    if isinstance(value, Tensor):
        if value.ndim:
            yield value.shape[0]
    elif _is_column(value):
        yield len(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _lengths(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _lengths(item)


def _slice(value: Any, start: int, end: int) -> Any:
    if isinstance(value, Tensor):
        return value[start:end] if value.ndim else value
    if _is_column(value):
        return value[start:end]
    return map_nest(value, lambda item: _slice(item, start, end))


def map_nest(value: Any, change: Any) -> Any:
    """The container ``value`` with ``change`` applied to every item; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: change(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(change(item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(change(item) for item in value)
    return value
