"""Masks that give every pixel a class: reading each format that is in use, and the table of their classes.

A mask of mode P, L, 1 or I;16 has the classes as its values; one in colors has a color for each class. As a target it
becomes an array of class numbers (H, W) uint8, where VOID is ignored. Worker processes import this: no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
from PIL import Image

from imggen.data.decode import Encoded, UnreadableError, decode_or_explain, decode_upright, read_source
from imggen.data.pixel_budget import PixelBudget
from imggen.data.readers import Source
from imggen.documents import FLAG, TEXT, DocumentError, Kind, read_fields
from imggen.errors import DataError

VOID = 255  # in an array of class numbers: a pixel whose class is not known
MAX_CLASSES, MAX_COLORS = 200, 64
MAX_WITH_VOID = 100  # 255 is void beside values below this only: 0, 128, 255 are three classes
MAX_NAME_LENGTH = 100
NO_CLASS = "is none of the classes"  # ends the reason of a mask with a value that the table does not have
BINARY = ((0, 1), (0, 255), (0, 65_535), (0, 0xFFFFFF))
BINARY_NAMES = ("background", "object")
# Of masks that were saved with loss, a class is a value of this share or more, so far from all more frequent ones.
MIN_SHARE, MIN_GRAY_DISTANCE, MIN_COLOR_DISTANCE = 0.01, 24, 40
PALETTE_HINT = "save masks as PNG, with a value or a color for each class"

Values = npt.NDArray[np.int64]
Classes = npt.NDArray[np.uint8]


class MaskTable(NamedTuple):
    """What the values of masks mean: class number i has `values[i]` and `names[i]`.

    With `colors` a value is 0xRRGGBB. `void` is the value without a class, -1 if there is none; with `lossy` a pixel
    has the class of the nearest value.
    """

    colors: bool
    values: tuple[int, ...]
    names: tuple[str, ...]
    void: int = -1
    lossy: bool = False

    def to_json(self) -> dict[str, Any]:
        """A dictionary for a checkpoint's configuration."""
        return {**self._asdict(), "values": list(self.values), "names": list(self.names)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> MaskTable:
        """The inverse of `to_json`. Raises DocumentError."""
        fields = read_fields(document, _TABLE)
        if len(fields["values"]) != len(fields["names"]) or len(set(fields["values"])) != len(fields["values"]):
            raise DocumentError("has a wrong value: 'values' must be different, one for each name")
        return cls(fields["colors"], tuple(fields["values"]), tuple(fields["names"]), fields["void"], fields["lossy"])

    def shown(self, value: int) -> str:
        """A value as a message shows it."""
        return f"#{value:06x}" if self.colors else str(value)

    @property
    def shown_void(self) -> str:
        """The value without a class as a message shows it; "none" if there is none."""
        return self.shown(self.void) if self.void >= 0 else "none"

    def palette(self) -> npt.NDArray[np.uint8]:
        """A color (256, 3) for each class number: the masks' own where they are colors, else those of PASCAL VOC."""
        palette = voc_palette()
        if self.colors:
            for number, value in enumerate(self.values):
                palette[number] = value >> 16, value >> 8 & 255, value & 255
        return palette


def _is_list_of(value: Any, low: int, high: int) -> bool:
    return (
        type(value) is list
        and 1 <= len(value) <= MAX_CLASSES
        and all(type(each) is int and low <= each <= high for each in value)
    )


_TABLE = {
    "colors": FLAG,
    "values": Kind("1 to 200 numbers", lambda value: _is_list_of(value, 0, 0xFFFFFF)),
    "names": Kind("names", lambda value: type(value) is list and all(TEXT.accepts(name) for name in value)),
    "void": Kind("a number", lambda value: type(value) is int and -1 <= value <= 0xFFFFFF),
    "lossy": FLAG,
}


class MaskStatistics(NamedTuple):
    """Of one mask: whether it is in colors, and saved with loss; its size, its values, and how many pixels have each.

    `shown` are the colors (0xRRGGBB) that the palette of a mask of mode P gives its values; None in other modes.
    """

    colors: bool
    lossy: bool
    size: tuple[int, int]
    values: Values
    counts: Values
    shown: Values | None

    @property
    def palette(self) -> bool:
        """Whether it is of mode P."""
        return self.shown is not None


def voc_palette() -> npt.NDArray[np.uint8]:
    """The colors (256, 3) of PASCAL VOC: the bits of the index, three at a time, are the upper bits of the channels."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def open_mask(source: Source, index: int, budget: PixelBudget) -> tuple[Image.Image, bool]:
    """Mask `index`, upright and in its own mode, and whether it was saved with loss. Raises UnreadableError."""
    data = read_source(source, index)
    with budget.holding() as hold:
        return decode_or_explain(lambda data: decode_upright(data, hold), data), _is_lossy(data)


def _is_lossy(data: Encoded) -> bool:
    """Whether the bytes are those of a JPEG or of a WebP that is not lossless."""
    if not isinstance(data, bytes):
        return False
    return data.startswith(b"\xff\xd8") or (data.startswith(b"RIFF") and b"VP8 " in data[:64])


def values_of(image: Image.Image) -> tuple[bool, Values]:
    """Whether a mask is in colors, and its values (H, W). Raises UnreadableError for a mode that has no classes."""
    if image.mode == "1":
        return False, np.asarray(image).astype(np.int64)
    if image.mode in ("P", "L", "I") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.size and not 0 <= values.min() <= values.max() <= 0xFFFF:
            raise UnreadableError("its values are not those of classes, which are from 0 to 65535")
        return False, values
    if image.mode in ("LA", "La"):
        return False, np.asarray(image.convert("LA").getchannel("L")).astype(np.int64)
    if image.mode in ("RGB", "RGBA", "RGBa"):
        pixels = np.asarray(image.convert("RGBA")).astype(np.int64)
        visible = pixels[..., 3] > 0  # the color of a transparent pixel means nothing
        return True, np.where(visible, _color_numbers(pixels), 0)
    raise UnreadableError(f"it is of mode {image.mode}, which has no classes")


def statistics_of(image: Image.Image, *, lossy: bool) -> MaskStatistics:
    """What `make_table` needs of one mask. Raises UnreadableError."""
    colors, values = values_of(image)
    found, counts = _count_values(values)
    shown = _palette_colors(image)[found] if image.mode == "P" else None
    return MaskStatistics(colors, lossy, image.size, found, counts, shown)


def _color_numbers(colors: Values) -> Values:
    """Red, green, blue (…, 3 or more), of which more are not looked at, as 0xRRGGBB (…)."""
    return np.asarray(colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2])


def _palette_colors(image: Image.Image) -> Values:
    """The colors (256,) of a palette, as 0xRRGGBB; black where it has none."""
    given = image.getpalette("RGB") or []
    return _color_numbers(np.array(given + [0] * (768 - len(given)), np.int64).reshape(256, 3))


def palette_conflict(statistics: Iterable[MaskStatistics], names: Iterable[str]) -> str:
    """Which value has different colors in the palettes of two masks, and so perhaps two meanings; empty for none."""
    first: dict[int, tuple[int, str]] = {}
    for one, name in zip(statistics, names, strict=True):
        if one.shown is None:
            continue
        for value, color in zip(one.values.tolist(), one.shown.tolist(), strict=True):
            before, where = first.setdefault(value, (color, name))
            if before != color:
                return f"value {value} is #{before:06x} in the palette of {where}, and #{color:06x} in that of {name}"
    return ""


def _count_values(values: Values) -> tuple[Values, Values]:
    """The different values in order, and how many pixels have each."""
    if values.max() > 0xFFFF:
        found, counts = np.unique(values, return_counts=True)
        return found, counts.astype(np.int64)
    counts = np.bincount(values.ravel())  # a tenth of the time that sorting takes
    found = np.flatnonzero(counts)
    return found, counts[found]


def classes_of(image: Image.Image, table: MaskTable) -> Classes:
    """The class numbers (H, W) of a mask. Raises UnreadableError for a value that the table does not have."""
    colors, values = values_of(image)
    if table.colors and not colors:
        values = values * 0x010101  # a gray mask among masks in colors
    elif colors and not table.colors:
        raise UnreadableError("it is in colors, and the other masks are not")
    found, _ = _count_values(values)
    known = np.array(table.values, np.int64)
    if table.lossy:
        numbers = _nearest(found, known, table.colors)
    else:
        order = np.argsort(known)
        numbers = order[np.searchsorted(known, found, sorter=order).clip(max=len(known) - 1)]
        unknown = (known[numbers] != found) & (found != table.void)
        if unknown.any():
            raise UnreadableError(f"its value {table.shown(int(found[unknown][0]))} {NO_CLASS}")
    number_of = np.zeros(found[-1] + 1, np.uint8)
    number_of[found] = np.where(found == table.void, VOID, numbers)
    return np.asarray(number_of[values])


def _channels(values: Values, *, colors: bool) -> Values:
    return np.stack([values >> 16, values >> 8 & 255, values & 255], 1) if colors else values[:, None]


def _nearest(values: Values, known: Values, colors: bool) -> Values:
    """The index of the nearest of the `known` values (K,) for each of `values` (N,)."""
    ours, theirs = _channels(values, colors=colors), _channels(known, colors=colors)
    return np.square(ours[:, None] - theirs[None]).sum(2).argmin(1)


class Shares(NamedTuple):
    """Of each class: the fraction of all pixels, and the number of masks that have it; and the fraction of void."""

    pixels: list[float]
    masks: list[int]
    void: float


def make_table(
    statistics: list[MaskStatistics], *, void: str = "auto", lossy: bool = False, names: list[str] | None = None
) -> tuple[MaskTable, Shares]:
    """The table of the classes of all masks, and how frequent they are.

    `void` is auto, none, or a value; `lossy` takes masks that were saved with loss. `names` are those of the classes.
    Raises DataError for masks from which no classes can be read.
    """
    _check_modes(statistics, lossy=lossy)
    colors = any(one.colors for one in statistics)
    pixels, masks = _count(statistics, colors=colors)
    given = _void_of(void, pixels, colors=colors)
    values = sorted(value for value in pixels if value != given)
    if lossy:
        values = _frequent(pixels, values, colors=colors)
    _check_number(values, any(one.palette for one in statistics), colors=colors)
    table = _named(MaskTable(colors, tuple(values), (), given, lossy), names)
    total = sum(pixels.values())
    if lossy:
        known = np.array(table.values)
        merged = dict.fromkeys(table.values, 0)
        for value, index in zip(pixels, _nearest(np.array([*pixels]), known, colors).tolist(), strict=True):
            merged[table.values[index]] += pixels[value]
        pixels = {**merged, given: pixels.get(given, 0)}
    shares = [pixels.get(value, 0) / total for value in table.values]
    return table, Shares(shares, [masks.get(value, 0) for value in table.values], pixels.get(given, 0) / total)


def _check_modes(statistics: list[MaskStatistics], *, lossy: bool) -> None:
    """Raise DataError for masks that were saved with loss, and for a mixture of palettes and colors."""
    damaged = sum(one.lossy for one in statistics)
    if damaged and not lossy:
        raise DataError(
            f"{damaged:,} of {len(statistics):,} masks are JPEG or lossy WebP, which changes their values",
            "save them as PNG, or --lossy-masks for the nearest of the frequent values",
        )
    if any(one.colors for one in statistics) and any(one.palette for one in statistics):
        raise DataError("some masks have a palette and others are in colors", "save all masks in one mode")


def _count(statistics: Iterable[MaskStatistics], *, colors: bool) -> tuple[dict[int, int], dict[int, int]]:
    """How many pixels, and how many masks, have each value."""
    pixels, masks = dict[int, int](), dict[int, int]()
    for one in statistics:
        scale = 0x010101 if colors and not one.colors else 1
        for value, count in zip((one.values * scale).tolist(), one.counts.tolist(), strict=True):
            pixels[value] = pixels.get(value, 0) + count
            masks[value] = masks.get(value, 0) + 1
    return pixels, masks


def parse_void(text: str, *, colors: bool) -> int | None:
    """The value without a class that a text names, as in a table; -1 for "none", None if it names no value."""
    if text == "none":
        return -1
    try:
        return int(text.removeprefix("#"), 16) if colors else int(text)
    except ValueError:
        return None


def _void_of(void: str, pixels: dict[int, int], *, colors: bool) -> int:
    """The value of void, -1 for none. Raises DataError for a value that no mask has."""
    if void == "none":
        return -1
    if void == "auto":
        others = [value for value in pixels if value != VOID]
        is_void = not colors and VOID in pixels and len(others) > 1 and max(others) < MAX_WITH_VOID
        return VOID if is_void else -1
    value = parse_void(void, colors=colors)
    if value is None or value not in pixels:
        raise DataError(f"no mask has the void value {void}", "--void auto, none, a value, or a color such as #e0e0c0")
    return value


def _frequent(pixels: dict[int, int], values: list[int], *, colors: bool) -> list[int]:
    """The frequent values, without those near a more frequent one."""
    total, least = sum(pixels.values()), MIN_COLOR_DISTANCE if colors else MIN_GRAY_DISTANCE
    kept: list[int] = []
    for value in sorted(values, key=lambda value: (-pixels[value], value)):
        if pixels[value] < MIN_SHARE * total:
            break
        here, there = (_channels(np.array(each, np.int64), colors=colors) for each in ([value], kept or [1 << 30]))
        if np.sqrt(np.square(here - there).sum(1)).min() >= least:
            kept.append(value)
    return sorted(kept)


def _check_number(values: list[int], palette: bool, *, colors: bool) -> None:
    """Raise DataError for too few and for too many classes."""
    if len(values) < 2:
        raise DataError("all pixels of all masks have one class", "masks need two classes or more")
    if colors and len(values) > MAX_COLORS:
        raise DataError(
            f"the masks have {len(values):,} colors: they were saved with loss, or resized with blending",
            f"{PALETTE_HINT}, at most {MAX_COLORS}; --lossy-masks takes the frequent ones",
        )
    if not colors and len(values) > MAX_CLASSES:
        kind = "indices" if palette else "gray values"
        raise DataError(
            f"the masks have {len(values):,} {kind}: they are soft, or were resized with blending",
            f"{PALETTE_HINT}, at most {MAX_CLASSES}; --lossy-masks takes the frequent ones",
        )


def _named(table: MaskTable, names: list[str] | None) -> MaskTable:
    """The table with names: those given, which may be of more classes than the masks have. Raises DataError."""
    values = table.values
    if names is None:
        binary = values in BINARY
        return table._replace(names=BINARY_NAMES if binary else tuple(table.shown(value) for value in values))
    if len({normalize("NFC", name) for name in names}) != len(names) or any(
        not name or len(name) > MAX_NAME_LENGTH for name in names
    ):
        raise DataError("the names of the classes must be different", f"and of 1 to {MAX_NAME_LENGTH} letters each")
    if not table.colors and not table.lossy and max(values) < len(names) <= MAX_CLASSES:
        return table._replace(values=tuple(range(len(names))), names=tuple(names))
    if len(values) == len(names):
        return table._replace(names=tuple(names))
    listed = ", ".join(table.shown(value) for value in values[:12])
    raise DataError(
        f"{len(names)} name{'s' * (len(names) > 1)} for {len(values)} classes of the masks: {listed}",
        "one name for each",
    )
