"""How near images are to their true counterparts, pixel by pixel and window by window."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d

from imggen.io.image import composite_on_white

Images = NDArray[np.uint8]
MAX_PSNR = 99.0  # of equal images, whose PSNR is infinite
SSIM_DEVIATION, SSIM_RADIUS = 1.5, 5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def visible(images: Images) -> Images:
    """Images (N, H, W, C) as they are compared: colors with alpha on white, followed by alpha.

    The colors of transparent pixels, which nobody sees, no longer differ.
    """
    if images.shape[3] != 4:
        return images
    return np.stack([np.concatenate([composite_on_white(image), image[..., 3:]], 2) for image in images])


def psnrs(images: Images, truth: Images) -> Tensor:
    """The peak signal-to-noise ratio (N,) in decibels, at most MAX_PSNR, of images (N, H, W, C); higher is better."""
    errors = (visible(images).astype(np.float32) - visible(truth).astype(np.float32)) ** 2
    means = torch.from_numpy(errors.reshape(len(images), -1).mean(1)).double()
    return (10 * torch.log10(255**2 / means.clamp(min=1e-12))).clamp(max=MAX_PSNR)


def ssims(images: Images, truth: Images) -> Tensor:
    """The structural similarity (N,) of images (N, H, W, C), at most 1; the mean over the channels.

    Wang et al. 2004, with a Gaussian window of deviation 1.5 and 11 pixels, where it lies within the image; smaller
    images have a window of their own size at most.
    """
    radius = min(SSIM_RADIUS, (min(images.shape[1:3]) - 1) // 2)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    window = torch.exp(-(offsets**2) / (2 * SSIM_DEVIATION**2))
    kernel = torch.outer(window, window) / window.sum() ** 2

    def means(values: Tensor) -> Tensor:
        return conv2d(values.flatten(0, 1)[:, None], kernel[None, None]).view(*values.shape[:2], -1)

    x, y = (torch.from_numpy(visible(each)).permute(0, 3, 1, 2).double() / 255 for each in (images, truth))
    mean_x, mean_y = means(x), means(y)
    variance_x, variance_y = means(x * x) - mean_x**2, means(y * y) - mean_y**2
    covariance = means(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    similarity /= (mean_x**2 + mean_y**2 + SSIM_C1) * (variance_x + variance_y + SSIM_C2)
    return similarity.mean((1, 2))
