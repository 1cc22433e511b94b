"""From a result at the size of the strokes to the image's own: strip by strip, so that memory hardly grows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imggen.data.deep_gray import strips
from imggen.engine.color import ColorMap, luminance, to_colors, to_pixels
from imggen.engine.mapping.inputs import ColorImage
from imggen.io.image import ImageArray

Floats = NDArray[np.floating]
Repaint = Callable[[slice, Floats], Floats]
"""From rows of the image and their colors (rows, W, 3) in [-1, 1] to their new colors."""


def compose(content: ColorImage, repaint: Repaint, strength: float, keep_colors: bool) -> Image.Image:
    """The result in RGB, or RGBA with the content's own alpha. With strength 0 every pixel keeps its bits."""
    result = Image.new("RGB", content.colors.size)
    for rows, pixels in strips(content.colors):
        own = to_colors(pixels)
        flat = own
        if content.flat is not content.colors:
            flat = to_colors(np.asarray(content.flat.crop((0, rows.start, result.width, rows.stop))))
        new = repaint(rows, flat)
        if keep_colors:
            new = flat + luminance(new) - luminance(flat)
        blended = own + strength * (new - own)
        result.paste(Image.fromarray(to_pixels(blended)), (0, rows.start))
    if content.alpha is not None:
        result.putalpha(Image.fromarray(content.alpha))
    return result


def recolored(color_map: ColorMap) -> Repaint:
    """A map of colors, applied to each pixel."""
    return lambda rows, colors: color_map(colors)


def enlarged(content: ColorImage, painted: ImageArray, color_map: ColorMap, detail: float) -> Repaint:
    """A result (h, w, 3) enlarged to the content's size, with `detail` of the luminance that it is too small to hold.

    The detail is what the content, its colors mapped, has more than its copy of the result's size.
    """
    size = content.colors.size
    small = Image.fromarray(painted)
    if small.size == size:
        return lambda rows, colors: to_colors(painted[rows])
    reduced = content.flat.resize(small.size, Image.Resampling.LANCZOS, reducing_gap=3.0)

    def repaint(rows: slice, colors: Floats) -> Floats:
        soft = _enlarge(reduced, size, rows)
        fine = luminance(color_map(colors)) - luminance(color_map(soft))
        return _enlarge(small, size, rows) + detail * fine

    return repaint


def _enlarge(small: Image.Image, size: tuple[int, int], rows: slice) -> Floats:
    """Rows of a small image resized to `size`; the same values as when it is resized as a whole."""
    ratio = small.height / size[1]
    box = (0, rows.start * ratio, small.width, min(small.height, rows.stop * ratio))
    return to_colors(np.asarray(small.resize((size[0], rows.stop - rows.start), Image.Resampling.BICUBIC, box=box)))
