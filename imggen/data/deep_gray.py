"""Gray images of 16 bits, 32 bits or floats: their range, and their conversion to 8 bits, strip by strip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

STRIP_PIXELS = 1 << 20
MAX_16_BIT = 65_535
GDAL_NODATA_TAG = 42_113
# What programs write where they measured nothing; see `_without_nodata`.
NODATA_VALUES = (0.0, -9999.0, -99999.0, -32767.0, -32768.0, 32767.0, 65535.0, -(2.0**31), 2.0**31 - 1)
NODATA_MAGNITUDE = 1e30  # no measurement is larger; the usual value is that of the largest float, 3.4e38

Mask = npt.NDArray[np.bool_]
Range = tuple[float, float]
"""The values of black and white; white is the greater, or both are equal in an image of one value."""


def is_deep_gray(image: Image.Image) -> bool:
    """Whether the image is gray with more than 8 bits: of mode I;16 (or a variant), I or F."""
    return image.mode.startswith("I") or image.mode == "F"


def image_strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in strips from top to bottom, of about a million pixels, each with the number of its first row."""
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def strips(image: Image.Image) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Rows from top to bottom, with their pixels (rows, W) or (rows, W, C)."""
    for top, part in image_strips(image):
        yield slice(top, top + part.height), np.asarray(part)


def gray_range(image: Image.Image) -> Range:
    """The values of black and white in an image of mode I;16, I or F.

    Files of 32 bits and of floats do not define white. Values within 0..1 (floats only), 0..255 or 0..65535 are taken
    to have that range; for any others, black is the least value and white the greatest. Values that are no numbers or
    mean "no data" do not count.
    """
    if image.mode.startswith("I;16"):
        return 0.0, float(MAX_16_BIT)
    low, high = measured_range(image)
    if low >= 0:
        for white in (1.0,) * (image.mode == "F") + (255.0, float(MAX_16_BIT)):
            if high <= white:
                return 0.0, white
    return low, high


def measured_range(image: Image.Image, unmasked: Mask | None = None) -> Range:
    """The least and the greatest of the pixels that are `unmasked` (H, W), finite and not "no data"; 0, 0 for none."""
    nodata = _declared_nodata(image)
    low, high = _extrema(image, unmasked, nodata)
    # A value that programs write for "no data" is left out if it is far from all others.
    for _ in range(2):
        suspects = [value for value in (low, high) if _may_be_nodata(value)]
        for suspect in suspects:
            inner = _extrema(image, unmasked, nodata | {suspect})
            if math.isfinite(inner[0]) and _distance(suspect, inner) > inner[1] - inner[0] > 0:
                nodata, (low, high) = nodata | {suspect}, inner
                break
        else:
            break
    return (low, high) if math.isfinite(low) else (0.0, 0.0)


def _may_be_nodata(value: float) -> bool:
    return value in NODATA_VALUES or abs(value) >= NODATA_MAGNITUDE


def _distance(value: float, inner: Range) -> float:
    """How far a value lies outside a range."""
    return max(inner[0] - value, value - inner[1])


def _declared_nodata(image: Image.Image) -> frozenset[float]:
    """The value that a GeoTIFF declares to mean "no data"."""
    tags = getattr(image, "tag_v2", None) or {}
    try:
        return frozenset({float(str(tags[GDAL_NODATA_TAG]).strip("\0 "))})
    except (KeyError, ValueError):
        return frozenset()


def _extrema(image: Image.Image, unmasked: Mask | None, nodata: frozenset[float]) -> Range:
    """The least and the greatest finite pixel besides `nodata`; infinite where there is none."""
    low, high = math.inf, -math.inf
    for rows, pixels in strips(image):
        chosen = pixels
        if unmasked is not None and not unmasked[rows].all():
            chosen = pixels[unmasked[rows]]
        if image.mode == "F" and not (is_finite := np.isfinite(chosen)).all():
            chosen = chosen[is_finite]
        for value in nodata:
            chosen = chosen[chosen != value]
        if chosen.size:
            low, high = min(low, float(chosen.min())), max(high, float(chosen.max()))
    return low, high


def rescale_deep_gray(image: Image.Image, range: Range) -> Image.Image:
    """The image with 8 bits, `range` mapped to 0..255: mode L, or LA if one value means transparent.

    Values outside the range become black or white; Pillow itself would clip all to 0..255.
    """
    black, white = range
    gray = np.empty((image.height, image.width), np.uint8)
    transparent_value = image.info.get("transparency")
    alpha = np.empty_like(gray) if isinstance(transparent_value, int) else None
    for rows, pixels in strips(image):
        gray[rows] = _to_8_bits(pixels, black, white)
        if alpha is not None:
            alpha[rows] = np.where(pixels == transparent_value, 0, 255)
    result = Image.fromarray(gray)
    if alpha is not None:
        result.putalpha(Image.fromarray(alpha))
    return result


def _to_8_bits(pixels: npt.NDArray[Any], black: float, white: float) -> npt.NDArray[np.uint8]:
    scale = 255.0 / (white - black) if white > black else 0.0
    # Double precision, because floats and 32 bits may differ by less than single precision resolves.
    levels = pixels.astype(np.float64)
    if pixels.dtype.kind == "f":
        np.nan_to_num(levels, copy=False, nan=black, posinf=white, neginf=black)
    levels -= black
    levels *= scale
    return np.rint(levels, out=levels).clip(0, 255, out=levels).astype(np.uint8)


def from_8_bits(gray: npt.NDArray[np.uint8], range: Range, mode: str) -> npt.NDArray[Any]:
    """Pixels of mode I;16, I or F (rounded, but for F), with 0..255 mapped to `range`."""
    black, white = range
    levels = black + gray.astype(np.float64) * ((white - black) / 255)
    return levels.astype(np.float32) if mode == "F" else np.rint(levels)


def used_16_bit_range(image: Image.Image) -> Range | None:
    """The least and the greatest value of a gray image of 16 bits; None for any other image."""
    if not image.mode.startswith("I;16"):
        return None
    return _extrema(image, None, frozenset())
