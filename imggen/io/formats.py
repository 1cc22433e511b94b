"""The limits of image and animation formats, for every verb."""

from __future__ import annotations

import zlib

from imggen.errors import UsageError
from imggen.reporting import size_text

# Pixels a side. PNG and TIFF allow more than any image that imggen reads; 65,500 is the limit of the library that
# writes JPEG. GIF's and WebP's are the formats' own, and MP4's is that of common players.
LONGEST_SIDE = {
    "png": 2**31 - 1,
    "tiff": 2**31 - 1,
    "jpeg": 65_500,
    "gif": 65_535,
    "webp": 16_383,
    "apng": 65_535,
    "mp4": 8_192,
}
MAX_PIXELS = 120_000_000
MAX_FILE_BYTES = 256_000_000  # of one image, wherever it is read from


def check_side(name: object, size: tuple[int, int], format: str) -> None:
    """Raise UsageError if an image of `size` (width, height), which the message calls `name`, is too large."""
    longest = LONGEST_SIDE[format]
    if max(size) > longest:
        raise UsageError(
            f"{name} is {size[0]}x{size[1]}, and {format.upper()} allows at most {longest:,} pixels a side",
            "use a name in .png or .tif, and --format png for a folder",
        )


def refusal_of_size(size: int) -> str | None:
    """Why an image file of `size` bytes is not read; None if it may be."""
    if size <= MAX_FILE_BYTES:
        return None
    return f"{size_text(size)}, and imggen reads at most {size_text(MAX_FILE_BYTES)}"


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG: length, kind (four letters), data and checksum."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")
