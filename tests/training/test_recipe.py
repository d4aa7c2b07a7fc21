"""The recipe: config becomes optimizer, groups, schedule, precision, accumulation, clipping and EMA."""

import inspect
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polledger.core.encoding import real
from polledger.core.optimizers import OPTIMIZERS
from polledger.core.schedule import hyperparameters
from polledger.errors import UsageError
from polledger.training.recipe import recipe_step, split_batch, update_ema
from polledger.training.runner import Runner
from polledger.training.task import Task, prepare_task

BASE: dict[str, Any] = {"steps": 10, "batch_size": 4, "optimizer": "SGD", "lr": 0.1}


class Regression(Task):
    """Four weights, a square loss: every number can be computed by hand."""

    config = BASE

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))

    def dataset(self) -> list[tuple[Tensor, Tensor]]:
        made = torch.Generator().manual_seed(0)
        return [(torch.randn(3, generator=made), torch.randn(1, generator=made)) for _ in range(12)]

    def loss(self, model: nn.Module, batch: Any) -> Any:
        return nn.functional.mse_loss(model(batch[0]), batch[1])


def runner_with(cls: type[Task] = Regression, **config: Any) -> Runner:
    runner = Runner(prepare_task(cls, config={**BASE, **config}), seed=5)
    runner.build()
    return runner


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def train(runner: Runner, steps: int) -> list[dict[str, float]]:
    return [runner.step(n, runner.batch(n)) for n in range(steps)]


def test_optimizer_table_is_that_of_torch() -> None:
    found = {
        name
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    }
    assert set(OPTIMIZERS) == found - {"LBFGS"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_arguments_are_those_of_torch(name: str) -> None:
    signature = inspect.signature(getattr(torch.optim, name).__init__).parameters
    defaults = {key: value.default for key, value in signature.items() if key not in ("self", "params")}
    assert set(OPTIMIZERS[name]) == set(defaults)
    for key, value in OPTIMIZERS[name].items():
        known = defaults[key]
        if known is not None and not (isinstance(known, tuple) and None in known):
            assert value == known
            assert isinstance(value, type(known)) or isinstance(known, int)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("SparseAdam", "Muon")])
def test_recorded_hyperparameters_are_the_computed_ones(name: str) -> None:
    own = {key: list(value) if isinstance(value, tuple) else value for key, value in OPTIMIZERS[name].items()}
    own = {
        key: value
        for key, value in own.items()
        if key not in ("fused", "foreach", "differentiable", "capturable")
    }
    config = {**BASE, **own, "optimizer": name, "schedule": "cosine", "warmup": 3}
    config["groups"] = [
        {"match": ["0.*"], "lr_scale": 0.5, "eps": 1e-5}
        if "eps" in own and name != "Adafactor"
        else {"match": ["0.*"], "lr_scale": 0.5}
    ]
    runner = runner_with(**config)
    for n in range(5):
        runner.prepare(n)
        recorded = runner.hyperparameters()
        expected = hyperparameters(config, n)
        assert [(item.optimizer, item.index) for item in recorded] == [("optimizer", 0), ("optimizer", 1)]
        for item, owned in zip(recorded, expected, strict=True):
            for key, value in owned.items():
                assert item.values[key] == (real(value) if isinstance(value, float) else value), key
                assert isinstance(item.values[key], bool) == isinstance(value, bool)
        runner.step(n, runner.batch(n))


def test_every_optimizer_argument_is_owned_and_recorded() -> None:
    runner = runner_with(optimizer="AdamW", betas=[0.5, 0.6], eps=1e-4, amsgrad=True, weight_decay=0)
    (found,) = runner.hyperparameters()
    assert found.values["betas_0"] == real(0.5)
    assert found.values["betas_1"] == real(0.6)
    assert found.values["eps"] == real(1e-4)
    assert found.values["amsgrad"] is True
    assert found.values["weight_decay"] == 0
    assert "params" not in found.values
    assert "foreach" not in found.values
    (group,) = runner.objects["optimizer"].param_groups
    assert group["betas"] == (0.5, 0.6)


def test_prepare_restores_what_a_checkpoint_planted() -> None:
    runner = runner_with(momentum=0.9, optimizer="SGD")
    runner.objects["optimizer"].param_groups[0].update(lr=7.0, momentum=1.0)
    runner.prepare(3)
    group = runner.objects["optimizer"].param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.1, 0.9)


def test_plain_step_is_the_one_torch_would_make() -> None:
    runner = runner_with(momentum=0.9, schedule="linear")
    model = Regression().model()
    model.load_state_dict(runner.objects["model"].state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for n in range(4):
        batch = runner.batch(n)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - n / 10)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        metrics = runner.step(n, batch)
        assert metrics == {"loss": loss.item()}
        for one, other in zip(weights(model), weights(runner.objects["model"]), strict=True):
            assert torch.equal(one, other)


def test_groups_take_parameters_by_pattern_in_order() -> None:
    groups = [
        {"name": "head", "match": ["2.*"], "lr": 0.5},
        {"match": ["*.bias"], "weight_decay": 0.25},
    ]
    runner = runner_with(groups=groups)
    found = runner.objects["optimizer"].param_groups
    model = runner.objects["model"]
    assert [[id(p) for p in group["params"]] for group in found] == [
        [id(model[2].weight), id(model[2].bias)],
        [id(model[0].bias)],
        [id(model[0].weight)],
    ]
    assert [group["lr"] for group in found] == [0.5, 0.1, 0.1]
    assert [group["weight_decay"] for group in found] == [0, 0.25, 0]


def test_pairs_of_config_and_of_its_groups_are_tuples_for_torch() -> None:
    runner = runner_with(
        optimizer="RAdam", betas=[0.5, 0.6], groups=[{"match": ["0.*"], "betas": [0.7, 0.8]}]
    )
    assert [group["betas"] for group in runner.objects["optimizer"].param_groups] == [(0.7, 0.8), (0.5, 0.6)]


def test_frozen_group_does_not_train_and_is_no_parameter_group() -> None:
    runner = runner_with(groups=[{"match": ["0.*"], "frozen": True}])
    before = weights(runner.objects["model"])
    train(runner, 2)
    after = weights(runner.objects["model"])
    assert [torch.equal(one, other) for one, other in zip(before, after, strict=True)] == [
        True,
        True,
        False,
        False,
    ]
    assert len(runner.objects["optimizer"].param_groups) == 1


def test_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"groups\[1\].match.*did you mean 2.weight"):
        runner_with(groups=[{"match": ["0.*"]}, {"match": ["2.wieght"]}])


def test_nothing_left_to_train_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameter that trains"):
        runner_with(groups=[{"match": ["*"], "frozen": True}])


def test_argument_the_optimizer_refuses_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"torch.optim.SGD: .*momentum"):
        runner_with(momentum=-1.0)


def test_accumulation_averages_over_the_micro_batches() -> None:
    whole, parts = runner_with(), runner_with(accumulate=4)
    metrics = train(whole, 1)[0], train(parts, 1)[0]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"])
    for one, other in zip(weights(whole.objects["model"]), weights(parts.objects["model"]), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_accumulation_calls_the_loss_once_per_part() -> None:
    sizes = []

    class Counting(Regression):
        def loss(self, model: nn.Module, batch: Any) -> Any:
            sizes.append(len(batch[0]))
            return super().loss(model, batch), {"size": len(batch[0])}

    metrics = train(runner_with(Counting, accumulate=2), 1)[0]
    assert sizes == [2, 2]
    assert metrics["size"] == 2.0


def test_clipping_bounds_the_step_and_reports_the_norm() -> None:
    runner = runner_with(clip=1e-3, lr=1.0)
    before = weights(runner.objects["model"])
    metrics = train(runner, 1)[0]
    moved = torch.sqrt(
        sum(((a - b) ** 2).sum() for a, b in zip(before, weights(runner.objects["model"]), strict=True))
    )
    assert metrics["grad_norm"] > 1e-3
    assert moved.item() == pytest.approx(1e-3, rel=0.01)


def test_clipping_sees_gradients_without_the_scale_of_fp16() -> None:
    plain, scaled = (train(runner_with(clip=1.0, precision=name), 1)[0] for name in ("fp32", "fp16"))
    assert scaled["grad_norm"] == pytest.approx(plain["grad_norm"], rel=0.05)


def test_ema_follows_the_model() -> None:
    runner = runner_with(ema=0.75)
    expected = weights(runner.objects["ema"])
    for n in range(3):
        runner.step(n, runner.batch(n))
        expected = [
            0.75 * mean + 0.25 * now
            for mean, now in zip(expected, weights(runner.objects["model"]), strict=True)
        ]
    for one, other in zip(expected, weights(runner.objects["ema"]), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in runner.objects["ema"].parameters())


def test_ema_copies_buffers_and_integers() -> None:
    model, ema = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    model.register_parameter("count", nn.Parameter(torch.tensor([3]), requires_grad=False))
    ema.register_parameter("count", nn.Parameter(torch.tensor([0]), requires_grad=False))
    model(torch.randn(4, 2))
    update_ema(ema, model, 0.5)
    assert torch.equal(ema.running_mean, model.running_mean)
    assert ema.num_batches_tracked == 1
    assert ema.count.tolist() == [3]


def test_objects_are_those_config_asks_for() -> None:
    assert sorted(runner_with().objects) == ["model", "optimizer"]
    assert sorted(runner_with(precision="fp16", ema=0.5).objects) == ["ema", "model", "optimizer", "scaler"]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_that_of_the_forward_pass(precision: str, dtype: torch.dtype) -> None:
    seen = []

    class Watching(Regression):
        def loss(self, model: nn.Module, batch: Any) -> Any:
            out = model(batch[0])
            seen.append(out.dtype)
            return nn.functional.mse_loss(out.float(), batch[1])

    runner = runner_with(Watching, precision=precision)
    before = weights(runner.objects["model"])
    train(runner, 2)
    assert set(seen) == {dtype}
    assert {parameter.dtype for parameter in runner.objects["model"].parameters()} == {torch.float32}
    assert not torch.equal(before[0], weights(runner.objects["model"])[0])


def test_overflow_under_fp16_skips_the_step_and_lowers_the_scale() -> None:
    class Overflowing(Regression):
        def loss(self, model: nn.Module, batch: Any) -> Any:
            return model(batch[0]).float().sum() * 1e6

    runner = runner_with(Overflowing, precision="fp16", clip=1.0)
    before = weights(runner.objects["model"])
    scale = runner.objects["scaler"].get_scale()
    train(runner, 1)
    assert torch.equal(before[0], weights(runner.objects["model"])[0])
    assert runner.objects["scaler"].get_scale() == scale / 2


def test_tf32_is_allowed_only_where_asked_for() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        runner_with()
        assert not torch.backends.cuda.matmul.allow_tf32
        runner_with(precision="tf32")
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("bad", [3.0, torch.ones(2), (torch.tensor(1.0), 5), None])
def test_loss_that_is_no_scalar_is_refused(bad: Any) -> None:
    runner = runner_with(type("Bad", (Regression,), {"loss": lambda self, model, batch: bad}))
    with pytest.raises(UsageError, match="scalar"):
        runner.step(0, runner.batch(0))


def test_model_that_is_no_module_is_refused() -> None:
    with pytest.raises(UsageError, match=r"dict, not a torch\.nn\.Module"):
        runner_with(type("Bad", (Regression,), {"model": lambda self: {}}))


Named = namedtuple("Named", "x y")


def test_batch_is_cut_along_the_first_dimension_of_every_part() -> None:
    batch = {
        "x": torch.arange(4),
        "pair": (torch.arange(8).view(4, 2), Named(torch.arange(4), ["a", "b", "c", "d"])),
        "temperature": 0.5,
        "scalar": torch.tensor(7),
        "list": [torch.arange(4)],
    }
    first, second = split_batch(batch, 2)
    assert first["x"].tolist() == [0, 1]
    assert second["pair"][0].tolist() == [[4, 5], [6, 7]]
    assert isinstance(second["pair"], tuple)
    assert second["pair"][1] == Named(pytest.approx([2, 3]), ["c", "d"])
    assert (second["temperature"], second["scalar"].item()) == (0.5, 7)
    assert second["list"][0].tolist() == [2, 3]


def test_one_part_is_the_batch_itself() -> None:
    batch = object()
    assert next(split_batch(batch, 1)) is batch


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.ones(4), torch.ones(3)), "no common first dimension"),
        (torch.ones(3), "3 cannot be cut into 2"),
        ({"x": 5}, "no common first dimension"),
    ],
)
def test_batch_that_cannot_be_cut_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(split_batch(batch, 2))


def test_recipe_step_of_a_custom_task_uses_the_recipe_objects() -> None:
    class Noisy(Regression):
        def step(self, state: dict[str, Any], batch: Any) -> Any:
            return {**recipe_step(self, state, batch), "noise": torch.rand(1)}

    metrics = train(runner_with(Noisy, schedule="cosine"), 2)
    assert sorted(metrics[0]) == ["loss", "noise"]
