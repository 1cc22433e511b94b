"""Masks (H, W), true where an image is to be filled, and the tiles in which the masked regions are processed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imggen.data.decode import decode_file
from imggen.engine.inpainting.image_file import Mask
from imggen.errors import DataError, UsageError

MIN_MASKED_LEVEL = 128
COMPONENT_GRID = 128  # cells per side of the grid in which components are separated
Floats = NDArray[np.float32]
Labels = NDArray[np.int32]


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
    note = None
    if image.mode in ("LA", "RGBA"):
        with_alpha, image = image, Image.new("L", image.size)
        gray, alpha = with_alpha.convert("L"), with_alpha.getchannel("A")
        image.paste(gray, mask=alpha)
        if _has_shape_in_alpha(gray, alpha):
            image, note = alpha, f"{path}: all that is visible has one color, so the opaque pixels are the mask"
    levels = image.convert("L")
    if levels.size != size:
        if not resize:
            raise DataError(
                f"{path} is {levels.width}x{levels.height}, its image {size[0]}x{size[1]}", "--resize-mask resizes it"
            )
        if _is_stretched(levels.size, size):
            note = f"{path}: {levels.width}x{levels.height} is stretched to another aspect ratio, {size[0]}x{size[1]}"
    darkest, lightest = np.flatnonzero(levels.histogram())[[0, -1]].tolist()
    return FileMask(_fitted(levels, size, invert), darkest, lightest, note)


def _has_shape_in_alpha(gray: Image.Image, alpha: Image.Image) -> bool:
    """Whether the visible pixels have one level, and a dark one, so that only the transparency has a shape."""
    low, high = alpha.getextrema()
    if not low < MIN_MASKED_LEVEL <= high:  # type: ignore[operator]
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


def connected_components(mask: Mask) -> tuple[Labels, int]:
    """(H, W): the number of each masked pixel's component, from 1 on, and 0 elsewhere; and how many there are.

    Components are separated on a grid of COMPONENT_GRID cells per side, so regions that almost touch are one.
    """
    height, width = mask.shape
    cell = max(1, math.ceil(max(height, width) / COMPONENT_GRID))
    padded: Mask = np.pad(mask, ((0, -height % cell), (0, -width % cell)))
    cells = padded.reshape(padded.shape[0] // cell, cell, -1, cell).max((1, 3))
    numbers, count = np.zeros(cells.shape, np.int32), 0
    for y, x in zip(*np.nonzero(cells), strict=True):
        if not numbers[y, x]:
            count += 1
            _flood_fill(cells, numbers, int(y), int(x), count)
    pixels = numbers.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return np.where(mask, pixels, 0).astype(np.int32), count


def _flood_fill(cells: Mask, numbers: Labels, y: int, x: int, number: int) -> None:
    """Write `number` to the cell (y, x) and to all set cells connected with it, diagonally too."""
    numbers[y, x], pending = number, [(y, x)]
    while pending:
        y, x = pending.pop()
        top, left = max(0, y - 1), max(0, x - 1)
        around = np.s_[top : y + 2, left : x + 2]
        reached = cells[around] & (numbers[around] == 0)
        numbers[around][reached] = number
        pending += [(top + int(j), left + int(i)) for j, i in zip(*np.nonzero(reached), strict=True)]


@dataclass(frozen=True)
class TileBox:
    """A square of the image, which may extend beyond its edges, and the numbers of the components filled in it."""

    left: int
    top: int
    side: int
    components: tuple[int, ...]


def tile_boxes(components: Labels, count: int, model_size: int, context: float) -> list[TileBox]:
    """Boxes that together contain all components of `connected_components`, the largest first.

    Each is `context` times as wide as its component, but at least `model_size`, and at most as wide as the image. A
    component inside the box of another one, if that is at most twice as wide as its own would be, is filled with it.
    """
    height, width = components.shape
    bounds = []
    for number in range(1, count + 1):
        rows, columns = (np.flatnonzero((components == number).any(axis)) for axis in (1, 0))
        bounds.append((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    order = sorted(range(count), key=lambda k: -max(bounds[k][2] - bounds[k][0], bounds[k][3] - bounds[k][1]))
    boxes: list[TileBox] = []
    for index in order:
        left, top, right, bottom = bounds[index]
        longest = max(right - left, bottom - top)
        side = math.ceil(min(max(context * longest, model_size), max(width, height)))
        for position, box in enumerate(boxes):
            if _contains(box, bounds[index]) and box.side <= 2 * side:
                boxes[position] = TileBox(box.left, box.top, box.side, (*box.components, index + 1))
                break
        else:
            x, y = _centered(left, right, side, width), _centered(top, bottom, side, height)
            boxes.append(TileBox(x, y, side, (index + 1,)))
    return boxes


def _contains(box: TileBox, bounds: tuple[int, int, int, int]) -> bool:
    left, top, right, bottom = bounds
    is_right_of_corner = box.left <= left and box.top <= top
    return is_right_of_corner and right <= box.left + box.side and bottom <= box.top + box.side


def _centered(low: int, high: int, side: int, length: int) -> int:
    """Where an interval of `side` starts that is centered on [low, high], moved inside [0, length] if it fits."""
    if side >= length:
        return (length - side) // 2
    return min(max((low + high - side) // 2, 0), length - side)
