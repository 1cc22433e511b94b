"""Maps of large images by overlapping tiles, equal to those of the whole image, in little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.io.image import ImageArray
from imggen.io.pixels import float_images


class Span(NamedTuple):
    """Along one axis: the pixels of the result, and the wider ones that the network gets for them."""

    start: int
    stop: int
    first: int
    last: int


def spans(length: int, side: int, reach: int, multiple: int) -> Iterator[Span]:
    """Divide `length` pixels into spans of at most about `side`, whose first pixels are divisible by `multiple`."""
    side += -side % multiple
    margin = reach + -reach % multiple
    for start in range(0, length, side):
        stop = min(start + side, length)
        yield Span(start, stop, max(0, start - margin), min(length, stop + margin))


def map_in_tiles(
    image: ImageArray,
    apply: Callable[[Tensor], Tensor],
    channels: int,
    *,
    reach: int,
    multiple: int,
    side: int,
    device: torch.device,
    advance: Callable[[float], None] | None = None,
) -> npt.NDArray[np.uint8]:
    """`apply` of an image (H, W, C) uint8: (H, W, channels) uint8.

    `apply` takes (1, C, h, w) in [-1, 1] to (1, channels, h, w) uint8. A result must depend on no pixel further away
    than `reach`, and be the same for a tile whose first pixels are divisible by `multiple`. Each tile makes about
    `side` x `side` pixels of the result. `advance` gets the fraction of the image that is done.
    """
    height, width = image.shape[:2]
    result = np.empty((height, width, channels), np.uint8)
    for row in spans(height, side, reach, multiple):
        for column in spans(width, side, reach, multiple):
            tile = image[row.first : row.last, column.first : column.last]
            found = apply(float_images(np.ascontiguousarray(tile[None]), device))[0].permute(1, 2, 0).cpu().numpy()
            own = found[row.start - row.first :, column.start - column.first :]
            own = own[: row.stop - row.start, : column.stop - column.start]
            result[row.start : row.stop, column.start : column.stop] = own
            if advance is not None:
                advance((row.start * width + (row.stop - row.start) * column.stop) / (height * width))
    return result
