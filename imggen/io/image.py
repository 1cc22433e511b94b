"""Images to the bytes of a file, with the settings that made them; reading those settings back; and grids.

Arrays are (H, W, C) uint8 with C of 1 (gray), 3 (RGB) or 4 (RGBA).
"""

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

# Settings are stored in a text chunk of this name in PNG, else in an EXIF tag whose text begins with it and a colon.
METADATA_KEY = "imggen"
EXIF_TAGS = (ExifTags.Base.ImageDescription, ExifTags.Base.ImageHistory)
_MAX_SETTINGS_LENGTH = 1 << 20

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_COLOR_TYPES = {1: 0, 3: 2, 4: 6}


def format_of(path: Path) -> str:
    """png, jpeg or webp, from the file name's ending. Raises UsageError."""
    format = FORMATS.get(path.suffix.lower())
    if format is None:
        raise UsageError(f"imggen does not write '{path.suffix}' images", f"endings: {', '.join(FORMATS)}")
    return format


def as_image(array: ImageArray) -> Image.Image:
    """An array (H, W, C) as a Pillow image of mode L, RGB or RGBA."""
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def drop_alpha(image: Image.Image) -> Image.Image:
    """An image of mode LA or RGBA composited on white, as L or RGB; any other mode stays as it is.

    Exact: each channel is (color * alpha + 255 * (255 - alpha)) / 255, rounded.
    """
    if image.mode not in ("LA", "RGBA"):
        return image
    opaque_mode = "L" if image.mode == "LA" else "RGB"
    result = Image.new(opaque_mode, image.size, "white")
    result.paste(image.convert(opaque_mode), mask=image.getchannel("A"))
    return result


def composite_on_white(array: ImageArray) -> ImageArray:
    """(H, W, C) to RGB (H, W, 3): gray is repeated, alpha is composited on white (see `drop_alpha`)."""
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] == 3:
        return array
    return np.array(drop_alpha(as_image(array)))


def encode(array: ImageArray, format: str, info: Mapping[str, Any] | None, *, level: int = 4) -> bytes:
    """The bytes of an image file, with the settings `info` inside. `level` is PNG's compression level, 0 to 9.

    PNG and WebP are lossless; JPEG has quality 95 and no alpha. Raises UsageError for an unknown format.
    """
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
        exif[ExifTags.Base.ImageDescription] = f"{METADATA_KEY}:{text}"
    if format == "jpeg":
        drop_alpha(image).save(buffer, "JPEG", quality=95, exif=exif)
    elif format == "webp":
        image.convert("RGB" if image.mode == "L" else image.mode).save(
            buffer, "WEBP", lossless=True, exact=True, exif=exif.tobytes()
        )
    else:
        raise UsageError(f"there is no image format '{format}'", "formats: png, jpeg, webp")
    return buffer.getvalue()


def encode_png_fast(array: ImageArray, info: Mapping[str, Any] | None) -> bytes:
    """PNG with the same pixels and settings as `encode`, three times as fast for small images.

    Pillow also holds Python's global lock while it compresses; zlib releases it, so that threads run in parallel.
    All rows use one filter, none or "left pixel", whichever has the smaller sum of absolute values (RFC 2083,
    section 9.6).
    """
    height, width, channels = array.shape

    # Each row is preceded by its filter's number: 0 for none, 1 for the difference to the pixel on the left.
    unfiltered = np.zeros((height, 1 + width * channels), np.uint8)
    unfiltered[:, 1:] = array.reshape(height, -1)
    differences = unfiltered.copy()
    differences[:, 0] = 1
    differences[:, 1 + channels :] -= unfiltered[:, 1:-channels]
    rows = min(unfiltered, differences, key=lambda rows: int(np.abs(rows.view(np.int8)).sum(dtype=np.uint32)))

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    chunks = [(b"IHDR", size + bytes((8, PNG_COLOR_TYPES[channels], 0, 0, 0)))]
    if info:
        # The keyword, then: not compressed, no language, no translated keyword.
        chunks.append((b"iTXt", METADATA_KEY.encode() + bytes(5) + json.dumps(dict(info)).encode()))
    chunks += [(b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b"")]
    parts = [PNG_SIGNATURE]
    for kind, data in chunks:
        parts += [len(data).to_bytes(4, "big"), kind, data, zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")]
    return b"".join(parts)


def read_info(path: Path) -> dict[str, Any] | None:
    """The settings stored in an image file, or None. Raises DataError if it cannot be read as an image.

    The settings are not checked: anyone can write such a file.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "TIFF")) as image:
            text = image.info.get(METADATA_KEY) if image.format == "PNG" else _exif_text(image.getexif())
            if image.format == "PNG" and text is None:
                image.load()  # the chunk may stand behind the pixels
                text = image.info.get(METADATA_KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not an image that can be read", "PNG, JPEG and WebP carry settings") from error
    return settings_in(text)


def _exif_text(exif: Image.Exif) -> object:
    """The first text with settings among the EXIF tags: an image with its own description has them in its history."""
    return next((text for tag in EXIF_TAGS if str(text := exif.get(tag)).startswith(f"{METADATA_KEY}:")), None)


def settings_in(text: object) -> dict[str, Any] | None:
    """The settings in a text of JSON, or None if it is not a JSON object, or longer than 1 MiB."""
    if not isinstance(text, str) or len(text) > _MAX_SETTINGS_LENGTH:
        return None
    try:
        settings = json.loads(text.removeprefix(f"{METADATA_KEY}:"))
    except (json.JSONDecodeError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def grid(images: ImageArray, columns: int | None = None, *, padding: int = 2) -> ImageArray:
    """Images (N, H, W, C) as one image, row by row, on white, or on transparent for four channels.

    `columns` None gives the grid nearest to a square. A single image is returned as it is, without a border.
    """
    count, height, width, channels = images.shape
    if count == 1:
        return images[0]
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    sheet = np.full(
        (rows * (height + padding) + padding, columns * (width + padding) + padding, channels), 255, np.uint8
    )
    if channels == 4:
        sheet[:, :, 3] = 0
    for index, image in enumerate(images):
        y = padding + index // columns * (height + padding)
        x = padding + index % columns * (width + padding)
        sheet[y : y + height, x : x + width] = image
    return sheet
