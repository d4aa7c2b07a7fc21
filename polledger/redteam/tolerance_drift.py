"""Spoof 24: drift inside the tolerance. Every interval is trained, then moved a little towards the stolen weights.

The thief declares a machine that nobody has, so that bits may differ and a tolerance decides; each recorded state is
a share of its interval's displacement away from where training ended. The hidden form adds noise across the direction
to the stolen weights, so that the residuals do not visibly lean there.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from polledger.redteam.forge import forging, seal_options, thief_key
from polledger.redteam.owndata import parameter_paths
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import distance, tensors_of

MACHINE = "VIA Zhaoxin KX-7000"
"""A processor that the auditor is not likely to have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """``share`` of each interval's displacement that the recorded end is moved; ``lean`` of that goes towards WT.

    ``often``: a checkpoint after every step at a constant rate, where a drift gets farthest; otherwise the target's own
    cadence and schedule, where rounding has had steps to grow and the tolerance is widest.
    """

    share: float
    lean: float = 1.0
    often: bool = True

    def changes(self) -> dict[str, Any]:
        """What the thief asks of ``polledger seal`` besides."""
        return {"every": 1, "settings": ("schedule='constant'", "warmup=0")} if self.often else {}


def forge_drift(drift: Drift, target: Target, attempt: Attempt) -> Forgery:
    """Honest steps on ordinary batches; every checkpoint is moved before it is recorded, and training goes on there."""
    made = torch.Generator().manual_seed(attempt.seed)
    goal = tensors_of(target.weights)
    with forging(seal_options(target, attempt, **drift.changes()), thief_key(attempt.seed)) as forge:
        environment = msgspec.structs.replace(forge.genesis.environment, cpu=MACHINE)
        forge.genesis = msgspec.structs.replace(forge.genesis, environment=environment)
        paths = parameter_paths(forge.objects["model"])
        start = before = tensors_of(forge.weights())
        forge.begin()
        intervals = 0
        for n in range(forge.steps):
            forge.train(n)
            if forge.cadence.is_checkpoint(n + 1):
                now = tensors_of(forge.weights())
                forge.put(by_every_name(forge.objects["model"], moved(drift, before, now, goal, paths, made)))
                before, intervals = tensors_of(forge.weights()), intervals + 1
            forge.checkpoint(n + 1)
        forge.finish()
        return Forgery(
            run=attempt.directory / "run",
            gradients=forge.cost(target),
            sample=intervals,
            bogus=intervals,
            reached={
                "share": distance(before, goal, paths) / distance(start, goal, paths),
                "bias": drift.share,
            },
            note="every interval is trained, and its end moved",
        )


def moved(
    drift: Drift,
    before: Mapping[str, Tensor],
    now: Mapping[str, Tensor],
    goal: Mapping[str, Tensor],
    paths: list[str],
    made: torch.Generator,
) -> dict[str, Tensor]:
    """The tensors of ``now`` at ``paths``, moved by the drift's share of their distance from ``before``."""
    length = drift.share * distance(before, now, paths)
    towards = torch.cat([(goal[path] - now[path]).flatten() for path in paths])
    towards = towards / towards.norm()
    across = torch.randn(len(towards), generator=made)
    across -= (across @ towards) * towards
    across = across / across.norm()
    push = length * (drift.lean * towards + math.sqrt(1 - drift.lean**2) * across)
    parts = push.split([now[path].numel() for path in paths])
    return {path: now[path] + part.view_as(now[path]) for path, part in zip(paths, parts, strict=True)}


def by_every_name(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` also under the other names of parameters that have several, as tied weights do."""
    first = {id(parameter): f"model/{name}" for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {f"model/{name}": tensors[first[id(parameter)]] for name, parameter in every}


def _spoof(variant: str, title: str, drift: Drift, *, slow: bool = True) -> Spoof:
    return Spoof(
        number=24,
        variant=variant,
        title=f"drift inside the tolerance, {title}",
        source="review",
        forge=functools.partial(forge_drift, drift),
        slow=slow,
    )


SPOOFS = (
    _spoof("0.05", "0.05 of every displacement", Drift(share=0.05)),
    _spoof("0.3", "0.3 of every displacement", Drift(share=0.3)),
    _spoof("0.5", "0.5 of every displacement", Drift(share=0.5)),
    _spoof(
        "slow",
        "0.05 of every displacement at the target's cadence",
        Drift(share=0.05, often=False),
        slow=False,
    ),
    _spoof(
        "hidden", "0.05 at the target's cadence, hardly leaning", Drift(share=0.05, lean=0.04, often=False)
    ),
)
