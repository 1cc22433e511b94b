"""Pairs in a batch: images with their targets, as the channels of one tensor; augmented alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from imggen.models import global_batch
from imggen.models.augment import mild_augmentation

LEFT_AS_THEY_ARE = 0.25  # the probability that a pair is not augmented, so that sharp images stay known


def split_pairs(pairs: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) and their targets (B, T, H, W) of pairs (B, C + T, H, W)."""
    return pairs[:, :channels], pairs[:, channels:]


def classes_in(targets: Tensor) -> Tensor:
    """Class numbers (B, H, W), int64, of masks (B, 1, H, W) that were scaled from 0 … 255 to [-1, 1]."""
    return ((targets[:, 0] + 1) * 127.5).round().long()


def augment_pairs(images: Tensor, targets: Tensor, geometry: float, color: float, mode: str) -> tuple[Tensor, Tensor]:
    """Move images (B, C, H, W) and targets (B, T, H, W) alike, and change the colors of the images only.

    `mode` is how targets are sampled: "nearest" for masks, which are never blended, or "bilinear". Random numbers come
    from torch's global CPU generator.
    """
    augment = mild_augmentation(images.shape, geometry, color, 0.0, images.device)
    moved = grid_sample(targets, augment.grid.to(targets.dtype), mode, "reflection", align_corners=False)
    kept = (global_batch.rand(len(images)) < LEFT_AS_THEY_ARE).to(images.device)[:, None, None, None]
    images = torch.where(kept, images, augment(images)).contiguous(memory_format=torch.channels_last)
    return images, torch.where(kept, targets, moved)
