"""An interrupted run continues bit for bit: state to bytes, a fresh build, bytes back, further steps.

Over torch's optimizers, schedulers, scaler, averaged models and parameter types: PROTOCOL section 5.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from polledger.core.state import encode_state, parse_state
from polledger.training.runner import Runner
from polledger.training.task import Task, prepare_task

SEED = 2**64 - 17
BEFORE, AFTER = 5, 5


class Net(nn.Module):
    """Normalisation, dropout, tied weights and a buffer outside the state dict that changes the result."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6, dtype=dtype)
        self.second = nn.Linear(6, 6, dtype=dtype)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(6, dtype=dtype)
        self.last = nn.Linear(6, 3, dtype=dtype)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        x = nn.functional.dropout(self.norm(self.first(x)).relu(), 0.2, self.training)
        out: Tensor = self.last(self.second(x)) / (1 + 0.01 * self.seen)
        return out


class Points(Task):
    """Thirty points in six dimensions, three classes."""

    config = {"batch_size": 8, "steps": 20}
    dtype = torch.float32

    def dataset(self) -> list[tuple[Tensor, int]]:
        made = torch.Generator().manual_seed(1)
        return [(torch.randn(6, generator=made), i % 3) for i in range(30)]

    def collate(self, examples: list[Any]) -> Any:
        x = torch.stack([example[0] for example in examples])
        return (x + 0.01 * torch.randn_like(x)).to(self.dtype), torch.tensor(
            [example[1] for example in examples]
        )

    def step(self, state: dict[str, Any], batch: Any) -> dict[str, float]:
        def closure() -> Tensor:
            state["optimizer"].zero_grad()
            loss = nn.functional.cross_entropy(state["model"](batch[0]).float(), batch[1])
            loss.backward()
            return loss

        if isinstance(state["optimizer"], torch.optim.LBFGS):
            loss = state["optimizer"].step(closure)
        else:
            loss = closure()
            state["optimizer"].step()
        if "schedule" in state:
            plateau = isinstance(state["schedule"], lr_scheduler.ReduceLROnPlateau)
            state["schedule"].step(*([loss.detach()] if plateau else []))
        if "average" in state:
            state["average"].update_parameters(state["model"])
        return {"loss": float(loss.detach())}


def task_with(build: Callable[[], dict[str, Any]], dtype: torch.dtype = torch.float32) -> type[Task]:
    """A task of that ``build``."""
    return type("Made", (Points,), {"build": lambda self: build(), "dtype": dtype})


def train(runner: Runner, first: int, last: int) -> None:
    """Steps ``first`` to ``last`` − 1 from the data set."""
    for n in range(first, last):
        runner.step(n, runner.batch(n))


def saved(runner: Runner) -> tuple[bytes, bytes]:
    """State root and state file."""
    encoded = encode_state(runner.flatten())
    return encoded.root, b"".join(bytes(part) for part in encoded.chunks())


def assert_resumes(cls: type[Task]) -> None:
    """Trained through equals trained in two processes' worth of runners, and a step moved something."""
    runner = Runner(prepare_task(cls), seed=SEED)
    runner.build()
    start, _ = saved(runner)
    train(runner, 0, BEFORE)
    root, file = saved(runner)
    train(runner, BEFORE, BEFORE + AFTER)
    end, _ = saved(runner)
    fresh = Runner(prepare_task(cls), seed=SEED)
    fresh.build()
    assert saved(fresh)[0] == start
    fresh.load(parse_state(file, root=root))
    assert saved(fresh)[0] == root
    train(fresh, BEFORE, BEFORE + AFTER)
    assert saved(fresh)[0] == end
    assert len({start, root, end}) == 3


OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 1e-3}),
    "sgd-nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd-foreach": ("SGD", {"lr": 0.1, "momentum": 0.9, "foreach": True}),
    "adam": ("Adam", {"lr": 0.01}),
    "adam-amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.01}),
    "adam-fused": ("Adam", {"lr": 0.01, "fused": True}),
    "adamw": ("AdamW", {"lr": 0.01, "betas": (0.8, 0.95)}),
    "adamw-amsgrad": ("AdamW", {"lr": 0.01, "amsgrad": True}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop-centered": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9}),
    "nadam": ("NAdam", {"lr": 0.01}),
    "radam": ("RAdam", {"lr": 0.01}),
    "adamax": ("Adamax", {"lr": 0.01}),
    "adadelta": ("Adadelta", {"lr": 1.0}),
    "asgd": ("ASGD", {"lr": 0.1, "t0": 2.0}),
    "rprop": ("Rprop", {"lr": 0.01}),
    "adafactor": ("Adafactor", {"lr": 0.01}),
    "lbfgs": ("LBFGS", {"lr": 0.1, "max_iter": 3, "history_size": 4, "line_search_fn": "strong_wolfe"}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_continues_bit_for_bit(name: str) -> None:
    kind, arguments = OPTIMIZERS[name]

    def build() -> dict[str, Any]:
        model = Net()
        return {"model": model, "optimizer": getattr(torch.optim, kind)(model.parameters(), **arguments)}

    assert_resumes(task_with(build))


def _sequential(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    parts = [
        lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=3),
        lr_scheduler.CosineAnnealingLR(optimizer, T_max=10),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda n: 0.9**n),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda n: 0.95),
    "step": lambda o: lr_scheduler.StepLR(o, 2),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 4, 7]),
    "constant": lambda o: lr_scheduler.ConstantLR(o, total_iters=6),
    "linear": lambda o: lr_scheduler.LinearLR(o, total_iters=8),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, total_iters=20),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=10),
    "warm-restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=3, cycle_momentum=True),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "sequential": _sequential,
    "swa": lambda o: SWALR(o, swa_lr=0.01, anneal_epochs=6),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_continues_bit_for_bit(name: str) -> None:
    def build() -> dict[str, Any]:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return {"model": model, "optimizer": optimizer, "schedule": SCHEDULERS[name](optimizer)}

    assert_resumes(task_with(build))


@pytest.mark.parametrize("average", ["swa", "ema-with-buffers"])
def test_averaged_model_continues_bit_for_bit(average: str) -> None:
    def build() -> dict[str, Any]:
        model = Net()
        options: dict[str, Any] = (
            {} if average == "swa" else {"multi_avg_fn": get_ema_multi_avg_fn(0.9), "use_buffers": True}
        )
        return {
            "model": model,
            "optimizer": torch.optim.AdamW(model.parameters(), lr=0.01),
            "average": AveragedModel(model, **options),
        }

    assert_resumes(task_with(build))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_parameters_of_another_dtype_continue_bit_for_bit(dtype: torch.dtype) -> None:
    def build() -> dict[str, Any]:
        model = Net(dtype)
        return {"model": model, "optimizer": torch.optim.Adam(model.parameters(), lr=0.01)}

    assert_resumes(task_with(build, dtype))


class WideSlots(torch.optim.Optimizer):
    """Momentum in float32 for parameters of any type, as mixed precision optimizers keep it."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p, dtype=torch.float32)
                    state["nested"] = {"second": [torch.zeros_like(p, dtype=torch.float64)], "count": 0}
                state["momentum"].mul_(0.9).add_(p.grad.float())
                state["nested"]["second"][0].add_(p.grad.double() ** 2)
                state["nested"]["count"] += 1
                p.add_((-group["lr"] * state["momentum"]).to(p.dtype))


def test_slots_wider_than_their_parameters_keep_their_dtype() -> None:
    def build() -> dict[str, Any]:
        model = Net(torch.bfloat16)
        return {"model": model, "optimizer": WideSlots(model.parameters(), 0.05)}

    assert_resumes(task_with(build, torch.bfloat16))


def test_gradient_scaler_accumulation_and_groups_continue_bit_for_bit() -> None:
    class Scaled(Points):
        def build(self) -> dict[str, Any]:
            model = Net()
            groups = [
                {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
                {"params": [p for p in model.parameters() if p.ndim <= 1], "lr": 0.02},
            ]
            optimizer = torch.optim.AdamW(groups, lr=torch.tensor(0.01))
            scaler = torch.amp.GradScaler("cpu", init_scale=2**15, growth_interval=3)
            return {"model": model, "optimizer": optimizer, "scaler": scaler}

        def step(self, state: dict[str, Any], batch: Any) -> dict[str, float]:
            for x, y in zip(batch[0].chunk(2), batch[1].chunk(2), strict=True):
                with torch.autocast("cpu", dtype=torch.float16):
                    loss = nn.functional.cross_entropy(state["model"](x).float(), y) / 2
                state["scaler"].scale(loss).backward()
            state["scaler"].unscale_(state["optimizer"])
            nn.utils.clip_grad_norm_(state["model"].parameters(), 0.5)
            state["scaler"].step(state["optimizer"])
            state["scaler"].update()
            return {"loss": float(loss.detach())}

    assert_resumes(Scaled)


RECIPE = {"steps": 20, "batch_size": 8, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {
            "optimizer": "AdamW",
            "momentum": 0.0,
            "lr": 0.01,
            "schedule": "cosine",
            "warmup": 3,
            "betas": [0.8, 0.9],
        },
        {"clip": 0.5, "accumulate": 4, "ema": 0.9, "schedule": "onecycle"},
        {"precision": "bf16", "schedule": "linear", "final_lr": 0.1},
        {"precision": "fp16", "clip": 1.0, "ema": 0.5, "schedule": "step", "step_size": 2, "gamma": 0.5},
        {
            "groups": [
                {"match": ["first.*"], "frozen": True},
                {"match": ["norm.*"], "lr_scale": 0.1, "momentum": 0.5},
            ]
        },
    ],
)
def test_recipe_continues_bit_for_bit(config: dict[str, Any]) -> None:
    class Recipe(Points):
        config = RECIPE

        def model(self) -> nn.Module:
            return Net()

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])

        step = Task.step

    assert_resumes(type("Configured", (Recipe,), {"config": {**RECIPE, **config}}))


def test_custom_object_of_every_kind_of_value_continues_bit_for_bit() -> None:
    class Odd:
        """Keeps what real objects keep: None, tuples, int keys, texts, infinities, tensors of other types."""

        def __init__(self) -> None:
            self.values: dict[Any, Any] = {
                0: None,
                "pair": (1, [2.5, -math.inf], b"raw"),
                "text/with#odd~keys": {"ä": True, -3: 2**70},
                "tensors": [torch.zeros(2, 0), torch.arange(6).view(2, 3).T, torch.tensor(True)],
                "complex": torch.tensor([1 + 2j]),
                "eight": torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn),
                "bits": torch.tensor([1, 255], dtype=torch.uint8),
            }

        def state_dict(self) -> dict[Any, Any]:
            return self.values

        def load_state_dict(self, values: dict[Any, Any]) -> None:
            self.values = values

    class WithOdd(Points):
        def build(self) -> dict[str, Any]:
            model = Net()
            return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "odd": Odd()}

        def step(self, state: dict[str, Any], batch: Any) -> dict[str, float]:
            values = state["odd"].values
            values["tensors"][1] = values["tensors"][1] + 1
            values["text/with#odd~keys"][-3] += 1
            values.setdefault("later", []).append(len(values))
            return super().step(state, batch)

    assert_resumes(WithOdd)
