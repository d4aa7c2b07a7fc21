"""A recipe: a small transformer learns to continue any text, byte by byte.

    polledger seal polledger.examples.chars --input text=PATH --run R

The vocabulary is the 256 byte values, so that nothing about the text has to be prepared or committed besides its
windows. Size is config: ``--set width=512 --set layers=8`` makes a step take as long as you like.
"""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polledger import Task
from polledger.errors import UsageError

BYTES = 256


class Windows:
    """The text cut into windows of ``context`` bytes, each with the byte that follows: uint8 [context + 1]."""

    def __init__(self, text: bytes, context: int) -> None:
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.context = context

    def __len__(self) -> int:
        return (len(self.text) - 1) // self.context

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.context
        return self.text[start : start + self.context + 1]


class Block(nn.Module):
    """One pre-norm transformer block: causal self-attention, then a feed-forward layer. [B, T, width] to the same.

    Attention is written out in plain matrix products: fused kernels are chosen by hardware, and each choice rounds
    differently.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.before_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.attend(self.before_attention(x), mask))
        out: Tensor = x + self.dropout(self.feed(self.before_feed(x)))
        return out

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, time, width = x.shape
        query, key, value = self.qkv(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        weights = self.dropout(scores.masked_fill(mask, -math.inf).softmax(-1))
        merged: Tensor = self.merge((weights @ value).transpose(1, 2).reshape(batch, time, width))
        return merged


class Transformer(nn.Module):
    """Bytes [B, T] (int64, T <= context) to logits of the next byte [B, T, 256]. Input and output share weights."""

    mask: Tensor

    def __init__(self, *, context: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, BYTES, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=module.weight.shape[-1] ** -0.5)
        self.head.weight = self.embed.weight
        # Not persistent, and still part of the state: a wrong mask would train another model.
        future = torch.ones(context, context, dtype=torch.bool).triu(1)
        self.register_buffer("mask", future, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        time = tokens.shape[1]
        x = self.embed(tokens) + self.position.weight[:time]
        for block in self.blocks:
            x = block(x, self.mask[:time, :time])
        logits: Tensor = self.head(self.norm(x))
        return logits


class Chars(Task):
    """Predict the next byte of a text. A step trains on 32 windows in two halves, whose gradients are added up."""

    config = {
        "steps": 300,
        "batch_size": 32,
        "accumulate": 2,
        "optimizer": "AdamW",
        "lr": 0.005,
        "betas": [0.9, 0.95],
        # Parameters whose name matches go into a group of their own with these values, the others take the value
        # below. Weight decay is for matrices: norms, biases and positions are left alone.
        "groups": [
            {"name": "no_decay", "match": ["*.bias", "*norm*", "*before*", "position.*"], "weight_decay": 0.0}
        ],
        "weight_decay": 0.1,
        "schedule": "cosine",
        "warmup": 30,
        "clip": 1.0,
        "ema": 0.98,
        "context": 64,
        "width": 96,
        "layers": 2,
        "heads": 4,
        "dropout": 0.1,
    }
    inputs = {"text": None}

    def model(self) -> nn.Module:
        size = {name: self.config[name] for name in ("context", "width", "layers", "heads", "dropout")}
        if size["width"] % size["heads"]:
            raise UsageError(f"width {size['width']} is not a multiple of heads {size['heads']}")
        return Transformer(**size)

    def dataset(self) -> Windows:
        path = self.inputs["text"]
        if path is None:
            raise UsageError("chars needs a text file: --input text=PATH")
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"the text {path} cannot be read: {error.strerror}") from None
        least = self.config["context"] + 1
        if len(text) < least:
            raise UsageError(f"the text {path} has {len(text)} bytes, one window takes {least}")
        return Windows(text, self.config["context"])

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of every next byte; the metric is the same number in bits."""
        tokens = batch.long()
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        return loss, {"bits_per_byte": loss.item() / math.log(2)}
