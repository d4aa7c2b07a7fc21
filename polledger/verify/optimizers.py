"""What an optimizer's own rule says about its slots and the parameters, before a state is looked at.

PROTOCOL section 10, step 5, "optimizer invariants": Σv_{i+1} ≥ β2^steps Σv_i holds for every element.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from polledger.core.config import decode_config
from polledger.core.records import Genesis
from polledger.core.screening import adam_reach
from polledger.core.state import escape
from polledger.core.structure import join
from polledger.verify.lineage import Interval, Values, changed_values
from polledger.verify.movement import Expected, Movement

SLACK = 1.01
"""On the bound of a parameter's change: roundings of the steps between, far below this."""

BOUNDED = frozenset({"Adam", "AdamW"})
"""Optimizers whose step is bounded by their learning rate, whatever the gradients are."""

Number = float | int | bool


@dataclass(frozen=True, slots=True)
class OptimizerRules:
    """Rules of the optimizers of one run. ``values[i]``: hyperparameters in force before interval i.

    A custom task may step its optimizer any number of times: of its slots only those that never fall are held to
    anything. Recorded hyperparameters are step 4's; they can add flags here, and take away only these.
    """

    genesis: Genesis
    values: Sequence[Values]

    def expected(self, intervals: Sequence[Interval]) -> Expected:
        """What to look at between the start of the first and the end of the last of ``intervals``."""
        steps = sum(len(interval.steps) for interval in intervals)
        names = [item.name for item in self.genesis.objects if item.kind == "optimizer"]
        decay: dict[str, float] = {}
        for name in names:
            in_force = list(self._in_force(intervals, name))
            for slot in SLOTS:
                shares = [share for values in in_force if (share := slot_decay(slot, values)) is not None]
                least = min(shares, default=math.nan)
                # What no optimizer takes (NaN too) says nothing about its sums; powers above 1 overflow.
                if least == 1 or (0 <= least < 1 and self._is_recipe()):
                    decay[join(escape(name), slot)] = least**steps
        return Expected(
            steps=steps,
            decay=decay,
            counters=frozenset(self._counters(names)),
            reached=frozenset({"model/parameters"} if self._is_bounded() else ()),
        )

    def limited(self, intervals: Sequence[Interval], movement: Movement) -> dict[str, tuple[float, float]]:
        """By group, what ``movement`` shows and the most that the rules allow."""
        steps = float(sum(len(interval.steps) for interval in intervals))
        limits = {group: (grown, steps) for group, grown in movement.grown.items()}
        for group, (change, size) in movement.reach.items():
            limits[group] = (change, SLACK * self._reach(intervals, size + change))
        return limits

    def _is_recipe(self) -> bool:
        return self.genesis.kind == "recipe"

    def _is_bounded(self) -> bool:
        return self._is_recipe() and decode_config(self.genesis.config).get("optimizer") in BOUNDED

    def _counters(self, names: Sequence[str]) -> Iterator[str]:
        if self._is_recipe():
            yield from (join(escape(name), "step") for name in names)

    def _in_force(self, intervals: Sequence[Interval], name: str) -> Iterator[Mapping[str, Number]]:
        """Hyperparameters of every group of the optimizer ``name`` at every step."""
        values = self.values[intervals[0].number]
        for interval in intervals:
            for step in interval.steps:
                values = changed_values(values, step.groups)
                yield from (group for (optimizer, _), group in values.items() if optimizer == name)

    def _reach(self, intervals: Sequence[Interval], size: float) -> float:
        """Most that one parameter, of magnitude ``size`` at most, changes by."""
        total, values = 0.0, self.values[intervals[0].number]
        for interval in intervals:
            for step in interval.steps:
                values = changed_values(values, step.groups)
                total += max((_step_reach(group, size) for group in values.values()), default=0.0)
        return total


def _step_reach(values: Mapping[str, Number], size: float) -> float:
    unit = adam_reach(beta1=values.get("betas_0", 0.9), beta2=values.get("betas_1", 0.999))
    lr = float(values.get("lr", 0.0))
    # Without this, 0 times an unbounded step would be no number.
    return lr * (unit + values.get("weight_decay", 0.0) * size) if lr else 0.0


SLOTS = ("acc_delta", "exp_avg_sq", "exp_inf", "max_exp_avg_sq", "square_avg", "sum")
"""Slots of torch's optimizers that a step either adds to or lets decay by a known factor."""


def slot_decay(slot: str, values: Mapping[str, Number]) -> float | None:
    """The share of ``slot`` that one step leaves at least; None where the hyperparameters are of another optimizer."""
    if slot in ("exp_avg_sq", "exp_inf"):
        return values.get("betas_1")
    if slot == "square_avg":
        return values.get("alpha", values.get("rho"))
    if slot == "acc_delta":
        return values.get("rho")
    # Adagrad's sum and AMSGrad's maximum never fall.
    return 1.0 if ("lr_decay" if slot == "sum" else "betas_1") in values else None
