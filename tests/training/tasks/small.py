"""A recipe that trains in a moment, and can be slowed down."""

import os
import time

import torch
import torch.nn.functional as F
from torch import nn

from polledger import Task

PAUSE = float(os.environ.get("SMALL_PAUSE", "0"))
"""Seconds that every example and every loss take, so that a test can stop the process in between."""


class Examples:
    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(PAUSE / 10)
        values = torch.arange(8, dtype=torch.float32) * (index % 7) / 7
        return values, index % 3


class Small(Task):
    config = {
        "steps": 24,
        "batch_size": 8,
        "optimizer": "AdamW",
        "lr": 0.01,
        "schedule": "cosine",
        "warmup": 4,
        "width": 16,
    }
    domains = {"1": range(3)}

    def model(self) -> nn.Module:
        width = self.config["width"]
        return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.Dropout(0.1), nn.Linear(width, 3))

    def dataset(self) -> Examples:
        return Examples()

    def loss(self, model, batch):
        time.sleep(PAUSE)
        values, labels = batch
        noisy = values + 0.1 * torch.randn_like(values)
        return F.cross_entropy(model(noisy), labels)
