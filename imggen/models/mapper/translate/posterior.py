"""What a true output has that its input does not say, as noise: by it the translator learns what its noise is for.

It is the encoder of a variational autoencoder whose decoder is the translator (BicycleGAN, arXiv 1711.11586). Training
needs it alone, so that no checkpoint of a model has it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from imggen.models import global_batch

WIDTHS = (32, 64, 128, 128)
FOUND = 0.9  # share of the variance of the noise that comes from the output; the rest is random


class Posterior(nn.Module):
    """Images with their true outputs → noise that gives them.

    What an output says of each number has mean 0 and variance FOUND over a batch (arXiv 2004.12585). With a divergence
    from the normal distribution in the loss instead, the noise either said nothing of the output, which was cheaper, or
    stayed near one point, far from most new noise.
    """

    def __init__(self, channels: int, noise: int) -> None:
        super().__init__()
        widths = (channels, *WIDTHS)
        self.layers = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths))
        self.leave = nn.Linear(WIDTHS[-1], noise, bias=False)

    def forward(self, images: Tensor, targets: Tensor, noise: Tensor) -> Tensor:
        """Images (B, C, H, W), outputs (B, T, H, W), standard normal noise (B, N) → noise (B, N) for these outputs."""
        x = torch.cat([images, targets], 1)
        for layer in self.layers:
            x = silu(layer(x))
        means = self.leave(x.mean((2, 3))).float()
        centered = means - global_batch.mean_over_parts(means.mean(0))
        variance = global_batch.mean_over_parts(centered.square().mean(0))
        return FOUND**0.5 * centered * (variance + 1e-6).rsqrt() + (1 - FOUND) ** 0.5 * noise
