"""A picture as its file has it: holes are filled in its own mode, and what is known keeps its very bits."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

from imggen.data.decode import UnreadableError, decode_image, gray_range
from imggen.errors import DataError, UsageError
from imggen.io.image import EXIF_TAGS, METADATA_KEY, ImageArray

Mask = NDArray[np.bool_]
FORMATS = {".png": "png", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff", ".jpg": "jpeg", ".jpeg": "jpeg"}
PLAIN = ("1", "L", "LA", "P", "RGB", "RGBA")
DEEP = ("I;16", "I", "F")
# What a format can hold of a picture without changing what is known.
HOLDS = {"png": (*PLAIN, "I;16"), "webp": PLAIN, "tiff": (*PLAIN, *DEEP, "CMYK"), "jpeg": (*PLAIN, "CMYK")}
BITS_PER_SAMPLE = 258
LOSSLESS = ("png", "webp", "tiff")
# Of a TIFF's tags those that speak of the picture, not of where its bytes lie.
TOLD = ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "Copyright")


@dataclass(frozen=True)
class SourceImage:
    """`image` in its own mode, upright, the first of the file's `frames`; `profile` and `exif` to be kept."""

    path: Path
    image: Image.Image
    format: str
    profile: bytes | None
    exif: Image.Exif
    frames: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.image.size

    def plain(self) -> Image.Image:
        """The picture in mode L, LA, RGB or RGBA."""
        return decode_image(self.image.copy())

    def alpha(self) -> ImageArray | None:
        """(H, W), or none where everything is opaque by nature."""
        plain = self.plain()
        return np.asarray(plain.getchannel("A")) if plain.mode in ("LA", "RGBA") else None

    def expanded(self, left: int, top: int, right: int, bottom: int) -> tuple[SourceImage, Mask]:
        """The same on a larger canvas, and what of it is new."""
        width, height = self.size
        canvas = Image.new(self.image.mode, (width + left + right, height + top + bottom))
        if self.image.mode == "P":
            canvas.putpalette(self.image.palette or b"")
        canvas.info = dict(self.image.info)
        canvas.paste(self.image, (left, top))
        new = np.ones((canvas.height, canvas.width), bool)
        new[top : top + height, left : left + width] = False
        return replace(self, image=canvas), new


def open_source_image(path: Path) -> SourceImage:
    """Read a picture whole. Raises DataError."""
    try:
        data = path.read_bytes()
        image = decode_image(data, own_mode=True)
        with Image.open(io.BytesIO(data)) as header:
            format, exif = (header.format or "").lower(), header.getexif()
            deep, frames = _deep_colour(header, data), int(getattr(header, "n_frames", 1))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "give a picture's file") from error
    except UnreadableError as error:
        raise DataError(f"{path} cannot be read: {error}", "PNG, JPEG, WebP, GIF, BMP and TIFF can") from error
    if deep:
        # Pillow would keep the upper half of every value and say nothing.
        raise DataError(f"{path} has 16 bits a colour, which imggen does not keep", "turn it into 8 bits first")
    if image.mode == "I;16B":
        info, image = image.info, Image.fromarray(np.asarray(image).astype("<u2"))
        image.info = info
    if image.mode not in HOLDS["tiff"]:
        raise DataError(f"{path} is of mode {image.mode}, which imggen does not keep", "turn it into RGB first")
    exif.pop(ExifTags.Base.Orientation, None)  # the pixels are upright now
    if format == "tiff":
        exif = _told(exif)
    return SourceImage(path, image, format, image.info.get("icc_profile"), exif, frames)


def _deep_colour(image: Image.Image, data: bytes) -> bool:
    """Whether the file has several channels of more than 8 bits."""
    if image.format == "PNG":
        depth, kind = data[24:26]  # of the header, which comes first
        return depth > 8 and kind != 0
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(BITS_PER_SAMPLE, (8,))
        return len(bits) > 1 and max(bits) > 8
    return False


def _told(exif: Image.Exif) -> Image.Exif:
    """What a TIFF can take over: it has no room for other files' folders of tags, and its own tell where bytes lie."""
    kept = Image.Exif()
    for name in TOLD:
        if (value := exif.get(ExifTags.Base[name])) is not None:
            kept[ExifTags.Base[name]] = value
    return kept


def format_for(original: SourceImage, wanted: str | None) -> str:
    """The format of a result: what is wanted, else the picture's own where that is lossless. Raises UsageError."""
    mode = original.image.mode
    if wanted is None:
        own = original.format if original.format in LOSSLESS else "png"
        return own if mode in HOLDS[own] else "tiff"
    if mode not in HOLDS[wanted]:
        raise UsageError(f"{original.path} is of mode {mode}, which {wanted.upper()} cannot hold", "a name in .tif can")
    return wanted


def filled(original: SourceImage, hole: Mask, colours: ImageArray, alpha: ImageArray | None) -> Image.Image:
    """The picture with `colours` (H, W, 1 or 3) where `hole` (H, W) is true, in its own mode; the rest bit for bit.

    `alpha` (H, W) is that of the hole; none leaves the picture's own.
    """
    image = original.image
    mode = image.mode
    grey, colour = _grey(colours), np.repeat(colours, 3, 2) if colours.shape[2] == 1 else colours
    if mode in ("P", "RGB", "L") and "transparency" in image.info:
        colours = _off_key(image, grey if mode == "L" else colour)
        grey, colour = (colours, colour) if mode == "L" else (grey, colours)
    if mode == "CMYK":
        fill: NDArray[Any] = np.asarray(Image.fromarray(np.ascontiguousarray(colour)).convert("CMYK"))
    elif mode == "P":
        fill = _nearest(image, colour, hole)
    elif mode == "1":
        fill = grey[:, :, 0] >= 128
    elif mode in DEEP:
        black, white = gray_range(image)
        levels = black + grey[:, :, 0].astype(np.float64) * ((white - black) / 255)
        fill = levels if mode == "F" else np.rint(levels)
    else:
        fill = grey if mode in ("L", "LA") else colour
    pixels = np.array(image)
    if mode in ("LA", "RGBA"):
        old = pixels[:, :, -1]
        fill = np.concatenate([fill, (old if alpha is None else alpha)[:, :, None]], 2)
    fill = fill.reshape(pixels.shape)
    pixels[hole] = fill[hole].astype(pixels.dtype)
    if mode == "1":
        result = Image.fromarray(pixels)
    else:
        result = Image.frombytes(mode, image.size, np.ascontiguousarray(pixels).tobytes())
    if mode == "P":
        with_palette = image.copy()
        with_palette.paste(result)
        result = with_palette
    result.info = {name: value for name, value in image.info.items() if name in ("transparency", "dpi")}
    return result


def _grey(colours: ImageArray) -> ImageArray:
    if colours.shape[2] == 1:
        return colours
    return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))[:, :, None]


def _off_key(image: Image.Image, colours: ImageArray) -> ImageArray:
    """Colours none of which is the one that the file calls transparent."""
    key = image.info["transparency"]
    if image.mode == "P" or not isinstance(key, int | tuple):
        return colours
    same = (colours == np.array(key, dtype=np.int64).reshape(-1)).all(2)
    moved = colours.copy()
    moved[same, 0] = np.where(moved[same, 0] > 0, moved[same, 0] - 1, 1)
    return moved


def _nearest(image: Image.Image, colour: ImageArray, hole: Mask) -> ImageArray:
    """(H, W): the nearest opaque colour of the palette."""
    palette = np.array(image.getpalette("RGB") or [0, 0, 0], dtype=np.float32).reshape(-1, 3)
    clear = image.info.get("transparency")
    opaque = np.ones(len(palette), bool)
    if isinstance(clear, int) and clear < len(palette):
        opaque[clear] = False
    elif isinstance(clear, bytes):
        shown = np.frombuffer(clear, np.uint8)[: len(palette)] == 255
        opaque[: len(shown)] = shown
    usable = np.flatnonzero(opaque) if opaque.any() else np.arange(len(palette))
    found = np.zeros(hole.shape, np.uint8)
    wanted = colour[hole].astype(np.float32)
    nearest = [
        usable[np.square(part[:, None] - palette[usable]).sum(2).argmin(1)]
        for part in np.array_split(wanted, max(1, len(wanted) // 4096))
    ]
    found[hole] = np.concatenate(nearest)
    return found


def save(original: SourceImage, result: Image.Image, format: str, info: Mapping[str, Any]) -> bytes:
    """A file's bytes, with the picture's profile and EXIF, and with the settings `info`."""
    buffer, text = io.BytesIO(), json.dumps(dict(info))
    more: dict[str, Any] = {"icc_profile": original.profile} if original.profile else {}
    if "dpi" in result.info and format != "webp":
        more["dpi"] = result.info["dpi"]
    if format == "png":
        chunk = PngImagePlugin.PngInfo()
        chunk.add_itxt(METADATA_KEY, text)
        if len(original.exif):
            more["exif"] = original.exif
        result.save(buffer, "PNG", pnginfo=chunk, **more)
        return buffer.getvalue()
    exif = Image.Exif()
    exif.load((_told(original.exif) if format == "tiff" else original.exif).tobytes())
    own = str(exif.get(EXIF_TAGS[0]) or METADATA_KEY)
    exif[EXIF_TAGS[0 if own.startswith(METADATA_KEY) else 1]] = f"{METADATA_KEY}:{text}"
    if format == "tiff":
        result.save(buffer, "TIFF", compression="tiff_deflate", exif=exif, **more)
    elif format == "webp":
        clear = result.has_transparency_data
        wide = result if result.mode in ("RGB", "RGBA") and not clear else result.convert("RGBA" if clear else "RGB")
        wide.save(buffer, "WEBP", lossless=True, exact=True, exif=exif.tobytes(), **more)
    else:
        solid = result
        if result.has_transparency_data:
            clear_picture = result.convert("RGBA")
            solid = Image.alpha_composite(Image.new("RGBA", result.size, "white"), clear_picture).convert("RGB")
        solid = solid if solid.mode in ("L", "RGB", "CMYK") else solid.convert("L" if solid.mode == "1" else "RGB")
        solid.save(buffer, "JPEG", quality=95, exif=exif, **more)
    return buffer.getvalue()
