"""The mlp example has the layers that config names and learns."""

import pytest
import torch

from polledger.examples.mlp import Mlp
from polledger.training.task import prepare_task
from tests.examples.loop import start, train


@pytest.mark.parametrize(("layers", "parameters"), [(1, 2410), (3, 2410 + 2 * (32 * 32 + 32))])
def test_layers_and_width_are_config(layers: int, parameters: int) -> None:
    model = prepare_task(Mlp, config={"layers": layers}).model()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(4, 1, 8, 8)).shape == (4, 10)


def test_images_are_scaled_to_plus_and_minus_one() -> None:
    task = prepare_task(Mlp)
    dark, bright = (torch.full((1, 8, 8), value, dtype=torch.uint8) for value in (0, 16))
    batch, labels = task.collate([(dark, 4), (bright, 5)])
    assert (batch[0].unique().tolist(), batch[1].unique().tolist()) == ([-1], [1])
    assert labels.tolist() == [4, 5]


@pytest.mark.slow
def test_default_config_learns_the_digits() -> None:
    trained = train(start(Mlp, {}), 0, Mlp.config["steps"])
    late = [metrics["accuracy"] for metrics in trained.metrics[-50:]]
    assert sum(late) / len(late) > 0.95
