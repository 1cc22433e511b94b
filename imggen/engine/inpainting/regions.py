"""The masked regions of an image, the square tiles in which they are filled, and which tiles are filled together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imggen.engine.inpainting.image_file import Mask

GRID = 128  # cells per side of the grid on which regions are separated
Labels = NDArray[np.int32]
Window = tuple[slice, slice]
"""Rows and columns of an image, inside it."""


@dataclass(frozen=True)
class Bounds:
    """A rectangle in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def longest(self) -> int:
        """The longer side."""
        return max(self.right - self.left, self.bottom - self.top)

    def contains(self, other: Bounds) -> bool:
        """Whether all of `other` lies inside."""
        starts_inside = self.left <= other.left and self.top <= other.top
        return starts_inside and other.right <= self.right and other.bottom <= self.bottom

    def union(self, other: Bounds) -> Bounds:
        """The smallest rectangle that contains both."""
        return Bounds(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )


@dataclass(frozen=True)
class Regions:
    """The connected regions of a mask (H, W), numbered from 1 to `count`.

    They are separated on a grid of at most GRID cells per side, so regions that almost touch are one: `numbers`
    (rows, columns) gives the region of each cell of `cell` x `cell` pixels, and 0 where none of its pixels is masked.
    """

    mask: Mask
    cell: int
    numbers: Labels
    count: int

    def select(self, window: Window, numbers: Sequence[int]) -> Mask:
        """(h, w): the pixels in a window that belong to the regions with these numbers."""
        rows, columns = (np.arange(part.start, part.stop) // self.cell for part in window)
        return self.mask[window] & np.isin(self.numbers, numbers)[np.ix_(rows, columns)]

    def bounds(self) -> list[Bounds]:
        """The smallest rectangle around each region."""
        return [self._bounds_of(number) for number in range(1, self.count + 1)]

    def _bounds_of(self, number: int) -> Bounds:
        # Only the cells of the region are searched pixel by pixel.
        cells = self.numbers == number
        window = tuple(
            slice(int(indices[0]) * self.cell, min((int(indices[-1]) + 1) * self.cell, length))
            for indices, length in zip(map(np.flatnonzero, (cells.any(1), cells.any(0))), self.mask.shape, strict=True)
        )
        assert len(window) == 2
        pixels = self.select(window, [number])
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        top, left = window[0].start, window[1].start
        return Bounds(left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)


def find_regions(mask: Mask) -> Regions:
    """The connected regions of a mask (H, W), diagonal neighbors included; `mask` is kept, not copied."""
    height, width = mask.shape
    cell = max(1, math.ceil(max(height, width) / GRID))
    starts = (np.arange(0, height, cell), np.arange(0, width, cell))
    cells = np.logical_or.reduceat(np.logical_or.reduceat(mask, starts[0], 0), starts[1], 1)
    numbers, count = np.zeros(cells.shape, np.int32), 0
    for y, x in zip(*np.nonzero(cells), strict=True):
        if not numbers[y, x]:
            count += 1
            _flood_fill(cells, numbers, int(y), int(x), count)
    return Regions(mask, cell, numbers, count)


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
    """A square of the image, which may extend beyond its edges, and the numbers of the regions filled in it.

    `target` is the smallest rectangle around these regions.
    """

    left: int
    top: int
    side: int
    regions: tuple[int, ...]
    target: Bounds

    @property
    def bounds(self) -> Bounds:
        """The whole square."""
        return Bounds(self.left, self.top, self.left + self.side, self.top + self.side)


def tile_boxes(regions: Regions, model_size: int, context: float) -> list[TileBox]:
    """Boxes that together contain all regions, the largest first.

    Each is `context` times as wide as its region, but at least `model_size`, and at most as wide as the image. A
    region inside the box of another one, if that is at most twice as wide as its own would be, is filled with it.
    """
    height, width = regions.mask.shape
    boxes: list[TileBox] = []
    for number, bounds in sorted(enumerate(regions.bounds(), 1), key=lambda item: -item[1].longest):
        side = math.ceil(min(max(context * bounds.longest, model_size), max(width, height)))
        for position, box in enumerate(boxes):
            if box.side <= 2 * side and box.bounds.contains(bounds):
                both = (*box.regions, number)
                boxes[position] = TileBox(box.left, box.top, box.side, both, box.target.union(bounds))
                break
        else:
            left = _centered(bounds.left, bounds.right, side, width)
            top = _centered(bounds.top, bounds.bottom, side, height)
            boxes.append(TileBox(left, top, side, (number,), bounds))
    return boxes


def _centered(low: int, high: int, side: int, length: int) -> int:
    """Where an interval of `side` starts that is centered on [low, high], moved inside [0, length] if it fits."""
    if side >= length:
        return (length - side) // 2
    return min(max((low + high - side) // 2, 0), length - side)


def rounds_of(boxes: Sequence[TileBox]) -> list[list[TileBox]]:
    """Group tiles into rounds: filling the tiles of a round together gives what filling one after another gives.

    Tiles that meet keep their order. A tile in which an earlier one fills pixels comes in a later round than that, so
    that it shows them filled; one in which a later one fills pixels comes in the same round or before, so that it
    shows them masked.
    """
    squares = np.array([_edges(box.bounds) for box in boxes]).reshape(-1, 4)
    targets = np.array([_edges(box.target) for box in boxes]).reshape(-1, 4)
    numbers = np.zeros(len(boxes), np.int64)
    for index in range(len(boxes)):
        shows_earlier = _overlap(squares[index], targets[:index])
        shown_by_earlier = _overlap(targets[index], squares[:index])
        earlier = np.where(shows_earlier, numbers[:index] + 1, np.where(shown_by_earlier, numbers[:index], 0))
        numbers[index] = earlier.max(initial=0)
    rounds: list[list[TileBox]] = [[] for _ in range(int(numbers.max(initial=-1)) + 1)]
    for number, box in zip(numbers, boxes, strict=True):
        rounds[number].append(box)
    return rounds


def _edges(bounds: Bounds) -> tuple[int, int, int, int]:
    return bounds.left, bounds.top, bounds.right, bounds.bottom


def _overlap(one: NDArray[np.int64], others: NDArray[np.int64]) -> Mask:
    """(N,): whether a rectangle shares a pixel with each of `others` (N, 4); all as left, top, right, bottom."""
    is_beside = (others[:, 0] < one[2]) & (one[0] < others[:, 2])
    return is_beside & (others[:, 1] < one[3]) & (one[1] < others[:, 3])
