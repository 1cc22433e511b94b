"""Masks (H, W), true where an image is to be filled: read from files, made from boxes, grown and feathered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imggen.data.decode import decode_file
from imggen.engine.inpainting.image_file import Mask
from imggen.errors import DataError, UsageError

MIN_MASKED_LEVEL = 128
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FileMask:
    """A mask (H, W) from a file, the file's darkest and lightest level of 255, and what to tell the user about it."""

    mask: Mask
    darkest: int
    lightest: int
    note: str | None = None


def read_mask(path: Path, size: tuple[int, int], *, invert: bool, resize: bool) -> FileMask:
    """Read a mask of `size` (width, height), true where it is white, or black with `invert`.

    Transparent pixels count as black; where all visible pixels have the same dark color, opaque ones count as white.
    With `resize`, a mask of another size is fitted: a pixel is masked if the mask touches it. Raises DataError for a
    file that cannot be read, or for another size unless `resize` is set, and UsageError for a pipe.
    """
    image = decode_file(path, "give a mask file")
    notes = []
    if image.mode in ("LA", "RGBA"):
        with_alpha, image = image, Image.new("L", image.size)
        gray, alpha = with_alpha.convert("L"), with_alpha.getchannel("A")
        image.paste(gray, mask=alpha)
        if _has_shape_in_alpha(gray, alpha):
            image = alpha
            notes.append(f"{path}: all that is visible has one color, so the opaque pixels are the mask")
    levels = image.convert("L")
    if levels.size != size:
        if not resize:
            raise DataError(
                f"{path} is {levels.width}x{levels.height}, its image {size[0]}x{size[1]}", "--resize-mask resizes it"
            )
        if _is_stretched(levels.size, size):
            shapes = f"{levels.width}x{levels.height} is stretched to another aspect ratio, {size[0]}x{size[1]}"
            notes.append(shapes if notes else f"{path}: {shapes}")
    darkest, lightest = np.flatnonzero(levels.histogram())[[0, -1]].tolist()
    return FileMask(_fitted(levels, size, invert), darkest, lightest, "; ".join(notes) or None)


def _has_shape_in_alpha(gray: Image.Image, alpha: Image.Image) -> bool:
    """Whether the visible pixels have one level, and a dark one, so that only the transparency has a shape."""
    low, high = cast(tuple[int, int], alpha.getextrema())
    if not low < MIN_MASKED_LEVEL <= high:
        return False
    histogram = np.array(gray.histogram(mask=alpha.point(lambda value: 255 if value else 0)))
    used = np.flatnonzero(histogram)
    return len(used) == 1 and int(used[0]) < MIN_MASKED_LEVEL


def _is_stretched(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) differ in aspect ratio by more than rounding makes."""
    height = size[1] * wanted[0] / size[0]
    return abs(height - wanted[1]) > max(1.0, 0.01 * wanted[1])


def _fitted(levels: Image.Image, size: tuple[int, int], invert: bool) -> Mask:
    """(H, W) of `size` (width, height); where the mask is reduced, a pixel is masked if any of its own is."""
    width, height = levels.size
    if width > size[0] or height > size[1]:
        masked = (np.asarray(levels) >= MIN_MASKED_LEVEL) ^ invert
        masked = _any_in_cells(_any_in_cells(masked, min(height, size[1])).T, min(width, size[0])).T
        levels, invert = Image.fromarray(masked.astype(np.uint8) * 255), False
    if levels.size != size:
        levels = levels.resize(size, Image.Resampling.BILINEAR)
    return (np.asarray(levels) >= MIN_MASKED_LEVEL) ^ invert


def _any_in_cells(masked: Mask, rows: int) -> Mask:
    """(rows, W) of (H, W), H >= rows: whether any pixel is set that a row of the result overlaps, if only partly."""
    height = len(masked)
    if height == rows:
        return masked
    starts = [row * height // rows for row in range(rows)]
    stops = [-(-(row + 1) * height // rows) for row in range(rows)]
    # reduceat takes pairs of start and stop; every second result is of what lies between two cells.
    pairs = np.array([bound for cell in zip(starts, stops, strict=True) for bound in cell][:-1])
    reduced: Mask = np.logical_or.reduceat(masked, pairs, axis=0)[::2]
    return reduced


def explain_mask(file: FileMask, path: Path, invert: bool) -> DataError:
    """The error for a mask file in which no pixel, or every pixel, is masked: what the file holds, and what to do."""
    masks_all = bool(file.mask.any())
    all_light = masks_all != invert
    extreme = f"darkest level is {file.darkest}" if all_light else f"lightest level is {file.lightest}"
    rule = f"levels {'below' if invert else 'from'} {MIN_MASKED_LEVEL} {'' if invert else 'on '}are masked"
    if masks_all:
        hint = "save the mask with what is to be kept in the other color, black or white"
    else:
        hint = "save the mask in black and white, with levels 0 and 255"
    what = "every pixel" if masks_all else "no pixel"
    flag = " with --invert-mask" if invert else ""
    return DataError(f"{path}: {what} is masked: its {extreme} of 255, and{flag} {rule}", hint)


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
