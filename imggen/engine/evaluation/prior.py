"""What a segmentation finds that sees no image: the most frequent class, of all pixels or at each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from imggen.data.masks import VOID, Classes

POSITION_SIDE = 64  # positions along each side of a mask of any size


@dataclass(frozen=True)
class Prior:
    """The most frequent class at each position (F, S, S), and of all positions (F,), without each of F parts.

    `folds` are the parts that the images belong to; none if they belong to none.
    """

    position: npt.NDArray[np.uint8]
    majority: npt.NDArray[np.uint8]
    folds: Sequence[int] = ()

    def guess(self, baseline: str, index: int, shape: tuple[int, int]) -> Classes:
        """The classes (H, W) of image `index` by "position" or "majority"."""
        fold = self.folds[index] if self.folds else 0
        if baseline == "majority":
            return np.full(shape, self.majority[fold], np.uint8)
        return np.array(resized_classes(self.position[fold], shape))


def prior_of(masks: Sequence[Classes | None], classes: int, folds: Sequence[int] = ()) -> Prior:
    """The prior by masks (H, W), of which None are left out."""
    parts = list(folds) or [0] * len(masks)
    counts = np.zeros((max(parts) + 1, classes, POSITION_SIDE, POSITION_SIDE), np.int32)
    for mask, fold in zip(masks, parts, strict=True):
        if mask is None:
            continue
        numbers = resized_classes(mask, (POSITION_SIDE, POSITION_SIDE))
        rows, columns = np.nonzero(numbers != VOID)
        counts[fold, numbers[rows, columns], rows, columns] += 1
    known = counts.sum(0, keepdims=True) - (counts if folds else 0)
    position, majority = known.argmax(1), known.sum((2, 3)).argmax(1)
    return Prior(position.astype(np.uint8), majority.astype(np.uint8), folds)


def resized_classes(classes: Classes, shape: tuple[int, int]) -> Classes:
    """Class numbers (H, W) at another shape (h, w): those of the nearest pixels."""
    return np.asarray(Image.fromarray(classes).resize((shape[1], shape[0]), Image.Resampling.NEAREST))
