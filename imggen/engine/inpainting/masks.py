"""Masks (H, W), true where an image is to be filled: read from files, made from boxes, grown and feathered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imggen.data.decode import decode_image, explain_unreadable
from imggen.engine.inpainting.image_file import Mask
from imggen.errors import DataError, UsageError

MIN_MASKED_LEVEL = 128
Floats = NDArray[np.float32]


def read_mask(path: Path, size: tuple[int, int], *, resize: bool) -> Mask:
    """Read a mask of `size` (width, height): (H, W), true where it is white; transparent pixels count as black.

    Raises DataError for a file that cannot be read, or for another size unless `resize` is set.
    """
    with explain_unreadable(path, "give a mask file"):
        image = decode_image(path.read_bytes())
    if image.mode in ("LA", "RGBA"):
        with_alpha, image = image, Image.new("L", image.size)
        image.paste(with_alpha.convert("L"), mask=with_alpha.getchannel("A"))
    image = image.convert("L")
    if image.size != size:
        if not resize:
            raise DataError(
                f"{path} is {image.width}x{image.height}, its image {size[0]}x{size[1]}", "--resize-mask resizes it"
            )
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image) >= MIN_MASKED_LEVEL


def box_mask(boxes: tuple[tuple[int, int, int, int], ...], size: tuple[int, int]) -> Mask:
    """(H, W), true in boxes of left, top, width, height. Raises UsageError for a box that leaves the image."""
    mask = np.zeros((size[1], size[0]), bool)
    for left, top, width, height in boxes:
        if left + width > size[0] or top + height > size[1]:
            raise UsageError(
                f"the box {left},{top},{width},{height} is not inside the image of {size[0]}x{size[1]}",
                "X,Y,WIDTH,HEIGHT",
            )
        mask[top : top + height, left : left + width] = True
    return mask


def dilate(mask: Mask, pixels: int) -> Mask:
    """Grow the mask by some pixels on every side, corners included."""
    current = mask.copy()
    for _ in range(pixels):
        vertical = current.copy()
        vertical[1:] |= current[:-1]
        vertical[:-1] |= current[1:]
        grown = vertical.copy()
        grown[:, 1:] |= vertical[:, :-1]
        grown[:, :-1] |= vertical[:, 1:]
        if np.array_equal(grown, current):
            break
        current = grown
    return current


def feather_weights(mask: Mask, width: int) -> Floats:
    """(H, W): 1 deep inside the mask, falling linearly over `width` pixels towards its border, and 0 outside."""
    weights, inner = np.zeros(mask.shape, np.float32), mask
    for step in range(width + 1):
        weights[inner] = (step + 1) / (width + 1)
        inner = ~dilate(~inner, 1)
    return weights
