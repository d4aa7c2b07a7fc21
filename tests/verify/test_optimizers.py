"""What an optimizer's own rule allows: honest steps of torch's optimizers keep to it, planted slots do not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from polledger.core.config import encode_config
from polledger.core.records import Checkpoint, Genesis, GroupValues, Step
from polledger.core.screening import ScreeningRules, Segment, Track, screen
from polledger.core.state import FlatState, encode_state, parse_state
from polledger.training.runner import group_values
from polledger.training.state import describe_objects, flatten_objects
from polledger.verify.lineage import Interval
from polledger.verify.movement import Meter
from polledger.verify.optimizers import OptimizerRules, slot_decay
from tests.verify.build import ENVIRONMENT, RUN, Spec, genesis_of

STEPS = 4
INTERVALS = 6


def torch_state(objects: dict[str, Any]) -> FlatState:
    encoded = encode_state(flatten_objects(objects))
    return parse_state(b"".join(bytes(part) for part in encoded.chunks()), root=encoded.root)


class Session:
    """A small model under one optimizer, measured every STEPS steps; ``bend`` changes it before a state is taken."""

    def __init__(self, name: str, *, kind: str = "recipe", calls: int = 1, **arguments: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.optimizer = getattr(torch.optim, name)(self.model.parameters(), **arguments)
        self.objects = {"model": self.model, "optimizer": self.optimizer}
        self.calls = calls
        self.genesis: Genesis = msgspec.structs.replace(
            genesis_of(Spec(), msgspec.UNSET),
            kind=kind,
            config=encode_config({"optimizer": name}),
            objects=describe_objects(self.objects),
        )

    def flagged(self, bend: Callable[[int, Any], None] = lambda interval, optimizer: None) -> list[int]:
        """Intervals with an optimizer flag."""
        meter, values, segments = Meter(self.genesis.objects, seed=b"s" * 32), [{}] * INTERVALS, []
        rules = OptimizerRules(self.genesis, values)
        meter.take(torch_state(self.objects))
        for number in range(INTERVALS):
            interval = self._interval(number)
            bend(number, self.optimizer)
            movement = meter.take(torch_state(self.objects), rules.expected([interval]))
            assert movement is not None
            limited = rules.limited([interval], movement)
            segments.append(
                Segment(
                    first=number,
                    last=number,
                    steps=STEPS,
                    moved={},
                    lessened=movement.lessened,
                    limited=limited,
                )
            )
        flags = screen(Track(segments=segments, places={}), ScreeningRules())
        return [flag.first for flag in flags if flag.kind == "optimizer"]

    def _interval(self, number: int) -> Interval:
        steps = []
        for n in range(number * STEPS, number * STEPS + STEPS):
            for _ in range(self.calls):
                self.optimizer.zero_grad()
                # Gradients that shrink quickly: sums decay as fast as they may.
                loss = self.model(torch.randn(5, 6)).square().mean() * 10.0 ** (-n / 2)
                loss.backward()
                self.optimizer.step()
            values = group_values(self.optimizer.param_groups[0])
            group = GroupValues(optimizer="optimizer", index=0, values=values)
            steps.append(Step(v=1, run=RUN, index=0, step=n, batch=bytes(32), groups=[group]))
        start, end = (
            Checkpoint(v=1, run=RUN, index=0, step=at, root=bytes(32), stored=True)
            for at in (number * STEPS, number * STEPS + STEPS)
        )
        return Interval(number=number, start=start, end=end, steps=tuple(steps), environment=ENVIRONMENT)


TORCH: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.5}),
    ("NAdam", {"lr": 0.01}),
    ("RAdam", {"lr": 0.01}),
    ("Adamax", {"lr": 0.01}),
    ("Adagrad", {"lr": 0.05}),
    ("Adadelta", {"lr": 1.0}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9}),
    ("ASGD", {"lr": 0.1}),
    ("Rprop", {"lr": 0.01}),
)


@pytest.mark.parametrize("kind", ["recipe", "custom"])
@pytest.mark.parametrize(("name", "arguments"), TORCH)
def test_honest_steps_keep_to_the_rules(name: str, arguments: dict[str, Any], kind: str) -> None:
    assert Session(name, kind=kind, **arguments).flagged() == []


def scaled(slot: str, factor: float) -> Callable[[int, Any], None]:
    def bend(interval: int, optimizer: Any) -> None:
        if interval == 3:
            for state in optimizer.state.values():
                state[slot] = state[slot] * factor
                break

    return bend


@pytest.mark.parametrize(
    ("name", "arguments", "slot"),
    [
        ("AdamW", {"lr": 0.01}, "exp_avg_sq"),
        ("Adam", {"lr": 0.01, "amsgrad": True}, "max_exp_avg_sq"),
        ("Adagrad", {"lr": 0.05}, "sum"),
        ("RMSprop", {"lr": 0.01}, "square_avg"),
        ("Adadelta", {"lr": 1.0}, "acc_delta"),
        ("Adamax", {"lr": 0.01}, "exp_inf"),
    ],
)
def test_a_sum_that_falls_faster_than_it_decays_is_flagged(
    name: str, arguments: dict[str, Any], slot: str
) -> None:
    assert 3 in Session(name, **arguments).flagged(scaled(slot, 0.5))


def test_a_step_counter_that_runs_ahead_is_flagged() -> None:
    def bend(interval: int, optimizer: Any) -> None:
        if interval == 3:
            for state in optimizer.state.values():
                state["step"] += 1

    assert Session("AdamW", lr=0.01).flagged(bend) == [3]


def test_a_parameter_that_moves_further_than_adam_reaches_is_flagged() -> None:
    def bend(interval: int, optimizer: Any) -> None:
        if interval == 3:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0][0, 0] += 0.4

    # 4 steps of 0.01 times at most 7.3, and weight decay.
    assert Session("AdamW", lr=0.01).flagged(bend) == [3]
    assert Session("SGD", lr=0.01).flagged(bend) == []


def test_a_custom_task_may_step_more_often_but_sums_that_never_fall_do_not() -> None:
    assert Session("AdamW", kind="custom", calls=3, lr=0.01).flagged() == []
    assert Session("AdamW", kind="custom", lr=0.01).flagged(scaled("exp_avg_sq", 0.5)) == []
    assert Session("Adagrad", kind="custom", lr=0.05).flagged(scaled("sum", 0.9)) == [3]


def test_the_smallest_decay_in_force_counts_over_all_steps() -> None:
    session = Session("AdamW", lr=0.01)
    interval = session._interval(0)
    first = interval.steps[0]
    assert not isinstance(first.groups, msgspec.UnsetType)
    lower = [msgspec.structs.replace(first.groups[0], index=1, values={"betas_1": b"\x3f\xe0" + bytes(6)})]
    steps = (msgspec.structs.replace(first, groups=[*first.groups, *lower]), *interval.steps[1:])
    expected = OptimizerRules(session.genesis, [{}]).expected([replace(interval, steps=steps)])
    assert expected.decay == {"optimizer/exp_avg_sq": 0.5**STEPS, "optimizer/max_exp_avg_sq": 1.0,
                              "optimizer/exp_inf": 0.5**STEPS}  # fmt: skip
    assert expected.steps == STEPS


@pytest.mark.parametrize(
    ("slot", "values", "share"),
    [
        ("exp_avg_sq", {"betas_1": 0.99}, 0.99),
        ("exp_avg_sq", {"momentum": 0.9}, None),
        ("square_avg", {"alpha": 0.9}, 0.9),
        ("square_avg", {"rho": 0.8}, 0.8),
        ("acc_delta", {"rho": 0.8}, 0.8),
        ("sum", {"lr_decay": 0.0}, 1.0),
        ("sum", {"lr": 0.1}, None),
        ("max_exp_avg_sq", {"betas_1": 0.9}, 1.0),
    ],
)
def test_shares_that_a_step_leaves(slot: str, values: dict[str, Any], share: float | None) -> None:
    assert slot_decay(slot, values) == share
