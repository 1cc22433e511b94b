"""A sheet of small images with a line of text below each, a row for each query."""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imggen.io.image import ImageArray, composite_on_white

TEXT_HEIGHT, MARGIN, FONT_SIZE, FRAME = 15, 4, 11, 2
MAX_COLUMNS = 25


class Cell(NamedTuple):
    """An image (S, S, C), the text below it, and a group: cells of one group have frames of one color."""

    image: ImageArray
    text: str
    group: str = ""


def draw_sheet(rows: list[list[Cell]], side: int) -> ImageArray:
    """One image (H, W, 3) of all rows; an empty one for no rows."""
    columns = min(MAX_COLUMNS, max((len(row) for row in rows), default=1))
    width, height = side + 2 * MARGIN, side + 2 * MARGIN + TEXT_HEIGHT
    sheet = Image.new("RGB", (columns * width, max(1, len(rows)) * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    colors = _colors_of({cell.group for row in rows for cell in row if cell.group})
    for y, row in enumerate(rows):
        for x, cell in enumerate(row[:columns]):
            left, top = x * width + MARGIN, y * height + MARGIN
            sheet.paste(Image.fromarray(composite_on_white(cell.image)), (left, top))
            if cell.group:
                box = (left - FRAME, top - FRAME, left + side + FRAME - 1, top + side + FRAME - 1)
                draw.rectangle(box, outline=colors[cell.group], width=FRAME)
            draw.text((left, top + side + 1), _fitting(cell.text, font, side), fill="black", font=font)
    return np.asarray(sheet)


def in_rows(groups: list[list[Cell]], count: int) -> list[list[Cell]]:
    """Rows of `count` groups of cells each, side by side."""
    rows = [groups[start : start + count] for start in range(0, len(groups), count)]
    return [[cell for group in row for cell in group] for row in rows]


def resized(image: ImageArray, side: int) -> ImageArray:
    """An image (S, S, C) as (side, side, C); where that is a whole multiple, pixels become squares."""
    factor, rest = divmod(side, image.shape[0])
    if not rest:
        return image.repeat(factor, 0).repeat(factor, 1)
    return np.asarray(Image.fromarray(composite_on_white(image)).resize((side, side), Image.Resampling.BICUBIC))


def _colors_of(groups: set[str]) -> dict[str, tuple[int, int, int]]:
    """A color for each group: evenly spaced hues, dark and light in turn. Colors by hash would often be alike."""
    colors = {}
    for number, group in enumerate(sorted(groups)):
        rgb = colorsys.hls_to_rgb(number / len(groups), (0.35, 0.65)[number % 2], 0.85)
        red, green, blue = (round(255 * value) for value in rgb)
        colors[group] = red, green, blue
    return colors


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, or its end after "…" where it is too long; what cannot be drawn becomes "?"."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
