"""Choices by a model's noise: adding Gumbel variables to log-probabilities samples by their argmax."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_PROBABILITY = 1e-6  # keeps Gumbel variables finite


def gumbel_noise(noise: Tensor, count: int) -> Tensor:
    """Gumbel variables (B, count) made from standard normal noise (B, N).

    Each is made from the sum of every `count`-th element, so that it is almost independent of any single one: if it
    were a latent itself, fills would be chosen by the value of that latent.
    """
    if count > noise.shape[1]:
        # More variables than elements: random linear combinations of all elements.
        mixing = torch.randn(noise.shape[1], count, generator=torch.Generator().manual_seed(0)).to(noise)
        normal = noise @ (mixing / mixing.norm(dim=0))
    else:
        parts = (noise[:, index::count] for index in range(count))
        normal = torch.stack([part.sum(1) / part.shape[1] ** 0.5 for part in parts], 1)
    uniform = torch.special.ndtr(normal).clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return -torch.log(-torch.log(uniform))
