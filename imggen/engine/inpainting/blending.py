"""Blending a fill into its image without a visible seam, and filling without a model."""

from __future__ import annotations

import numpy as np

from imggen.engine.inpainting.image_file import Mask
from imggen.engine.inpainting.masks import Floats, dilate
from imggen.io.image import ImageArray

SWEEPS_PER_LEVEL = 24
MIN_LEVEL_SIZE = 4


def solve_laplace(values: Floats, fixed: Mask, unknown: Mask) -> Floats:
    """(H, W, C): `values` where `fixed`, and where `unknown` the solution of Laplace's equation between them.

    Pixels that are neither form a border across which the solution is flat (zero derivative); they are 0. Solved from
    coarse to fine, by averaging neighbors.
    """
    height, width = fixed.shape
    start = np.zeros_like(values)
    if min(height, width) > MIN_LEVEL_SIZE and unknown.any():
        # Start from the solution at half the size
        counts = _sum_2x2(fixed[..., None].astype(np.float32))
        coarse_fixed = counts[..., 0] > 0
        coarse_unknown = (_sum_2x2(unknown[..., None].astype(np.float32))[..., 0] > 0) & ~coarse_fixed
        sums = _sum_2x2(np.where(fixed[..., None], values, np.float32(0)))
        means = np.divide(sums, np.maximum(counts, 1e-6), dtype=np.float32)
        coarse = solve_laplace(means, coarse_fixed, coarse_unknown)
        start = coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    elif fixed.any():
        start[:] = values[fixed].mean(0)
    solution = np.where(fixed[..., None], values, np.where(unknown[..., None], start, 0)).astype(np.float32)
    weights = np.pad((fixed | unknown)[..., None].astype(np.float32), ((1, 1), (1, 1), (0, 0)))
    weight_sums = np.maximum(_sum_neighbors(weights), 1e-6)
    for _ in range(SWEEPS_PER_LEVEL):
        mean = _sum_neighbors(np.pad(solution, ((1, 1), (1, 1), (0, 0))) * weights) / weight_sums
        solution = np.where(unknown[..., None], mean, solution)
    return solution


def _sum_2x2(values: Floats) -> Floats:
    """(ceil(H / 2), ceil(W / 2), C): the sums of blocks of 2x2 pixels."""
    height, width = values.shape[:2]
    even = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    return even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, -1).sum((1, 3))


def _sum_neighbors(padded: Floats) -> Floats:
    """(H, W, C): the sums of the four neighbors, of an array that is padded by one pixel."""
    return padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]


def poisson_blend(generated: Floats, image: Floats, unmasked: Mask, mask: Mask) -> Floats:
    """`generated` (H, W, C), changed inside `mask` so that it continues `image` at the unmasked pixels around it.

    The difference at those pixels is interpolated over the mask by Laplace's equation (Pérez, Gangnet and Blake,
    "Poisson image editing", 2003). A model that reproduces them exactly is left unchanged; at another size than the
    image's it cannot.
    """
    ring = dilate(mask, 1) & unmasked
    if not ring.any():
        return generated
    return generated + solve_laplace(image - generated, ring, mask)


def biharmonic(image: ImageArray, mask: Mask) -> ImageArray:
    """(H, W, C) with the mask filled by the surface of least bending: good for thin scratches. Needs scikit-image."""
    from skimage.restoration import inpaint_biharmonic

    floats = image.astype(np.float64) / 255
    floats[mask] = 0
    surface = inpaint_biharmonic(floats, mask, split_into_regions=True, channel_axis=-1)
    return np.where(mask[..., None], np.rint(surface.clip(0, 1) * 255).astype(np.uint8), image)
