"""Pairs of an image and its target: a mask, or another image. Worker processes import this: no torch.

A pair is decoded as one array, the image's channels followed by the target's, so that a data set of pairs is kept and
read like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from imggen.data.decode import (
    PIXEL_BUDGET,
    PixelBox,
    UnreadableError,
    crop_box,
    fit_image,
    loaded_image,
    padded_size,
    simple_mode,
)
from imggen.data.masks import VOID, Classes, MaskTable, classes_of, open_mask
from imggen.data.readers import FILE_READERS, ImageReader, Source, reader_from

MAX_RATIO = 1.02  # of the ratios of the sides of two images of a pair


@dataclass
class PairReader:
    """The images of a source, with a target for each: a mask by `table`, or an image of `channels`.

    `resize_masks` takes masks of another size than their image's. Images that are not `matched` have nothing to do with
    each other, so their shapes may differ.
    """

    inputs: ImageReader
    targets: ImageReader
    names: list[str]
    channels: int
    table: MaskTable | None = None
    resize_masks: bool = False
    matched: bool = True

    def __post_init__(self) -> None:
        """Make objects of lists and dictionaries, as which JSON brings them back."""
        self.inputs, self.targets = reader_from(self.inputs), reader_from(self.targets)
        if self.table is not None:
            colors, values, names, void, lossy = self.table
            self.table = MaskTable(colors, tuple(values), tuple(names), void, lossy)

    def image(self, index: int) -> bytes | Image.Image:
        """The encoded bytes of the image alone."""
        return self.inputs.image(index)

    def target_source(self) -> Source:
        """The targets as a source."""
        return Source("", (), self.names, np.zeros(len(self.names), np.int64), "", 0, self.targets)


FILE_READERS["pairs"] = PairReader


def decode_pair(source: Source, index: int, size: int, channels: int, crop: str) -> npt.NDArray[np.uint8]:
    """Image and target `index` as one array (size, size, channels). Raises UnreadableError, also for what differs."""
    reader: Any = source.reader
    name, own = source.names[index], channels - reader.channels
    with loaded_image(source, index) as image:
        pixels, whole = fit_image(image, size, own, crop, name), image.size
    if reader.table is None:
        with loaded_image(reader.target_source(), index) as partner:
            if reader.matched:
                check_ratio(partner.size, whole)
                partner = partner if partner.size == whole else partner.resize(whole, Image.Resampling.LANCZOS)
            fitted = fit_image(simple_mode(partner), size, reader.channels, crop, name)
        return np.concatenate([pixels, fitted], 2)
    classes = load_mask(source, index, whole)
    return np.concatenate([pixels, fit_classes(classes, size, crop, name)[..., None]], 2)


def load_mask(source: Source, index: int, size: tuple[int, int] | None = None) -> Classes:
    """The class numbers (H, W) of the mask of image `index`, whose size (width, height) may be given.

    `source` is one of images with masks. Raises UnreadableError, also for a mask of another size than the given one.
    """
    reader: Any = source.reader
    mask, _ = open_mask(reader.target_source(), index, PIXEL_BUDGET)
    if size is not None and mask.size != size:
        check_size(mask.size, size, resize=reader.resize_masks)
        mask = mask.resize(size, Image.Resampling.NEAREST)
    return classes_of(mask, reader.table)


def fit_classes(classes: Classes, size: int, crop: str, key: str) -> Classes:
    """The part of class numbers (H, W) that `fit_image` takes of an image, as (size, size): the nearest pixels.

    What the crop "pad" adds is void.
    """
    image = Image.fromarray(classes)
    if crop != "pad":
        return np.asarray(_nearest(image, (size, size), crop_box(image.size, crop, key)))
    target = padded_size(image.size, size)
    canvas = np.full((size, size), VOID, np.uint8)
    left, top = (size - target[0]) // 2, (size - target[1]) // 2
    canvas[top : top + target[1], left : left + target[0]] = np.asarray(_nearest(image, target, (0, 0, *image.size)))
    return canvas


def _nearest(image: Image.Image, size: tuple[int, int], box: PixelBox) -> Image.Image:
    return image.resize(size, Image.Resampling.NEAREST, box=box)


def check_size(mask: tuple[int, int], image: tuple[int, int], *, resize: bool) -> None:
    """Raise UnreadableError for a mask of another size (width, height), unless it may be resized."""
    if mask != image and not resize:
        raise UnreadableError(f"its mask is {mask[0]}x{mask[1]}, the image {image[0]}x{image[1]}")


def check_ratio(target: tuple[int, int], image: tuple[int, int]) -> None:
    """Raise UnreadableError for two images of a pair whose shapes differ: they cannot lie upon each other."""
    ratio = target[0] * image[1] / (target[1] * image[0])
    if not 1 / MAX_RATIO <= ratio <= MAX_RATIO:
        raise UnreadableError(f"its pair is {target[0]}x{target[1]}, the image {image[0]}x{image[1]}")
