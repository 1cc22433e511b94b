"""What a true output has that its input does not say, as noise: by it the translator learns what its noise is for.

It is the encoder of a variational autoencoder whose decoder is the translator (BicycleGAN, arXiv 1711.11586). Training
needs it alone, so that no checkpoint of a model has it.
"""

from __future__ import annotations

from itertools import pairwise
from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from imggen.models import global_batch

WIDTHS = (32, 64, 128, 128)
# Nats that a number of noise should tell of the true output. With more, that noise would be unlike new noise.
NATS = 1.0
# The weight of the divergence beside L1. It begins so high that noise tells nothing, and falls: the translator first
# learns what the image says of its result, and then ever more of what noise says. Below the lowest weight the noise
# would stay near one point, without saying anything, and new noise would be far from it.
MIN_WEIGHT, MAX_WEIGHT, FIRST_WEIGHT = 5e-4, 1.0, 0.1
ADAPTATION = 25.0  # by how much the weight's logarithm may fall in a whole training


class Posterior(nn.Module):
    """Images with their true outputs → a normal distribution of the noise that gives them.

    `weight` is that of the divergence in the loss, adapted so that a number of noise tells at most NATS (arXiv
    1810.00597).
    """

    log_weight: Tensor
    progress: Tensor

    def __init__(self, channels: int, noise: int) -> None:
        super().__init__()
        widths = (channels, *WIDTHS)
        self.layers = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths))
        self.leave = nn.Linear(WIDTHS[-1], 2 * noise)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.nats = NATS * noise
        self.register_buffer("log_weight", torch.tensor(log(FIRST_WEIGHT)))
        self.register_buffer("progress", torch.tensor(0.0))

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and outputs (B, T, H, W) → means and log deviations (B, noise) each."""
        x = torch.cat([images, targets], 1)
        for layer in self.layers:
            x = silu(layer(x))
        mean, log_deviation = self.leave(x.mean((2, 3))).float().chunk(2, 1)
        return mean, log_deviation.clamp(-6, 2)

    @property
    def weight(self) -> float:
        """The weight of the divergence beside L1."""
        return float(self.log_weight.exp())

    @torch.no_grad()
    def adapt(self, divergence: Tensor, progress: float) -> None:
        """Raise the weight if the divergence of a step, in nats, was more than it should be, else lower it."""
        error = global_batch.mean_over_parts(divergence).to(self.log_weight.device) / self.nats - 1
        change = ADAPTATION * (progress - self.progress).clamp(0, 0.1) * error.clamp(-1, 5)
        self.log_weight.add_(change).clamp_(log(MIN_WEIGHT), log(MAX_WEIGHT))
        self.progress.fill_(progress)


def divergence(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """The Kullback-Leibler divergence from the standard normal distribution in nats (B,)."""
    return (mean.square() + (2 * log_deviation).exp() - 1 - 2 * log_deviation).sum(1) / 2
