"""Alpha of only two values, for models of images whose edges are hard: pixel art, stickers, cut-out shapes."""

from __future__ import annotations

import torch
from torch import Tensor


def harden_alpha(images: Tensor) -> Tensor:
    """Images (B, 4, H, W) in [-1, 1] with alpha -1 or 1, the nearer one, and white where it is -1.

    The gradient passes to alpha as if it had not been changed, a straight-through estimator (Bengio et al. 2013, arXiv
    1308.3432): a generator is trained on the hard edges that its images have.
    """
    colors, alpha = images[:, :3], images[:, 3:]
    is_opaque = alpha > 0
    hard = torch.where(is_opaque, 1.0, -1.0).to(alpha.dtype)
    if alpha.requires_grad:
        hard = alpha + (hard - alpha).detach()
    # The gradient of the colors on white, so that alpha also learns from the colors that it hides.
    opacity = (hard + 1) / 2
    hardened = torch.cat([colors * opacity + (1 - opacity), hard], 1)
    return hardened.contiguous(memory_format=torch.channels_last)
