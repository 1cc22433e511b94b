"""Images with another number of channels, as tensors, with gradients: gray, color, or color with alpha."""

from __future__ import annotations

import torch
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)  # Rec. 601, as Pillow has it


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] with C of 1, 3 or 4 as (B, channels, H, W); dropped alpha is on white."""
    own = images.shape[1]
    if own == channels:
        return images
    if own == 4:
        alpha = (images[:, 3:] + 1) / 2
        images = images[:, :3] * alpha + (1 - alpha)
    if channels == 1:
        weights = torch.tensor(LUMINANCE, dtype=images.dtype, device=images.device)
        return (images * weights[:, None, None]).sum(1, keepdim=True)
    colors = images.expand(-1, 3, -1, -1)
    return colors if channels == 3 else torch.cat([colors, torch.ones_like(colors[:, :1])], 1)
