"""Blending a fill into its image without a visible seam, and filling without a model."""

from __future__ import annotations

import numpy as np

from imggen.engine.inpainting.image_file import Mask
from imggen.engine.inpainting.masks import Floats, dilate
from imggen.engine.inpainting.regions import Window
from imggen.io.image import ImageArray

SWEEPS_PER_LEVEL = 24
MIN_LEVEL_SIZE = 4


def solve_laplace(values: Floats, fixed: Mask, unknown: Mask) -> Floats:
    """(H, W, C): `values` where `fixed`, and where `unknown` the solution of Laplace's equation between them.

    Pixels that are neither form a border across which the solution is flat (zero derivative); they are 0. Solved from
    coarse to fine, by averaging neighbors.
    """
    solution = np.where(fixed[..., None], values, np.float32(0))
    if not unknown.any():
        return solution
    height, width = fixed.shape
    if min(height, width) > MIN_LEVEL_SIZE:
        # Start from the solution at half the size
        counts = _sum_2x2(fixed[..., None].astype(np.float32))
        coarse_fixed = counts[..., 0] > 0
        coarse_unknown = (_sum_2x2(unknown[..., None].astype(np.float32))[..., 0] > 0) & ~coarse_fixed
        means = np.divide(_sum_2x2(solution), np.maximum(counts, 1e-6), dtype=np.float32)
        coarse = solve_laplace(means, coarse_fixed, coarse_unknown)
        start = coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
        np.copyto(solution, start, where=unknown[..., None])
    elif fixed.any():
        solution[unknown] = values[fixed].mean(0)
    _average_neighbors(solution, fixed | unknown, unknown)
    return solution


def _average_neighbors(solution: Floats, in_domain: Mask, unknown: Mask) -> None:
    """Replace each unknown pixel of `solution` (H, W, C) by the mean of its neighbors in the domain, many times.

    Only the rectangle around the unknown pixels is computed. Pixels outside the domain are 0.
    """
    rows, columns = (np.flatnonzero(unknown.any(axis)) for axis in (1, 0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    weight_sums = np.maximum(_sum_neighbors(_with_border(in_domain[..., None].astype(np.float32), inside)), 1e-6)
    current = _with_border(solution, inside)
    is_unknown = unknown[inside][..., None]
    for _ in range(SWEEPS_PER_LEVEL):
        mean = _sum_neighbors(current)
        np.divide(mean, weight_sums, out=mean)
        np.copyto(current[1:-1, 1:-1], mean, where=is_unknown)
    solution[inside] = current[1:-1, 1:-1]


def _with_border(values: Floats, window: Window) -> Floats:
    """(h + 2, w + 2, C): the values (H, W, C) in a window and one pixel around it; 0 beyond the edges."""
    (top, bottom), (left, right) = ((part.start, part.stop) for part in window)
    height, width, channels = values.shape
    result = np.zeros((bottom - top + 2, right - left + 2, channels), np.float32)
    before, after = (top > 0, left > 0), (bottom < height, right < width)
    part = values[top - before[0] : bottom + after[0], left - before[1] : right + after[1]]
    y, x = 1 - before[0], 1 - before[1]
    result[y : y + part.shape[0], x : x + part.shape[1]] = part
    return result


def _sum_2x2(values: Floats) -> Floats:
    """(ceil(H / 2), ceil(W / 2), C): the sums of blocks of 2x2 pixels."""
    height, width = values.shape[:2]
    even = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    return even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, -1).sum((1, 3))


def _sum_neighbors(padded: Floats) -> Floats:
    """(H, W, C): the sums of the four neighbors, of an array that is padded by one pixel."""
    sums = padded[:-2, 1:-1] + padded[2:, 1:-1]
    sums += padded[1:-1, :-2]
    sums += padded[1:-1, 2:]
    return sums


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
