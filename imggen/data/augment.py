"""Chance changes to a batch that keep it a plausible picture."""

from __future__ import annotations

import torch
from torch import Tensor


def mirror(images: Tensor, probability: float = 0.5) -> Tensor:
    """Flip each picture of a (B, C, H, W) batch left to right with the given probability.

    Draws from torch's global generator, which the engine seeds before every step.
    """
    flipped = torch.rand(len(images)).to(images.device) < probability
    return torch.where(flipped[:, None, None, None], images.flip(3), images)
