"""The runner: every step is a function of (seed, step, state, batch) and of nothing else."""

import random
from collections import UserDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polledger.core.encoding import from_real, real
from polledger.core.order import Order
from polledger.core.seeds import rng_seeds
from polledger.core.state import encode_state
from polledger.errors import EnvironmentMismatch, UsageError
from polledger.training.nest import decode_nest, encode_nest
from polledger.training.runner import Hyperparameters, Runner, group_values
from polledger.training.seeds import seed_everything
from polledger.training.task import Task, prepare_task

SEED = 2**63 + 5


class Drawing(Task):
    """Draws from every generator everywhere it may, and reports what it drew."""

    config = {"batch_size": 3, "steps": 4}

    def draw(self) -> float:
        return float(torch.rand(1)) + float(np.random.rand()) + random.random()

    def build(self) -> dict[str, Any]:
        model = nn.Linear(2, 1)
        return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}

    def dataset(self) -> list[int]:
        return list(range(10))

    def collate(self, examples: list[int]) -> dict[str, Any]:
        return {"examples": examples, "drawn": self.draw(), "step": self.step_number}

    def step(self, state: dict[str, Any], batch: Any) -> dict[str, float]:
        return {"in_batch": batch["drawn"], "in_step": self.draw(), "number": self.step_number}


def runner_of(cls: type[Task] = Drawing, *, build: bool = True, **config: Any) -> Runner:
    runner = Runner(prepare_task(cls, config=config), seed=SEED)
    if build:
        runner.build()
    return runner


def made(**methods: Any) -> type[Task]:
    return type("Made", (Drawing,), methods)


def spoil_generators() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)


def root_of(runner: Runner) -> bytes:
    return encode_state(runner.flatten()).root


def test_build_depends_on_the_seed_alone() -> None:
    roots = []
    for _ in range(2):
        roots.append(root_of(runner_of()))
        spoil_generators()
    assert roots[0] == roots[1]
    other = Runner(prepare_task(Drawing), seed=SEED + 1)
    other.build()
    assert root_of(other) != roots[0]


def test_draws_depend_on_step_and_purpose_alone() -> None:
    runner = runner_of()
    found = []
    for n in (0, 1, 1, 0):
        spoil_generators()
        batch = runner.batch(n)
        spoil_generators()
        found.append(runner.step(n, batch))
    assert found[0] == found[3]
    assert found[1] == found[2]
    drawn = [item[name] for item in found[:2] for name in ("in_batch", "in_step")]
    assert len(set(drawn)) == 4


def test_draws_are_those_of_the_protocol() -> None:
    runner = runner_of()
    expected = []
    for purpose in ("batch", "step"):
        seeds = rng_seeds(SEED, 2, purpose)
        torch.manual_seed(seeds.torch)
        np.random.seed(seeds.numpy)
        random.seed(seeds.random)
        expected.append(Drawing().draw())
    metrics = runner.step(2, runner.batch(2))
    assert [metrics["in_batch"], metrics["in_step"]] == expected


def test_step_number_is_known_to_batch_and_step() -> None:
    runner = runner_of()
    batch = runner.batch(3)
    assert batch["step"] == 3
    assert runner.step(3, batch)["number"] == 3


def test_examples_follow_the_order_of_the_seed() -> None:
    runner = runner_of()
    for n in range(5):
        assert runner.batch_indices(n) == Order(SEED, 10).step(n, 3)
        assert runner.batch(n)["examples"] == Order(SEED, 10).step(n, 3)


def test_draws_while_reading_examples_do_not_reach_collate() -> None:
    class Greedy:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> int:
            torch.rand(index + 1)
            return index

    greedy = runner_of(made(dataset=lambda self: Greedy()))
    assert greedy.batch(1) == runner_of().batch(1)


def test_data_set_is_read_under_the_build_seed() -> None:
    cls = made(dataset=lambda self: [self.draw() for _ in range(4)])
    found = []
    for spoil in (random.random, spoil_generators):
        runner = runner_of(cls)
        spoil()
        found.append([runner.example(index) for index in range(4)])
    assert found[0] == found[1]


def test_opened_examples_give_the_batch_that_was_read() -> None:
    runner = runner_of()
    indices = runner.batch_indices(2)
    assert indices is not None
    spoil_generators()
    assert runner.collate_examples(2, [runner.example(index) for index in indices]) == runner.batch(2)


def test_own_batch_has_no_indices_and_is_seeded() -> None:
    runner = runner_of(made(batch=lambda self, n: [n, self.draw()]))
    assert runner.kind == "custom"
    assert runner.batch_indices(4) is None
    first = runner.batch(4)
    spoil_generators()
    assert runner.batch(4) == first
    assert first[0] == 4


class TestMemory:
    """A step is the same whoever made its batch, and what it does to the batch reaches nothing else."""

    def test_collate_in_place_does_not_reach_the_data_set(self) -> None:
        tensors, arrays = torch.zeros(10, 2), np.zeros((10, 2), np.float32)

        def collate(self: Any, examples: list[Any]) -> Any:
            for example in examples:
                example["tensor"] += 1
                example["array"][...] += 1
                example["tensors"][0].add_(1)
            return len(examples)

        data = [
            {"tensor": tensors[i], "array": arrays[i], "tensors": [tensors[i].unsqueeze(0)]}
            for i in range(10)
        ]
        runner_of(made(dataset=lambda self: data, collate=collate)).batch(0)
        assert not tensors.any()
        assert not arrays.any()

    def test_example_is_what_its_bytes_give(self) -> None:
        wide = torch.randn(3, 4, 4)
        given = {
            "channels": wide.permute(1, 2, 0),
            "leaf": torch.ones(2, requires_grad=True),
            "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
            "expanded": torch.ones(1).expand(4),
            "array": np.arange(6, dtype=">i4").reshape(2, 3).T,
            "point": np.array(1.0),
        }
        here = runner_of(made(dataset=lambda self: [given])).example(0)
        there = decode_nest(b"".join(map(bytes, encode_nest(given))))
        assert {name: _layout(value) for name, value in here.items()} == {
            name: _layout(value) for name, value in there.items()
        }

    @pytest.mark.parametrize("channels", [1, 3])
    def test_step_sees_the_layout_that_a_batch_from_bytes_has(self, channels: int) -> None:
        batch = torch.ones(4, channels, 5, 5).to(memory_format=torch.channels_last)
        seen: list[Any] = []
        runner = runner_of(made(step=lambda self, state, batch: seen.append(batch)))
        runner.step(0, [batch, np.ones((2, 3)).T])
        ((tensor, array),) = seen
        assert tensor.stride() == torch.ones(batch.shape).stride()
        assert array.flags.c_contiguous

    def test_step_keeps_the_containers_of_a_batch(self) -> None:
        class Encoding(UserDict[str, Any]):
            @property
            def ids(self) -> Tensor:
                return self["ids"]

        class Pair(NamedTuple):
            x: Any
            y: Any

        seen: list[Any] = []
        runner = runner_of(made(step=lambda self, state, batch: seen.append(batch)))
        given = Pair(Encoding(ids=torch.ones(2)), [1, ("a", None)])
        runner.step(0, given)
        (found,) = seen
        assert type(found) is Pair
        assert found.y == [1, ("a", None)]
        assert torch.equal(found.x.ids, given.x.ids)
        found.x.ids.zero_()
        assert given.x.ids.all()


def _layout(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.stride(), value.requires_grad, value.is_conj(), value.tolist()
    return value.strides, value.dtype.str, value.shape, value.tolist()


class Odd(list[int]):
    """A list that decodes as a plain one."""


def test_example_that_would_come_back_as_another_type_is_refused() -> None:
    runner = runner_of(made(dataset=lambda self: [0, Odd([1])] * 5))
    with pytest.raises(UsageError, match=r"dataset\(\)\[1\].*Odd"):
        runner.example(1)


def test_own_batch_that_would_come_back_as_another_type_is_refused() -> None:
    runner = runner_of(made(batch=lambda self, n: Odd([n])))
    with pytest.raises(UsageError, match=r"batch\(2\).*Odd"):
        runner.batch(2)


@pytest.mark.parametrize(("data", "message"), [([], "empty"), (iter([1]), "len")])
def test_data_set_that_cannot_be_enumerated_is_refused(data: Any, message: str) -> None:
    runner = runner_of(made(dataset=lambda self: data))
    with pytest.raises(UsageError, match=message):
        runner.batch(0)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, None])
def test_batch_size_must_be_a_positive_integer(size: Any) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        runner_of(batch_size=size).batch(0)


def test_gradients_are_none_before_each_step_and_in_the_state() -> None:
    seen: list[Any] = []

    def step(self: Any, state: dict[str, Any], batch: Any) -> None:
        seen.extend(parameter.grad for parameter in state["model"].parameters())
        seen.extend([extra.grad, state["alone"].bias.grad])
        for parameter in (*state["model"].parameters(), extra, state["alone"].bias):
            parameter.grad = torch.ones_like(parameter)

    extra = nn.Parameter(torch.zeros(1))

    def build(self: Any) -> dict[str, Any]:
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD([*model.parameters(), extra], lr=0.1)
        return {"model": model, "optimizer": optimizer, "alone": nn.Linear(1, 1)}

    runner = runner_of(made(step=step, build=build))
    for n in range(2):
        runner.step(n, None)
    assert seen == [None] * 8
    runner.flatten()
    assert extra.grad is None
    assert runner.objects["alone"].bias.grad is None
    assert all(parameter.grad is None for parameter in runner.objects["model"].parameters())


def test_modules_are_in_the_mode_they_were_built_in_before_each_step() -> None:
    seen = []

    def build(self: Any) -> dict[str, Any]:
        model = nn.Sequential(nn.Dropout(), nn.Linear(1, 1))
        model[0].eval()
        return {"model": model}

    def step(self: Any, state: dict[str, Any], batch: Any) -> None:
        seen.append([module.training for module in state["model"].modules()])
        state["model"].train(len(seen) == 1)

    runner = runner_of(made(build=build, step=step))
    for n in range(3):
        runner.step(n, None)
    assert seen == [[True, False, True]] * 3


def test_gradients_are_recorded_even_where_the_caller_switched_them_off() -> None:
    def step(self: Any, state: dict[str, Any], batch: Any) -> dict[str, float]:
        return {"enabled": torch.is_grad_enabled()}

    runner = runner_of(made(step=step), build=False)
    with torch.no_grad():
        runner.build()
        assert runner.step(0, None) == {"enabled": 1.0}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda self: [nn.Linear(1, 1)], "dict"),
        (lambda self: {"": nn.Linear(1, 1)}, "dict"),
        (lambda self: {1: nn.Linear(1, 1)}, "dict"),
        (lambda self: {"net": nn.Linear(1, 1)}, 'under "model"'),
        (lambda self: {"model": nn.Linear(1, 1), "lr": 0.1}, "'lr'.*state_dict"),
    ],
)
def test_build_must_give_named_objects_that_can_be_saved(build: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        runner_of(made(build=build))


@pytest.mark.parametrize("bad", [{"Loss": 1.0}, {"a b": 1.0}, {"": 1.0}, {"x" * 65: 1.0}, {3: 1.0}])
def test_metric_with_unfit_name_is_refused(bad: dict[Any, float]) -> None:
    with pytest.raises(UsageError, match="metric"):
        runner_of(made(step=lambda self, state, batch: bad)).step(0, None)


@pytest.mark.parametrize("bad", ["high", None, torch.ones(2), [1.0], 1j])
def test_metric_that_is_no_number_is_refused(bad: Any) -> None:
    with pytest.raises(UsageError, match="metric 'loss'"):
        runner_of(made(step=lambda self, state, batch: {"loss": bad})).step(0, None)


def test_metrics_are_plain_floats() -> None:
    given = {
        "a": torch.tensor(0.5),
        "b": np.float32(0.25),
        "c": True,
        "d": 3,
        "e": torch.tensor([2], dtype=torch.int8),
    }
    found = runner_of(made(step=lambda self, state, batch: given)).step(0, None)
    assert found == {"a": 0.5, "b": 0.25, "c": 1.0, "d": 3.0, "e": 2.0}
    assert {type(value) for value in found.values()} == {float}
    assert runner_of(made(step=lambda self, state, batch: None)).step(0, None) == {}


def test_hyperparameters_of_every_optimizer_are_numbers_by_name() -> None:
    def build(self: Any) -> dict[str, Any]:
        one, other = nn.Linear(1, 1), nn.Linear(1, 1)
        groups = [{"params": [one.weight], "N_sma": 5}, {"params": [one.bias], "lr": torch.tensor(0.5)}]
        return {
            "model": one,
            "critic": other,
            "slow": torch.optim.AdamW(groups, lr=0.25),
            "fast": torch.optim.SGD(other.parameters(), lr=np.float64(2.0), foreach=False),
        }

    found = runner_of(made(build=build)).hyperparameters()
    assert [(item.optimizer, item.index) for item in found] == [("slow", 0), ("slow", 1), ("fast", 0)]
    first, second, third = (item.values for item in found)
    assert from_real(first["lr"]) == 0.25
    assert from_real(second["lr"]) == 0.5
    assert from_real(third["lr"]) == 2.0
    assert from_real(first["betas_1"]) == 0.999
    assert first["n_sma"] == 5
    assert first["amsgrad"] is False
    assert third["foreach"] is False
    assert "fused" not in first
    assert "params" not in first


def test_recipe_config_is_checked_before_anything_is_built() -> None:
    class Recipe(Task):
        config = {"steps": 1, "batch_size": 1, "optimizer": "SDG", "lr": 0.1}

    with pytest.raises(UsageError, match="did you mean SGD"):
        Runner(prepare_task(Recipe), seed=1)


def test_schedule_of_a_task_that_builds_its_own_objects_is_its_own() -> None:
    runner = runner_of(lr=9.0, schedule="cosine", optimizer="SGD")
    runner.prepare(0)
    assert runner.objects["optimizer"].param_groups[0]["lr"] == 0.1


def test_loading_another_task_state_is_refused() -> None:
    def build(self: Any) -> dict[str, Any]:
        return {"model": nn.Linear(3, 1)}

    runner = runner_of()
    with pytest.raises(EnvironmentMismatch, match="optimizer is not built here"):
        runner_of(made(build=build)).load(runner.flatten())


def test_description_follows_the_objects() -> None:
    assert [(item.name, item.kind) for item in runner_of().describe()] == [
        ("model", "module"),
        ("optimizer", "optimizer"),
    ]


def test_seeding_reaches_the_three_generators_with_their_own_seeds() -> None:
    seeds = rng_seeds(2**64 - 1, 7, "step")
    seed_everything(seeds)
    found = [torch.rand(3), np.random.rand(3), random.random()]
    torch.manual_seed(seeds.torch)
    np.random.seed(seeds.numpy)
    random.seed(seeds.random)
    assert torch.equal(found[0], torch.rand(3))
    assert np.array_equal(found[1], np.random.rand(3))
    assert found[2] == random.random()


def test_a_step_that_draws_is_told_from_one_that_does_not() -> None:
    class Now(Drawing):
        def step(self, state: dict[str, Any], batch: Any) -> None:
            if self.step_number == 1:
                torch.nn.functional.dropout(torch.ones(4), 0.5)

    runner = runner_of(Now)
    drew = []
    for number in range(3):
        runner.step(number, None)
        drew.append(runner.drew(number))
    assert drew == [False, True, False]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "mps", "meta"])
def test_seeding_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(EnvironmentMismatch, match=device):
        seed_everything(rng_seeds(1, 0, "step"), device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_draws_of_the_gpu_count_as_well() -> None:
    class OnDevice(Drawing):
        def step(self, state: dict[str, Any], batch: Any) -> None:
            if self.step_number == 1:
                torch.rand(4, device=self.device)

    runner = Runner(prepare_task(OnDevice), seed=SEED, device="cuda")
    runner.build()
    drew = []
    for number in range(3):
        runner.step(number, None)
        drew.append(runner.drew(number))
    assert drew == [False, True, False]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_state_root_is_the_same_from_cpu_and_gpu() -> None:
    class OnDevice(Drawing):
        def build(self) -> dict[str, Any]:
            model = nn.Linear(300, 300)
            return {"model": model.to(self.device)}

    on_cpu = Runner(prepare_task(OnDevice), seed=SEED, device="cpu")
    on_gpu = Runner(prepare_task(OnDevice), seed=SEED, device="cuda")
    on_cpu.build()
    on_gpu.build()
    assert root_of(on_cpu) == root_of(on_gpu)


def test_views_of_the_state_follow_training() -> None:
    class Adding(Drawing):
        def step(self, state: dict[str, Any], batch: Any) -> None:
            with torch.no_grad():
                state["model"].weight += 1

    runner = runner_of(Adding)
    flat = runner.flatten()
    before: list[Tensor] = [bytes(tensor.data) for tensor in flat.tensors]
    runner.step(0, None)
    assert [bytes(tensor.data) for tensor in flat.tensors] != before


class TestHyperparameters:
    @staticmethod
    def lr(found: Hyperparameters, group: dict[str, Any]) -> Any:
        return found.read("optimizer", [group])[0].values["lr"]

    def test_values_are_read_again_only_when_they_changed(self) -> None:
        read, group = Hyperparameters(), {"params": [1], "lr": 0.5, "betas": (0.9, 0.99), "name": "a"}
        first = read.read("optimizer", [group])
        assert read.read("optimizer", [group])[0] is first[0]
        assert read.read("other", [group])[0].optimizer == "other"
        group["lr"] = 0.25
        assert self.lr(read, group) == real(0.25)

    @pytest.mark.parametrize("other", [True, 1.0, torch.tensor(1)])
    def test_an_equal_value_of_another_type_is_another_value(self, other: Any) -> None:
        read, group = Hyperparameters(), {"lr": 1}
        assert self.lr(read, group) == 1
        group["lr"] = other
        found = self.lr(read, group)
        assert found == group_values(group)["lr"]
        assert type(found) is type(group_values(group)["lr"])

    def test_a_tensor_that_changes_in_place_is_read_every_time(self) -> None:
        rate = torch.tensor(0.5)
        read, group = Hyperparameters(), {"lr": rate, "betas": (0.5, rate)}
        assert self.lr(read, group) == real(0.5)
        rate.fill_(0.25)
        assert self.lr(read, group) == real(0.25)
        group["lr"] = 0.5
        read.read("optimizer", [group])
        rate.fill_(0.125)
        assert read.read("optimizer", [group])[0].values["betas_1"] == real(0.125)

    def test_a_list_that_changes_in_place_is_read_every_time(self) -> None:
        read, group = Hyperparameters(), {"lr": 0.5, "betas": [0.5, 0.75]}
        read.read("optimizer", [group])
        group["betas"][1] = 0.25  # type: ignore[index]
        assert read.read("optimizer", [group])[0].values["betas_1"] == real(0.25)

    def test_a_key_more_or_another_one_is_seen(self) -> None:
        read, group = Hyperparameters(), {"lr": 0.5}
        read.read("optimizer", [group])
        group["decay"] = 0.5
        assert read.read("optimizer", [group])[0].values == {"lr": real(0.5), "decay": real(0.5)}
        group["rate"] = group.pop("decay")
        assert read.read("optimizer", [group])[0].values == {"lr": real(0.5), "rate": real(0.5)}
