"""Animated GIF: a writer."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from imggen.io.animation.writer import Box, FrameDurations, Writer, little_endian
from imggen.io.image import ImageArray
from imggen.io.metadata import METADATA_KEY

TICKS_PER_SECOND = 100
OPAQUE_ALPHA = 128  # GIF has no partial transparency: pixels with at least this alpha become opaque
GRAY_PALETTE = bytes(np.repeat(np.arange(256, dtype=np.uint8), 3))

# Blocks and flags of GIF 89a.
_LOOP_FOREVER = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
_COMMENT = b"\x21\xfe"
_GRAPHIC_CONTROL = b"\x21\xf9\x04"
_KEEP_FRAME = 1 << 2
_CLEAR_FRAME_AND_TRANSPARENT = 2 << 2 | 1


class Gif(Writer):
    """GIF 89a: a palette of 256 colors per frame, times in hundredths of a second, pixels transparent or opaque.

    Gray images, and frames of at most 256 colors, are stored exactly.
    """

    def write_header(self, frame: ImageArray) -> None:
        """Screen size, the gray palette for one channel, endless looping, and the settings as a comment."""
        height, width, channels = frame.shape
        self.durations = FrameDurations(self.fps, TICKS_PER_SECOND)
        self.transparent = channels == 4
        self.global_palette = GRAY_PALETTE if channels == 1 else b""
        flags = b"\xf7\0\0" if self.global_palette else b"\x70\0\0"
        self.file.write(b"GIF89a" + little_endian(width, 2) + little_endian(height, 2) + flags + self.global_palette)
        self.file.write(_LOOP_FOREVER)
        self.file.write(_COMMENT + _sub_blocks(f"{METADATA_KEY}:{self.settings}".encode()))

    def write_frame(self, frame: ImageArray, box: Box) -> None:
        """The pixels in `box`, or the whole frame with alpha: then each frame is cleared before the next."""
        if self.transparent:
            box = (0, 0, frame.shape[1], frame.shape[0])
        left, top, right, bottom = box
        image, transparent_index = _with_palette(frame[top:bottom, left:right])
        flags = _CLEAR_FRAME_AND_TRANSPARENT if self.transparent else _KEEP_FRAME
        duration = little_endian(self.durations.next(), 2)
        self.file.write(_GRAPHIC_CONTROL + bytes((flags,)) + duration + bytes((transparent_index, 0)))
        buffer = io.BytesIO()
        image.save(buffer, "GIF", optimize=False, interlace=False)
        palette, depth, data = _split_gif(buffer.getvalue())
        local_palette = b"" if palette == self.global_palette else palette
        position = b"".join(little_endian(value, 2) for value in (left, top, right - left, bottom - top))
        frame_flags = bytes((0x80 | depth,)) if local_palette else b"\0"
        self.file.write(b"\x2c" + position + frame_flags + local_palette + data)

    def finish(self) -> None:
        """The trailer byte."""
        self.file.write(b"\x3b")


def _with_palette(pixels: ImageArray) -> tuple[Image.Image, int]:
    """An image of mode P, and the palette index of transparent pixels."""
    if pixels.shape[2] == 1:
        image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0])).convert("P")
        image.putpalette(GRAY_PALETTE)
        return image, 0
    colors = Image.fromarray(np.ascontiguousarray(pixels[:, :, :3]))
    if pixels.shape[2] == 3:
        return colors.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE), 0
    # One index is left for transparent pixels.
    quantized = colors.quantize(255, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette = bytes(quantized.getpalette() or b"").ljust(768, b"\0")
    indices = np.where(pixels[:, :, 3] >= OPAQUE_ALPHA, np.asarray(quantized), 255).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(palette)
    return image, 255


def _split_gif(data: bytes) -> tuple[bytes, int, bytes]:
    """The palette of a GIF of one image, log2 of its size - 1, and the image data (LZW minimum and sub-blocks)."""
    depth = data[10] & 7
    at = 13 + 3 * (2 << depth)
    palette = data[13:at]
    # Skip extensions.
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    # A palette of the image's own replaces the global one.
    if data[at + 9] & 0x80:
        depth = data[at + 9] & 7
        palette = data[at + 10 : at + 10 + 3 * (2 << depth)]
        at += 3 * (2 << depth)
    return palette, depth, data[at + 10 : -1]


def _sub_blocks(data: bytes) -> bytes:
    """`data` in blocks of at most 255 bytes, each after its length, and a block of length 0 at the end."""
    blocks = [data[start : start + 255] for start in range(0, len(data), 255)]
    return b"".join(bytes((len(block),)) + block for block in blocks) + b"\0"
