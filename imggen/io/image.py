"""Images to the bytes of a file, with the settings that made them; reading those settings back; and grids.

Arrays are (H, W, C) uint8 with C of 1 (gray), 3 (RGB) or 4 (RGBA).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imggen.documents import DocumentError, read_json
from imggen.errors import UsageError
from imggen.io.formats import png_chunk
from imggen.io.metadata import METADATA_KEY, PNG_SIGNATURE, Metadata, encode_with_metadata, read_settings_text

ImageArray = NDArray[np.uint8]
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

_MAX_SETTINGS_LENGTH = 1 << 20

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
    image = as_image(array)
    if format == "jpeg":
        image = drop_alpha(image)
    elif format == "webp":
        image = image.convert("RGB" if image.mode == "L" else image.mode)
    elif format != "png":
        raise UsageError(f"there is no image format '{format}'", "formats: png, jpeg, webp")
    return encode_image(image, info, format, level=level)


def encode_image(image: Image.Image, info: Mapping[str, Any] | None, format: str = "png", *, level: int = 4) -> bytes:
    """The bytes of an image file of a Pillow image, with the settings `info` inside."""
    text = json.dumps(dict(info)) if info else None
    return encode_with_metadata(image, format, Metadata(), text, level=level)


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
    return b"".join([PNG_SIGNATURE, *(png_chunk(kind, data) for kind, data in chunks)])


def read_info(path: Path) -> dict[str, Any] | None:
    """The settings stored in an image file, or None. Raises DataError if it cannot be read as an image.

    The settings are not checked: anyone can write such a file.
    """
    return settings_in(read_settings_text(path))


def settings_in(text: object) -> dict[str, Any] | None:
    """The settings in a text of JSON, or None if it is no JSON object, longer than 1 MiB, or nested too deep."""
    if not isinstance(text, str):
        return None
    try:
        settings = read_json(text, max_bytes=_MAX_SETTINGS_LENGTH)
    except DocumentError:
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
