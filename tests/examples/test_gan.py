"""The gan example's measure is one, and its drawn images come closer to the real ones."""

import pytest
import torch

from polledger.examples.gan import Gan, energy_distance
from tests.examples.loop import start, train


def test_energy_distance_is_zero_for_equal_sets_and_grows_with_the_gap() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    assert energy_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert 0 < energy_distance(x, x + 1) < energy_distance(x, x + 3)


@pytest.mark.slow
def test_default_config_draws_closer() -> None:
    trained = train(start(Gan, {}), 0, Gan.config["steps"])
    distances = [metrics["distance"] for metrics in trained.metrics]
    assert sum(distances[-50:]) / 50 < distances[0] / 10
