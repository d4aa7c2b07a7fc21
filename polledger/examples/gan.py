"""A custom task: two networks train against each other on the digits, each with its own optimizer.

    polledger seal polledger.examples.gan --run R

A recipe has one model, one optimizer and one loss. Whatever does not fit overrides ``build`` and ``step`` and is
*custom*: it is replayed bit for bit like a recipe, but what a step does to the weights is decided by the code below
instead of by config. A verifier therefore reports how many lines there are to read, and can check of the
hyperparameters only that they stay what they were.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from polledger import Task
from polledger.examples.digits import Example, load_examples, scale

PIXELS = 64


def build_generator(latent: int, width: int) -> nn.Module:
    """Noise [B, latent] to images [B, 64] in [-1, 1]."""
    return nn.Sequential(
        nn.Linear(latent, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, PIXELS),
        nn.Tanh(),
    )


def build_discriminator(width: int) -> nn.Module:
    """Images [B, 64] to one logit each: positive for "real"."""
    return nn.Sequential(
        nn.Linear(PIXELS, width),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.3),
        nn.Linear(width, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, 1),
    )


def energy_distance(x: Tensor, y: Tensor) -> float:
    """How far apart the distributions behind two sets of images [B, D] are: 0 for equal ones, never negative."""

    def mean_distance(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1).sqrt().mean()

    return float(2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y))


def verdict(logits: Tensor, truth: float) -> Tensor:
    """The loss of a discriminator that should have said ``truth``."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))


class Gan(Task):
    """Draw digits from noise. The energy distance to the real images falls by more than a factor of ten."""

    config = {
        "steps": 600,
        "batch_size": 64,
        "lr": 0.0005,
        "betas": [0.5, 0.999],
        "latent": 16,
        "width": 128,
    }
    domains = {"0": range(17), "1": range(10)}

    def build(self) -> dict[str, Any]:
        """Every object that training changes, by name. Anything left out here would be missing after a restart, and
        the rehearsal before step 10 would name it."""
        generator = build_generator(self.config["latent"], self.config["width"]).to(self.device)
        discriminator = build_discriminator(self.config["width"]).to(self.device)
        options = {"lr": self.config["lr"], "betas": tuple(self.config["betas"])}
        return {
            "model": generator,  # the object published as the result is called "model"
            "discriminator": discriminator,
            "generator_optimizer": Adam(generator.parameters(), **options),
            "discriminator_optimizer": Adam(discriminator.parameters(), **options),
        }

    def dataset(self) -> Sequence[Example]:
        return load_examples(held_out=False)

    def collate(self, examples: list[Any]) -> Tensor:
        """Real images [B, 64]; the labels are left aside."""
        return scale(torch.stack([image for image, _ in examples])).flatten(1)

    def step(self, state: dict[str, Any], batch: Any) -> dict[str, float]:
        """Train the discriminator on real and drawn images, then the generator against it.

        Torch's generators are seeded from (seed, step) before the call, so the noise is the same when replayed. The
        gradients of both networks are None here and are forgotten after the step.
        """
        generator, discriminator = state["model"], state["discriminator"]
        drawn = generator(torch.randn(len(batch), self.config["latent"], device=batch.device))

        loss_d = verdict(discriminator(batch), 0.9) + verdict(discriminator(drawn.detach()), 0.0)
        loss_d.backward()
        state["discriminator_optimizer"].step()

        loss_g = verdict(discriminator(drawn), 1.0)
        loss_g.backward()
        state["generator_optimizer"].step()
        return {
            "generator_loss": loss_g.item(),
            "discriminator_loss": loss_d.item(),
            "distance": energy_distance(drawn.detach(), batch),
        }
