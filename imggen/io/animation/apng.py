"""Animated PNG: a writer."""

from __future__ import annotations

import io
from collections.abc import Iterator
from zlib import crc32

from imggen.io.animation.writer import Box, Writer
from imggen.io.image import PNG_COLOR_TYPES, ImageArray, as_image
from imggen.io.metadata import METADATA_KEY, PNG_SIGNATURE


class Apng(Writer):
    """Animated PNG, lossless; viewers without animation show the first frame."""

    def write_header(self, frame: ImageArray) -> None:
        """Size and color type, the number of frames, and the settings as text."""
        height, width, channels = frame.shape
        self.sequence, self.is_first = 0, True
        self.file.write(PNG_SIGNATURE)
        self._chunk(b"IHDR", _big_endian(width) + _big_endian(height) + bytes((8, PNG_COLOR_TYPES[channels], 0, 0, 0)))
        self._chunk(b"acTL", _big_endian(self.count) + _big_endian(0))
        self._chunk(b"iTXt", METADATA_KEY.encode() + bytes(5) + self.settings.encode())

    def write_frame(self, frame: ImageArray, box: Box) -> None:
        """The pixels in `box`; the duration is a fraction of a second, which PNG stores as it is."""
        left, top, right, bottom = box
        position = b"".join(_big_endian(value) for value in (right - left, bottom - top, left, top))
        duration = (1 / self.fps).limit_denominator(65_535)
        delay = duration.numerator.to_bytes(2, "big") + duration.denominator.to_bytes(2, "big")
        self._chunk(b"fcTL", self._sequence_number() + position + delay + b"\0\0")
        buffer = io.BytesIO()
        as_image(frame[top:bottom, left:right]).save(buffer, "PNG", compress_level=6)
        data = b"".join(data for kind, data in _chunks(buffer.getvalue()) if kind == b"IDAT")
        if self.is_first:
            self._chunk(b"IDAT", data)
        else:
            self._chunk(b"fdAT", self._sequence_number() + data)
        self.is_first = False

    def finish(self) -> None:
        """The empty last chunk."""
        self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self.file.write(_big_endian(len(data)) + kind + data + _big_endian(crc32(data, crc32(kind))))

    def _sequence_number(self) -> bytes:
        self.sequence += 1
        return _big_endian(self.sequence - 1)


def _big_endian(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the data of every chunk of a PNG."""
    at = 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size
