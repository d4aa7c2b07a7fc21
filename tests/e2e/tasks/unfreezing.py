"""Training that changes more than tensors on its way: layers are unfrozen, a rate is annealed, a module counts."""

from typing import Any

import torch
from torch import nn

from polledger import Task


class Counting(nn.Module):
    """Scales by a number that depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * (1 + 0.1 * (self.calls % 3))


class Unfreezing(Task):
    """A small classifier whose body starts to train at step 9."""

    config = {"steps": 24, "batch_size": 8, "lr": 0.05, "unfreeze": 9}

    def dataset(self) -> list[tuple[torch.Tensor, int]]:
        made = torch.Generator().manual_seed(5)
        return [(torch.randn(6, generator=made), index % 3) for index in range(60)]

    def build(self) -> dict[str, Any]:
        body = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.5), Counting())
        model = nn.Sequential(body, nn.Linear(12, 3))
        body.requires_grad_(False)
        return {
            "model": model,
            "optimizer": torch.optim.SGD(model.parameters(), lr=self.config["lr"], momentum=0.9),
        }

    def step(self, state: dict[str, Any], batch: list[torch.Tensor]) -> dict[str, float]:
        body = state["model"][0]
        if self.step_number == self.config["unfreeze"]:
            body.requires_grad_(True)
        if self.step_number % 5 == 4:
            body[2].p *= 0.8
        loss = nn.functional.cross_entropy(state["model"](batch[0]), batch[1])
        loss.backward()
        state["optimizer"].step()
        return {"loss": float(loss.detach())}
