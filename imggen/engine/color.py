"""Colors of one image in the distribution of others: optimal transport between Gaussians, which is an affine map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from imggen.data.deep_gray import strips
from imggen.io.image import ImageArray
from imggen.io.pixels import to_float, to_levels

Matrix = NDArray[np.float64]
MAX_GAIN = 12.0  # of the contrast along any color axis: more would show the noise of the file
MIN_VARIANCE = 1e-8  # of colors in [-1, 1]
BARYCENTER_STEPS = 20
LUMINANCE = np.array([0.299, 0.587, 0.114])  # Rec. 601


@dataclass(frozen=True)
class Moments:
    """The mean (3,) and the covariance (3, 3) of colors in [-1, 1]."""

    mean: Matrix
    covariance: Matrix


@dataclass(frozen=True)
class ColorMap:
    """The affine map x → matrix @ (x - center) + target of colors in [-1, 1]."""

    matrix: Matrix
    center: Matrix
    target: Matrix

    def __call__(self, colors: NDArray[np.floating]) -> NDArray[np.floating]:
        """Colors (…, 3) to colors (…, 3), not clipped."""
        offset = self.target - self.matrix @ self.center
        return colors @ self.matrix.T.astype(colors.dtype) + offset.astype(colors.dtype)


def to_colors(pixels: ImageArray) -> NDArray[np.float32]:
    """uint8 levels as float32 in [-1, 1]."""
    return to_float(torch.from_numpy(np.require(pixels, requirements=("C", "W")))).numpy()


def to_pixels(colors: NDArray[np.floating]) -> ImageArray:
    """Floats in [-1, 1] as uint8 levels, rounded and clipped."""
    return to_levels(torch.from_numpy(np.ascontiguousarray(colors))).numpy()


def color_moments(image: Image.Image, alpha: ImageArray | None = None) -> Moments:
    """The moments of an RGB image, each pixel weighted by its alpha (H, W); strip by strip, to bound the memory."""
    total, sums, products = 0.0, np.zeros(3), np.zeros((3, 3))
    for rows, pixels in strips(image):
        colors = (pixels / 127.5 - 1).reshape(-1, 3)
        weights = np.ones(len(colors)) if alpha is None else alpha[rows].reshape(-1) / 255
        total += weights.sum()
        sums += weights @ colors
        products += colors.T @ (colors * weights[:, None])
    total = max(total, 1e-12)
    mean = sums / total
    return Moments(mean, products / total - np.outer(mean, mean))


def moments_of_images(images: ImageArray) -> Moments:
    """The moments of all pixels of images (N, H, W, 3) together."""
    colors = images.reshape(-1, 3) / 127.5 - 1
    mean = colors.mean(0)
    return Moments(mean, colors.T @ colors / len(colors) - np.outer(mean, mean))


def blend_moments(moments: Sequence[Moments], weights: Sequence[float]) -> Moments:
    """The Wasserstein barycenter of Gaussians, by the fixed-point iteration of Álvarez-Esteban et al. 2016."""
    mean = sum((w * m.mean for w, m in zip(weights, moments, strict=True)), np.zeros(3))
    covariance = sum((w * m.covariance for w, m in zip(weights, moments, strict=True)), np.zeros((3, 3)))
    if len(moments) > 1:
        for _ in range(BARYCENTER_STEPS):
            root, inverse = _power(covariance, 0.5), _power(covariance, -0.5)
            parts = (w * _power(root @ m.covariance @ root, 0.5) for w, m in zip(weights, moments, strict=True))
            inner = sum(parts, np.zeros((3, 3)))
            covariance = inverse @ inner @ inner @ inverse
    return Moments(mean, covariance)


def transport(content: Moments, style: Moments) -> ColorMap:
    """The optimal transport of one Gaussian to another: S = C^-½ (C^½ S C^½)^½ C^-½ (Olkin & Pukelsheim 1982).

    No color axis gains more than MAX_GAIN: a nearly gray image does not become colored noise.
    """
    root, inverse = _power(content.covariance, 0.5), _power(content.covariance, -0.5)
    matrix = inverse @ _power(root @ style.covariance @ root, 0.5) @ inverse
    gains, axes = np.linalg.eigh((matrix + matrix.T) / 2)
    limited = axes @ np.diag(np.clip(gains, 0, MAX_GAIN)) @ axes.T
    return ColorMap(limited, content.mean, style.mean)


def luminance_moments(moments: Moments) -> Moments:
    """The moments of an image's luminance, in all three channels alike."""
    mean, variance = LUMINANCE @ moments.mean, LUMINANCE @ moments.covariance @ LUMINANCE
    return Moments(np.full(3, mean), np.full((3, 3), variance))


def color_axes(moments: Moments, min_ratio: float = 1e-5) -> Matrix:
    """The axes (3, k) along which colors vary, each as long as its standard deviation; a gray image has one."""
    variances, axes = np.linalg.eigh(moments.covariance)
    kept = variances >= max(min_ratio * variances.max(), MIN_VARIANCE)
    if not kept.any():
        return np.full((3, 1), 0.1)
    return axes[:, kept] * np.sqrt(variances[kept])


def _power(matrix: Matrix, exponent: float) -> Matrix:
    """A power of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return vectors @ np.diag(np.maximum(values, MIN_VARIANCE) ** exponent) @ vectors.T


def luminance(colors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Colors (…, 3) → their luminance (…, 1)."""
    return (colors @ LUMINANCE.astype(colors.dtype))[..., None]
