"""Masks, and the squares of a picture in which its holes are worked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imggen.data.decode import UnreadableError, decode_image
from imggen.engine.inpainting.image_file import Mask
from imggen.errors import DataError, UsageError

HOLE = 128  # and lighter
FINEST = 128  # cells a side in which holes are told apart
Floats = NDArray[np.float32]


def read_mask(path: Path, size: tuple[int, int], *, resize: bool) -> Mask:
    """(H, W), true in the hole: where a mask is white. What is transparent in it counts as black. Raises DataError."""
    try:
        mask = decode_image(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "give a mask's file") from error
    except UnreadableError as error:
        raise DataError(f"{path} cannot be read: {error}", "PNG, JPEG, WebP, GIF, BMP and TIFF can") from error
    if mask.mode in ("LA", "RGBA"):
        clear, mask = mask, Image.new("L", mask.size)
        mask.paste(clear.convert("L"), mask=clear.getchannel("A"))
    mask = mask.convert("L")
    if mask.size != size:
        if not resize:
            raise DataError(
                f"{path} is {mask.width}x{mask.height}, its picture {size[0]}x{size[1]}", "--resize-mask fits it"
            )
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    hole: Mask = np.asarray(mask) >= HOLE
    return hole


def box_mask(boxes: tuple[tuple[int, int, int, int], ...], size: tuple[int, int]) -> Mask:
    """(H, W), true in boxes of left, top, width and height. Raises UsageError for one that is not in the picture."""
    mask = np.zeros((size[1], size[0]), bool)
    for left, top, width, height in boxes:
        if left + width > size[0] or top + height > size[1]:
            raise UsageError(
                f"the box {left},{top},{width},{height} is not in the picture of {size[0]}x{size[1]}",
                "X,Y,WIDTH,HEIGHT",
            )
        mask[top : top + height, left : left + width] = True
    return mask


def grown(mask: Mask, by: int) -> Mask:
    """Wider by so many pixels on every side."""
    found = mask.copy()
    for _ in range(by):
        wider = found.copy()
        wider[1:] |= found[:-1]
        wider[:-1] |= found[1:]
        across = wider.copy()
        across[:, 1:] |= wider[:, :-1]
        across[:, :-1] |= wider[:, 1:]
        if np.array_equal(across, found):
            break
        found = across
    return found


def feathered(mask: Mask, width: int) -> Floats:
    """(H, W): 1 deep in the hole, falling over `width` pixels towards its border, 0 outside: known stays known."""
    weight, left = np.zeros(mask.shape, np.float32), mask
    for step in range(width + 1):
        weight[left] = (step + 1) / (width + 1)
        left = ~grown(~left, 1)
    return weight


@dataclass(frozen=True)
class Square:
    """A square of the picture, perhaps over its edges, and which parts of the hole (numbers in `parts_of`) it fills."""

    left: int
    top: int
    side: int
    parts: tuple[int, ...]


def parts_of(hole: Mask) -> tuple[NDArray[np.int32], int]:
    """(H, W) the number of each pixel's part from 1 on, 0 where nothing is missing; and how many parts there are.

    Holes that all but touch are one part.
    """
    height, width = hole.shape
    cell = max(1, math.ceil(max(height, width) / FINEST))
    padded: Mask = np.pad(hole, ((0, -height % cell), (0, -width % cell)))
    cells = padded.reshape(padded.shape[0] // cell, cell, -1, cell).max((1, 3))
    numbers, count = np.zeros(cells.shape, np.int32), 0
    for y, x in zip(*np.nonzero(cells), strict=True):
        if numbers[y, x]:
            continue
        count += 1
        numbers[y, x], edge = count, [(int(y), int(x))]
        while edge:
            at_y, at_x = edge.pop()
            near = np.s_[max(0, at_y - 1) : at_y + 2, max(0, at_x - 1) : at_x + 2]
            fresh = cells[near] & (numbers[near] == 0)
            numbers[near][fresh] = count
            edge += [
                (max(0, at_y - 1) + int(j), max(0, at_x - 1) + int(i)) for j, i in zip(*np.nonzero(fresh), strict=True)
            ]
    wide = numbers.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return np.where(hole, wide, 0).astype(np.int32), count


def squares(parts: NDArray[np.int32], count: int, model_size: int, context: float) -> list[Square]:
    """Where to work: for each hole a square `context` times as wide, at least the model's size, at most the picture's.

    Holes that lie in another's square, at a scale that does for them too, are filled with it. Largest first.
    """
    height, width = parts.shape
    boxes = []
    for number in range(1, count + 1):
        rows, columns = (np.flatnonzero((parts == number).any(axis)) for axis in (1, 0))
        boxes.append((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    order = sorted(range(count), key=lambda k: -max(boxes[k][2] - boxes[k][0], boxes[k][3] - boxes[k][1]))
    found: list[Square] = []
    for index in order:
        left, top, right, bottom = boxes[index]
        longest = max(right - left, bottom - top)
        side = math.ceil(min(max(context * longest, model_size), max(width, height)))
        for place, there in enumerate(found):
            inside = there.left <= left and there.top <= top
            inside &= right <= there.left + there.side and bottom <= there.top + there.side
            if inside and there.side <= 2 * side:
                found[place] = Square(there.left, there.top, there.side, (*there.parts, index + 1))
                break
        else:
            at = [_placed(a, b, side, whole) for a, b, whole in ((left, right, width), (top, bottom, height))]
            found.append(Square(at[0], at[1], side, (index + 1,)))
    return found


def _placed(low: int, high: int, side: int, whole: int) -> int:
    """Where a side begins that is centred on low … high, within 0 … whole if it fits there, else centred on that."""
    if side >= whole:
        return (whole - side) // 2
    return min(max((low + high - side) // 2, 0), whole - side)
