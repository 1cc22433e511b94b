"""From what a model sees in images to vectors: pooling of feature maps."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

GRID_SIDE = 4  # places along a side that a vector distinguishes


def pool_grid(features: Tensor, side: int = GRID_SIDE) -> Tensor:
    """A map (B, C, h, w) → vectors (B, C * s²): means over a grid of s x s places, s at most `side`, h and w.

    Vectors keep places because images are often aligned: the mean over all places loses a fifth of the neighbors
    (digits, faces, icons).
    """
    side = min(side, *features.shape[2:])
    return adaptive_avg_pool2d(features.float(), side).flatten(1)


def pool_unit_grid(features: Tensor) -> Tensor:
    """The same with channels of length one at each place: places with large activations count no more than others."""
    places = pool_grid(features).view(*features.shape[:2], -1)
    return normalize(places, dim=1).flatten(1)
