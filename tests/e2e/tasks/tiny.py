"""A recipe small enough to be sealed and verified many times: an MLP with BatchNorm on made-up points."""

import torch
from torch import nn

from polledger import Task


class Tiny(Task):
    """Four clusters in twelve dimensions."""

    config = {
        "steps": 24,
        "batch_size": 16,
        "optimizer": "SGD",
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 0.001,
        "schedule": "cosine",
        "warmup": 4,
    }
    domains = {"1": range(4)}

    def dataset(self) -> list[tuple[torch.Tensor, int]]:
        made = torch.Generator().manual_seed(11)
        centres = torch.randn(4, 12, generator=made)
        labels = torch.randint(0, 4, (96,), generator=made)
        points = centres[labels] + 0.3 * torch.randn(96, 12, generator=made)
        return [(points[i].clone(), int(labels[i])) for i in range(96)]

    def collate(self, examples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.stack([example[0] for example in examples])
        y = torch.tensor([example[1] for example in examples])
        return x + 0.01 * torch.randn_like(x), y

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4)
        )

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)
