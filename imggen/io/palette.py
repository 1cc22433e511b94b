"""Images of few colors, as in pixel art: reducing the colors of an image, and palettes for PNG."""

from __future__ import annotations

import numpy as np
from PIL import Image

from imggen.io.image import ImageArray, as_image

KMEANS_ROUNDS = 4  # after median cut


def reduce_colors(image: ImageArray, colors: int) -> ImageArray:
    """(H, W, C) with at most `colors` different ones: each pixel gets the nearest, without dithering.

    Alpha stays as it is. Where it is only 0 or 255, transparent pixels count as one of the colors.
    """
    channels = image.shape[2]
    opaque = image[..., 3] > 0 if channels == 4 else np.ones(image.shape[:2], bool)
    if not opaque.any():
        return image
    allowed = max(1, colors - (not opaque.all()))
    pixels = image[opaque][:, : min(3, channels)]
    if len(np.unique(pixels, axis=0)) <= allowed:
        return image
    row = as_image(np.repeat(pixels[None], 3 // pixels.shape[1], axis=2))
    reduced = np.asarray(row.quantize(allowed, Image.Quantize.MEDIANCUT, kmeans=KMEANS_ROUNDS).convert("RGB"))[0]
    result = image.copy()
    result[opaque, : pixels.shape[1]] = reduced[:, : pixels.shape[1]]
    return result


def with_palette(image: ImageArray) -> Image.Image | None:
    """(H, W, C) as an image of mode P with exactly its colors; None if they are more than 256, or half transparent.

    All transparent pixels share one color of the palette.
    """
    has_alpha = image.shape[2] == 4
    transparent = image[..., 3] == 0 if has_alpha else np.zeros(image.shape[:2], bool)
    if has_alpha and not (transparent | (image[..., 3] == 255)).all():
        return None
    rgb = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
    palette, indices = np.unique(rgb[~transparent], axis=0, return_inverse=True)
    if len(palette) + transparent.any() > 256:
        return None
    values = np.full(image.shape[:2], len(palette), np.uint8)
    values[~transparent] = indices.ravel()
    height, width = image.shape[:2]
    result = Image.frombytes("P", (width, height), values.tobytes())
    white = [255, 255, 255] if transparent.any() else []
    result.putpalette([*palette.ravel().tolist(), *white])
    if transparent.any():
        result.info["transparency"] = len(palette)
    return result
