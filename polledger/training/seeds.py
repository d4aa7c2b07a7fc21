"""Seeding every generator a step may draw from. PROTOCOL section 6."""

import random

import numpy as np
import torch

from polledger.core.seeds import RngSeeds
from polledger.errors import EnvironmentMismatch


def seed_everything(seeds: RngSeeds, device: str = "cpu") -> None:
    """Seed torch's default CPU generator, that of ``device``, NumPy's legacy generator and ``random``.

    The generators are seeded directly: the public functions take twenty times as long. Generators that a task makes
    itself are not reached. Raises EnvironmentMismatch for a device without a generator.
    """
    for generator in _generators(device):
        generator.manual_seed(seeds.torch)
    np.random.seed(seeds.numpy)
    random.seed(seeds.random)


def has_drawn(seeds: RngSeeds, device: str = "cpu") -> bool:
    """Whether torch's default CPU generator or that of ``device`` was used since both were seeded with ``seeds``."""
    for generator in _generators(device):
        fresh = torch.Generator(generator.device)
        fresh.manual_seed(seeds.torch)
        if not torch.equal(fresh.get_state(), generator.get_state()):
            return True
    return False


def _generators(device: str) -> list[torch.Generator]:
    default = torch.default_generator
    return [default] if device == "cpu" else [default, _device_generator(torch.device(device))]


def _device_generator(device: torch.device) -> torch.Generator:
    index = device.index
    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.init()
        return torch.cuda.default_generators[torch.cuda.current_device() if index is None else index]
    if device.type == "mps" and torch.backends.mps.is_available():
        return torch.mps._get_default_mps_generator()
    raise EnvironmentMismatch(f"there is no device {device} here that can be seeded")
