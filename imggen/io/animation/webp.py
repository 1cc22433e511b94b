"""Animated WebP: a writer."""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL import ExifTags, Image

from imggen.io.animation.writer import Box, FrameDurations, Writer, little_endian
from imggen.io.image import ImageArray, as_image
from imggen.io.metadata import METADATA_KEY

TICKS_PER_SECOND = 1000
_HAS_ANIMATION, _HAS_EXIF, _HAS_ALPHA = 0x02, 0x08, 0x10
_OVERWRITE_AND_KEEP = b"\x02"  # no blending with the previous frame, and no clearing before the next
_IMAGE_CHUNKS = (b"VP8L", b"VP8 ", b"ALPH")


class WebP(Writer):
    """Animated WebP, lossless, times in thousandths of a second."""

    def write_header(self, frame: ImageArray) -> None:
        """Size, flags and the animation chunk; `finish` fills in the file's length."""
        height, width, channels = frame.shape
        self.durations = FrameDurations(self.fps, TICKS_PER_SECOND)
        self.file.write(b"RIFF\0\0\0\0WEBP")
        flags = _HAS_ANIMATION | _HAS_EXIF | (_HAS_ALPHA if channels == 4 else 0)
        self._chunk(b"VP8X", bytes((flags, 0, 0, 0)) + little_endian(width - 1, 3) + little_endian(height - 1, 3))
        self._chunk(b"ANIM", bytes(6))

    def write_frame(self, frame: ImageArray, box: Box) -> None:
        """The pixels in `box`, which is enlarged to an even left and top: WebP stores half of each."""
        left, top, right, bottom = box
        left, top = left // 2 * 2, top // 2 * 2
        image, buffer = as_image(frame[top:bottom, left:right]), io.BytesIO()
        image = image if image.mode == "RGBA" else image.convert("RGB")
        image.save(buffer, "WEBP", lossless=True, exact=True, quality=60)
        position = (left // 2, top // 2, right - left - 1, bottom - top - 1, self.durations.next())
        header = b"".join(little_endian(value, 3) for value in position) + _OVERWRITE_AND_KEEP
        chunks = [chunk for chunk in _chunks(buffer.getvalue()) if chunk[:4] in _IMAGE_CHUNKS]
        self._chunk(b"ANMF", header + b"".join(chunks))

    def finish(self) -> None:
        """The settings as EXIF, and the file's length."""
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = f"{METADATA_KEY}:{self.settings}"
        self._chunk(b"EXIF", exif.tobytes())
        size = self.file.tell() - 8
        self.file.seek(4)
        self.file.write(little_endian(size, 4))

    def _chunk(self, kind: bytes, data: bytes) -> None:
        """Write one chunk, padded to an even length."""
        self.file.write(kind + little_endian(len(data), 4) + data + bytes(len(data) % 2))


def _chunks(data: bytes) -> Iterator[bytes]:
    """Every chunk of a RIFF file, with its header."""
    at = 12
    while at < len(data):
        size = 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
        yield data[at : at + size]
        at += size
