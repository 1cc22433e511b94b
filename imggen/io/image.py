"""Pictures to bytes with their settings, and grids."""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

from imggen.errors import DataError, UsageError

ImageArray = NDArray[np.uint8]
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
METADATA_KEY = "imggen"
_LONGEST = 1 << 20
_DESCRIPTION = ExifTags.Base.ImageDescription
EXIF_TAGS = (_DESCRIPTION, ExifTags.Base.ImageHistory)


def format_of(path: Path) -> str:
    """png, jpeg or webp by the name's ending. Raises UsageError."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"imggen does not write '{path.suffix}' pictures", f"endings: {', '.join(FORMATS)}")
    return found


def as_image(array: ImageArray) -> Image.Image:
    """(H, W, C), C of 1, 3 or 4, as Pillow has it: L, RGB or RGBA."""
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def encode(array: ImageArray, format: str, info: Mapping[str, Any] | None, *, level: int = 4) -> bytes:
    """A picture (H, W, C), C of 1, 3 or 4, as a file's bytes, its settings inside; `level` is PNG's effort."""
    image, buffer = as_image(array), io.BytesIO()
    text = json.dumps(dict(info)) if info else None
    if format == "png":
        chunk = PngImagePlugin.PngInfo()
        if text:
            chunk.add_itxt(METADATA_KEY, text)
        image.save(buffer, "PNG", pnginfo=chunk, compress_level=level)
        return buffer.getvalue()
    exif = Image.Exif()
    if text:
        exif[_DESCRIPTION] = f"{KEY}:{text}"
    if format == "jpeg":
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        image.save(buffer, "JPEG", quality=95, exif=exif)
    elif format == "webp":
        image.convert("RGB" if image.mode == "L" else image.mode).save(
            buffer, "WEBP", lossless=True, exact=True, exif=exif.tobytes()
        )
    else:
        raise UsageError(f"there is no picture format '{format}'", "formats: png, jpeg, webp")
    return buffer.getvalue()


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}


def encode_png_fast(array: ImageArray, info: Mapping[str, Any] | None) -> bytes:
    """The same as `encode` to PNG, for pictures drawn by the thousand.

    Pillow takes three times as long for a small picture and keeps every other Python thread waiting meanwhile;
    here the rows are filtered by numpy, as they are or by the pixel to the left, whichever has the smaller sum
    (RFC 2083, section 9.6), and zlib works beside the other threads.
    """
    height, width, channels = array.shape
    plain = np.zeros((height, 1 + width * channels), np.uint8)
    plain[:, 1:] = array.reshape(height, -1)
    left = plain.copy()
    left[:, 0] = 1
    left[:, 1 + channels :] -= plain[:, 1:-channels]
    rows = min(plain, left, key=lambda rows: int(np.abs(rows.view(np.int8)).sum(dtype=np.uint32)))
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    chunks = [(b"IHDR", size + bytes((8, _COLOUR_TYPES[channels], 0, 0, 0)))]
    if info:
        # Keyword, then: not compressed, no language, no translated keyword.
        chunks.append((b"iTXt", METADATA_KEY.encode() + bytes(5) + json.dumps(dict(info)).encode()))
    chunks += [(b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b"")]
    parts = [_SIGNATURE]
    for kind, data in chunks:
        parts += [len(data).to_bytes(4, "big"), kind, data, zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")]
    return b"".join(parts)


def read_info(path: Path) -> dict[str, Any] | None:
    """The settings in a picture, or none. Raises DataError when it is no picture; nothing in it is trusted."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "TIFF")) as image:
            text = image.info.get(METADATA_KEY) if image.format == "PNG" else _exif_text(image.getexif())
            if image.format == "PNG" and text is None:
                image.load()  # the chunk may stand behind the pixels
                text = image.info.get(METADATA_KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a picture that can be read", "PNG, JPEG and WebP carry settings") from error
    return settings_in(text)


def _exif_text(exif: Image.Exif) -> object:
    # Of a picture that had a description of its own, the settings stand in its history.
    return next((text for tag in EXIF_TAGS if str(text := exif.get(tag)).startswith(f"{KEY}:")), None)


def settings_in(text: object) -> dict[str, Any] | None:
    """The settings that are written as `text`, or none."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    try:
        found = json.loads(text.removeprefix(f"{KEY}:"))
    except (json.JSONDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def grid(images: ImageArray, columns: int | None = None, *, padding: int = 2) -> ImageArray:
    """Pictures (N, H, W, C) on one sheet, row by row, on white (transparent where they have alpha).

    One picture stays as it is. `columns` none is the nearest to a square.
    """
    count, height, width, channels = images.shape
    if count == 1:
        only: ImageArray = images[0]
        return only
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    sheet = np.full(
        (rows * (height + padding) + padding, columns * (width + padding) + padding, channels), 255, np.uint8
    )
    if channels == 4:
        sheet[:, :, 3] = 0
    for index, picture in enumerate(images):
        y = padding + index // columns * (height + padding)
        x = padding + index % columns * (width + padding)
        sheet[y : y + height, x : x + width] = picture
    return sheet
