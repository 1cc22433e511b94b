"""Seams: a fill is moved to meet what is known all round it; and filling without a model."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from imggen.engine.inpainting.image_file import Mask
from imggen.engine.inpainting.masks import Floats, grown
from imggen.errors import UsageError
from imggen.io.image import ImageArray

SWEEPS = 24
SMALLEST = 4


def solve_laplace(values: Floats, given: Mask, inside: Mask) -> Floats:
    """(H, W, C): `values` where `given`, and inside the smoothest surface between them (Laplace's equation).

    What is neither is a border at which the surface lies flat. Solved from coarse to fine, by averaging neighbours.
    """
    height, width = given.shape
    start = np.zeros_like(values)
    if min(height, width) > SMALLEST and inside.any():
        counts = _halved(given[..., None].astype(np.float32))
        coarse_given = counts[..., 0] > 0
        coarse_inside = (_halved(inside[..., None].astype(np.float32))[..., 0] > 0) & ~coarse_given
        sums = _halved(np.where(given[..., None], values, np.float32(0)))
        means = np.divide(sums, np.maximum(counts, 1e-6), dtype=np.float32)
        coarse = solve_laplace(means, coarse_given, coarse_inside)
        start = coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    elif given.any():
        start[:] = values[given].mean(0)
    surface = np.where(given[..., None], values, np.where(inside[..., None], start, 0)).astype(np.float32)
    weight = np.pad((given | inside)[..., None].astype(np.float32), ((1, 1), (1, 1), (0, 0)))
    around = np.maximum(_neighbours(weight), 1e-6)
    for _ in range(SWEEPS):
        mean = _neighbours(np.pad(surface, ((1, 1), (1, 1), (0, 0))) * weight) / around
        surface = np.where(inside[..., None], mean, surface)
    return surface


def _halved(values: Floats) -> Floats:
    height, width = values.shape[:2]
    even = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    sums: Floats = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, -1).sum((1, 3))
    return sums


def _neighbours(padded: Floats) -> Floats:
    sums: Floats = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return sums


def poisson_blend(drawn: Floats, picture: Floats, known: Mask, hole: Mask) -> Floats:
    """`drawn` (H, W, C) moved inside `hole` so that it meets `picture` where that is known (Poisson blending).

    What the drawing is wrong by at the known pixels round the hole is spread over it as a membrane. A model that gives
    those back unchanged is taken at its word; at another size than the picture's it cannot. Pérez, Gangnet, Blake,
    "Poisson image editing", 2003.
    """
    ring = grown(hole, 1) & known
    if not ring.any():
        return drawn
    return drawn + solve_laplace(picture - drawn, ring, hole)


def check_classical() -> None:
    """Raises UsageError when its library is not there."""
    if find_spec("skimage") is None:
        raise UsageError("--method classical needs scikit-image", "pip install 'imggen[classical]'")


def biharmonic(picture: ImageArray, hole: Mask) -> ImageArray:
    """(H, W, C) with the hole filled by a surface that bends as little as can be: good for scratches, no wider."""
    from skimage.restoration import inpaint_biharmonic

    given = picture.astype(np.float64) / 255
    given[hole] = 0
    found = inpaint_biharmonic(given, hole, split_into_regions=True, channel_axis=-1)
    filled: ImageArray = np.where(hole[..., None], np.rint(found.clip(0, 1) * 255).astype(np.uint8), picture)
    return filled
