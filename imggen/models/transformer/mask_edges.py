"""Mask edges: extend the unmasked pixels into the mask before encoding; blend the fill with them after decoding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

SMOOTHING_STEPS_PER_PIXEL = 4  # of the extended pixels, for each pixel of their reach
BLEND_SIGMA = 1.5  # pixels: standard deviation of the Gaussian that extends the decoder's error into the mask
MIN_UNMASKED_WEIGHT = 0.05  # weight of the unmasked pixels under the Gaussian at which half of the error is applied


def extend_into_mask(images: Tensor, mask: Tensor, reach: int) -> Tensor:
    """Images (B, C, H, W) with the unmasked pixels extended by `reach` pixels into the mask (B, 1, H, W), 1 is masked.

    Deeper in the mask the pixels are 0.
    """
    unmasked = (mask <= 0.5).to(images)
    filled, has_value = images * unmasked, unmasked
    # Each step gives the pixels next to a filled one the mean of their filled neighbors.
    for _ in range(reach):
        mean, fraction = avg_pool2d(filled, 3, 1, 1), avg_pool2d(has_value, 3, 1, 1)
        new = (has_value == 0) & (fraction > 0)
        filled = torch.where(new, mean / fraction.clamp(min=1e-6), filled)
        has_value = torch.where(new, torch.ones_like(has_value), has_value)
    # Smooth what was filled in.
    fixed = (unmasked > 0) | (has_value == 0)
    fraction = avg_pool2d(has_value, 3, 1, 1).clamp(min=1e-6)
    for _ in range(SMOOTHING_STEPS_PER_PIXEL * reach):
        filled = torch.where(fixed, filled, avg_pool2d(filled, 3, 1, 1) / fraction)
    return filled


def blend_edges(fill: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Fills (B, C, H, W) plus the decoder's error at the unmasked pixels, extended into the mask: no visible seam.

    Assumes that near the edge the decoder's error inside the mask equals that outside; the correction fades out with
    the distance from the edge. It also pulls a sampled token towards the few unmasked pixels of its patch.
    """
    unmasked = (mask <= 0.5).to(images)
    error = _gaussian_blur((images - fill) * unmasked) / (_gaussian_blur(unmasked) + MIN_UNMASKED_WEIGHT)
    return (fill + error).clamp(-1, 1)


def _gaussian_blur(x: Tensor) -> Tensor:
    """(B, C, H, W) blurred by BLEND_SIGMA, with zeros beyond the borders."""
    radius = round(3 * BLEND_SIGMA)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-offsets.square() / (2 * BLEND_SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    horizontal = conv2d(x, kernel, padding=(0, radius), groups=x.shape[1])
    return conv2d(horizontal, kernel.transpose(2, 3), padding=(radius, 0), groups=x.shape[1])
