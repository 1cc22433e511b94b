"""Between uint8 pixels and a model's floats in [-1, 1]. Imports torch: for modules that use it anyway."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imggen.io.image import ImageArray


def to_float(images: Tensor) -> Tensor:
    """uint8 levels 0 to 255, of any shape and memory format, as float32 in [-1, 1]: `x / 127.5 - 1`."""
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_levels(images: Tensor) -> Tensor:
    """Floats in [-1, 1] as uint8 levels of the same shape, rounded and clamped.

    Rounded, because truncation would lower three of four levels by one.
    """
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def float_images(images: ImageArray, device: torch.device) -> Tensor:
    """Images (B, H, W, C) uint8 as a model takes them: (B, C, H, W) in [-1, 1], channels_last, on a device."""
    return to_float(from_array(images, device)).contiguous(memory_format=torch.channels_last)


def to_uint8(images: Tensor) -> ImageArray:
    """Images (B, C, H, W) in [-1, 1] on any device as an array (B, H, W, C) uint8; see `to_levels`."""
    return to_levels(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def from_array(images: ImageArray, device: torch.device | str) -> Tensor:
    """An array (B, H, W, C) uint8 as a tensor (B, C, H, W) uint8 on `device`, in channels_last memory.

    Arrays that torch cannot share, which are read-only or not contiguous, are copied.
    """
    return torch.from_numpy(np.require(images, requirements=("C", "W"))).to(device).permute(0, 3, 1, 2)
