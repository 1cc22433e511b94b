"""What can be measured of any image: light and colors of its parts, and the outline of what is on a plain ground.

The directions of a model's noise are named by what they change of it (`directions.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imggen.engine.color import LUMINANCE
from imggen.io.image import ImageArray

Floats = NDArray[np.float64]
THIRDS = {"upper third": (0, 1 / 3), "middle third": (1 / 3, 2 / 3), "lower third": (2 / 3, 1)}
MIN_OPACITY = 0.5
MAX_GROUND_SPREAD = 0.05  # of the levels at the border, for an image to be of something on a plain ground
MIN_CONTRAST = 0.25  # between the ground and what is on it


def measure(images: ImageArray) -> dict[str, Floats]:
    """Quantities (N,) of images (N, H, W, C) uint8, by their names; colors and lightness are from 0 to 1.

    Where images have alpha, or a plain ground, colors are those of what is opaque or differs from the ground, and
    thirds are those of its height. What is measured of the whole comes before its thirds.
    """
    levels = images / 255.0
    colors = levels[..., : 3 if images.shape[-1] > 1 else 1]
    figure = _figure(levels)
    top, bottom = _ends(np.asarray(figure.any(2)))
    left, right = _ends(np.asarray(figure.any(1)))
    quantities = {
        "height": (bottom - top).astype(float),
        "width": (right - left).astype(float),
        "area": figure.sum((1, 2)).astype(float),
        "slant": _slant(figure),
    }
    rows = np.arange(images.shape[1])
    for region, (start, end) in {"": (0.0, 1.0), **THIRDS}.items():
        first, last = (top + part * (bottom - top) for part in (start, end))
        inside = (rows >= first[:, None]) & (rows < last[:, None])
        prefix = f"{region}: " if region else ""
        for name, values in _light_and_colors(colors, figure & inside[:, :, None]).items():
            quantities[prefix + name] = values
    return quantities


def _figure(levels: Floats) -> NDArray[np.bool_]:
    """(N, H, W): which pixels are opaque, or differ from a plain ground; all of an image without such pixels."""
    figure = levels[..., 3] >= MIN_OPACITY if levels.shape[-1] == 4 else _contrast(levels) >= MIN_CONTRAST
    return np.where(figure.any((1, 2), keepdims=True), figure, True)


def _contrast(levels: Floats) -> Floats:
    """(N, H, W): how far pixels are from the color of the ground; 0 where the border of the image is not plain."""
    border = np.concatenate([levels[:, 0], levels[:, -1], levels[:, :, 0], levels[:, :, -1]], 1)
    is_plain = border.std(1).max(1) <= MAX_GROUND_SPREAD
    contrast: Floats = np.abs(levels - np.median(border, 1)[:, None, None]).max(-1)
    return contrast * is_plain[:, None, None]


def _ends(occupied: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row or column (N,) of (N, rows) that is occupied, and the one after the last."""
    return occupied.argmax(1), occupied.shape[1] - occupied[:, ::-1].argmax(1)


def _slant(figure: NDArray[np.bool_]) -> Floats:
    """How far the figure moves to the right for every pixel upwards, (N,)."""
    weights = figure / figure.sum((1, 2), keepdims=True)
    y, x = (np.arange(side, dtype=float) for side in figure.shape[1:])
    rows, columns = weights.sum(2), weights.sum(1)
    y = y - (rows @ y)[:, None]
    x = x - (columns @ x)[:, None]
    spread = (rows * y**2).sum(1)
    return -np.einsum("nhw,nh,nw->n", weights, y, x) / spread.clip(1e-9)


def _light_and_colors(colors: Floats, inside: NDArray[np.bool_]) -> dict[str, Floats]:
    """Of the mean color of the pixels (N, H, W) inside."""
    mean = np.einsum("nhwc,nhw->nc", colors, inside) / inside.sum((1, 2))[:, None].clip(1)
    if mean.shape[1] == 1:
        return {"lightness": mean[:, 0]}
    red, green, blue = mean.T
    return {
        "lightness": mean @ LUMINANCE,
        "red minus blue": red - blue,
        "green minus red and blue": green - (red + blue) / 2,
        "saturation": mean.max(1) - mean.min(1),
    }
