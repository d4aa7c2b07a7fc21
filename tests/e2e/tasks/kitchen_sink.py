"""A custom task with everything that makes runs stop being replayable: scaler, accumulation, EMA, schedule,
a frozen group, tied weights, a non-persistent buffer, dropout and BatchNorm."""

from typing import Any

import torch
from torch import nn

from polledger import Task


class Tied(nn.Module):
    """Input and output projections share one weight."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(12, 16)
        self.norm = nn.BatchNorm1d(16)
        self.encode = nn.Linear(16, 16, bias=False)
        self.decode = nn.Linear(16, 16, bias=False)
        self.decode.weight = self.encode.weight
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(16, 4)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += x.shape[0]
        x = self.norm(self.frozen(x)).relu()
        x = self.drop(self.decode(self.encode(x).relu()))
        out: torch.Tensor = self.head(x)
        return out


class KitchenSink(Task):
    """A small classifier on made-up points; four clusters."""

    config = {"steps": 40, "batch_size": 16, "lr": 0.02, "accumulate": 2, "ema": 0.9, "seed_of_data": 7}
    domains = {"1": range(4)}

    def dataset(self) -> list[tuple[torch.Tensor, int]]:
        made = torch.Generator().manual_seed(self.config["seed_of_data"])
        centres = torch.randn(4, 12, generator=made)
        labels = torch.randint(0, 4, (96,), generator=made)
        points = centres[labels] + 0.3 * torch.randn(96, 12, generator=made)
        return [(points[i].clone(), int(labels[i])) for i in range(96)]

    def collate(self, examples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.stack([example[0] for example in examples])
        return x + 0.01 * torch.randn_like(x), torch.tensor([example[1] for example in examples])

    def build(self) -> dict[str, Any]:
        model = Tied()
        for parameter in model.frozen.parameters():
            parameter.requires_grad_(False)
        decay = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
            lr=self.config["lr"],
        )
        return {
            "model": model,
            "optimizer": optimizer,
            "schedule": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.config["steps"]),
            "scaler": torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7),
            "ema": torch.optim.swa_utils.AveragedModel(
                model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(self.config["ema"])
            ),
        }

    def step(self, state: dict[str, Any], batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
        model, optimizer, scaler = state["model"], state["optimizer"], state["scaler"]
        model.train()
        total = 0.0
        parts = self.config["accumulate"]
        for x, y in zip(batch[0].chunk(parts), batch[1].chunk(parts), strict=True):
            loss = nn.functional.cross_entropy(model(x), y) / parts
            scaler.scale(loss).backward()
            total += float(loss.detach())
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        state["schedule"].step()
        state["ema"].update_parameters(model)
        return {"loss": total}
