"""Frames to GIF, animated WebP, APNG or MP4, one after the other: as many frames as were given, bounded memory.

Pillow encodes the single frame, and the container is put together here: Pillow's own writers leave out a frame that
equals the one before it, so that the number of frames would depend on what they show. Of each frame only the rectangle
that changed is stored. MP4 is PyAV's (extra: video).
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from PIL import ExifTags, Image

from imggen.errors import UsageError
from imggen.io.atomic import atomic_path
from imggen.io.image import METADATA_KEY, ImageArray, as_image

ENDINGS = {".gif": "gif", ".webp": "webp", ".png": "apng", ".apng": "apng", ".mp4": "mp4"}
LONGEST_TEXT = 1 << 20
FASTEST = {"gif": 50, "webp": 1000, "apng": 1000, "mp4": 240}
LONGEST_SIDE = {"gif": 65_535, "webp": 16_383, "apng": 65_535, "mp4": 8_192}


def animation_format(path: Path) -> str:
    """gif, webp, apng or mp4 by the name's ending. Raises UsageError, also when MP4's library is not there."""
    found = ENDINGS.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"imggen does not write '{path.suffix}' animations", f"endings: {', '.join(ENDINGS)}")
    if found == "mp4" and find_spec("av") is None:
        raise UsageError("MP4 needs PyAV", "pip install 'imggen[video]', or -o walk.webp")
    return found


def check_speed(format: str, fps: Fraction) -> None:
    """Refuse what players would not play at that speed. Raises UsageError."""
    if fps > FASTEST[format]:
        hint = "viewers slow faster GIFs down to 10 a second: .webp, .png or .mp4" if format == "gif" else None
        raise UsageError(f"{format.upper()} plays at most {FASTEST[format]} frames a second", hint)


class FrameDurations:
    """How long each frame lasts in whole ticks, so that the end of every one is within half a tick of its time."""

    def __init__(self, fps: Fraction, per_second: int) -> None:
        self.fps, self.per_second, self.frames, self.spent = fps, per_second, 0, 0

    def next(self) -> int:
        """Of the next frame."""
        self.frames += 1
        end = round(self.frames * self.per_second / self.fps)
        lasts, self.spent = end - self.spent, end
        return lasts


Box = tuple[int, int, int, int]


class Writer(ABC):
    """One file; frames are (H, W, C) uint8, all of one shape, C of 1, 3 or 4."""

    def __init__(self, file: BinaryIO, fps: Fraction, count: int, info: Mapping[str, Any]) -> None:
        self.file, self.fps, self.count = file, fps, count
        self.text = json.dumps(dict(info))
        self.before: ImageArray | None = None

    def add(self, frame: ImageArray) -> None:
        """The next frame."""
        if self.before is None:
            self.begin(frame)
        self.frame(frame, self.changed(frame))
        self.before = frame

    def changed(self, frame: ImageArray) -> Box:
        """Left, top, right and bottom of what is not as in the frame before; one pixel when nothing has changed."""
        height, width = frame.shape[:2]
        if self.before is None:
            return 0, 0, width, height
        differs = (frame != self.before).any(2)
        rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
        if not len(rows):
            return 0, 0, 1, 1
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @abstractmethod
    def begin(self, frame: ImageArray) -> None:
        """Before the first frame."""

    @abstractmethod
    def frame(self, frame: ImageArray, box: Box) -> None:
        """One frame, of which `box` has changed."""

    @abstractmethod
    def end(self) -> None:
        """After the last frame."""


class Gif(Writer):
    """GIF 89a: 256 colours a frame, hundredths of a second, transparent or not. Grey and few colours stay exact."""

    def begin(self, frame: ImageArray) -> None:
        """See the base."""
        height, width, channels = frame.shape
        self.ticks = FrameDurations(self.fps, 100)
        self.clear = channels == 4
        grey = bytes(np.repeat(np.arange(256, dtype=np.uint8), 3)) if channels == 1 else b""
        self.global_table = grey
        flags = b"\xf7\0\0" if grey else b"\x70\0\0"
        self.file.write(b"GIF89a" + _little(width, 2) + _little(height, 2) + flags + grey)
        self.file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")
        self.file.write(b"\x21\xfe" + _sub_blocks(f"{KEY}:{self.text}".encode()))

    def frame(self, frame: ImageArray, box: Box) -> None:
        """See the base."""
        if self.clear:
            box = (0, 0, frame.shape[1], frame.shape[0])  # each frame is wiped before the next
        left, top, right, bottom = box
        part = frame[top:bottom, left:right]
        image, hidden = _few_colours(part)
        flags = (2 << 2 | 1) if self.clear else 1 << 2
        lasts = _little(self.ticks.next(), 2)
        self.file.write(b"\x21\xf9\x04" + bytes((flags,)) + lasts + bytes((hidden, 0)))
        buffer = io.BytesIO()
        image.save(buffer, "GIF", optimize=False, interlace=False)
        table, depth, data = _gif_parts(buffer.getvalue())
        local = b"" if table == self.global_table else table
        place = b"".join(_little(value, 2) for value in (left, top, right - left, bottom - top))
        self.file.write(b"\x2c" + place + (bytes((0x80 | depth,)) if local else b"\0") + local + data)

    def end(self) -> None:
        """See the base."""
        self.file.write(b"\x3b")


def _few_colours(part: ImageArray) -> tuple[Image.Image, int]:
    """A picture with a palette, and the index of what is transparent."""
    if part.shape[2] == 1:
        image = Image.fromarray(np.ascontiguousarray(part[:, :, 0])).convert("P")
        image.putpalette(bytes(np.repeat(np.arange(256, dtype=np.uint8), 3)))
        return image, 0
    colours = Image.fromarray(np.ascontiguousarray(part[:, :, :3]))
    if part.shape[2] == 3:
        return colours.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE), 0
    few = colours.quantize(255, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette = bytes(few.getpalette() or b"").ljust(768, b"\0")
    indices = np.where(part[:, :, 3] >= 128, np.asarray(few), 255).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(palette)
    return image, 255


def _gif_parts(data: bytes) -> tuple[bytes, int, bytes]:
    """Colour table, its depth and the picture's data (the LZW minimum and the sub-blocks) of a GIF with one picture."""
    depth = data[10] & 7
    at = 13 + 3 * (2 << depth)
    table = data[13:at]
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    if data[at + 9] & 0x80:
        depth = data[at + 9] & 7
        table = data[at + 10 : at + 10 + 3 * (2 << depth)]
        at += 3 * (2 << depth)
    return table, depth, data[at + 10 : -1]


def _sub_blocks(data: bytes) -> bytes:
    parts = [data[start : start + 255] for start in range(0, len(data), 255)]
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def _little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


class Apng(Writer):
    """Animated PNG, lossless: the first frame is what viewers that know no animation show."""

    def begin(self, frame: ImageArray) -> None:
        """See the base."""
        height, width, channels = frame.shape
        self.sequence, self.first = 0, True
        self.file.write(b"\x89PNG\r\n\x1a\n")
        self.chunk(b"IHDR", _big(width) + _big(height) + bytes((8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)))
        self.chunk(b"acTL", _big(self.count) + _big(0))
        self.chunk(b"iTXt", METADATA_KEY.encode() + bytes(5) + self.text.encode())

    def chunk(self, kind: bytes, data: bytes) -> None:
        """One chunk."""
        self.file.write(_big(len(data)) + kind + data + _big(crc32(data, crc32(kind))))

    def number(self) -> bytes:
        """The next sequence number."""
        self.sequence += 1
        return _big(self.sequence - 1)

    def frame(self, frame: ImageArray, box: Box) -> None:
        """See the base."""
        left, top, right, bottom = box
        place = b"".join(_big(value) for value in (right - left, bottom - top, left, top))
        lasts = (1 / self.fps).limit_denominator(65_535)
        delay = lasts.numerator.to_bytes(2, "big") + lasts.denominator.to_bytes(2, "big")
        self.chunk(b"fcTL", self.number() + place + delay + b"\0\0")
        buffer = io.BytesIO()
        as_image(frame[top:bottom, left:right]).save(buffer, "PNG", compress_level=6)
        data = b"".join(data for kind, data in _png_chunks(buffer.getvalue()) if kind == b"IDAT")
        self.chunk(*((b"IDAT", data) if self.first else (b"fdAT", self.number() + data)))
        self.first = False

    def end(self) -> None:
        """See the base."""
        self.chunk(b"IEND", b"")


def _big(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


class WebP(Writer):
    """Animated WebP, lossless, thousandths of a second."""

    def begin(self, frame: ImageArray) -> None:
        """See the base."""
        height, width, channels = frame.shape
        self.ticks = FrameDurations(self.fps, 1000)
        self.file.write(b"RIFF\0\0\0\0WEBP")
        flags = 0x02 | 0x08 | (0x10 if channels == 4 else 0)  # animated, with EXIF, perhaps with alpha
        self.chunk(b"VP8X", bytes((flags, 0, 0, 0)) + _little(width - 1, 3) + _little(height - 1, 3))
        self.chunk(b"ANIM", bytes(6))

    def chunk(self, kind: bytes, data: bytes) -> None:
        """One chunk, of even length."""
        self.file.write(kind + _little(len(data), 4) + data + bytes(len(data) % 2))

    def frame(self, frame: ImageArray, box: Box) -> None:
        """See the base."""
        left, top, right, bottom = box
        left, top = left // 2 * 2, top // 2 * 2  # places are stored halved
        image, buffer = as_image(frame[top:bottom, left:right]), io.BytesIO()
        image = image if image.mode == "RGBA" else image.convert("RGB")
        image.save(buffer, "WEBP", lossless=True, exact=True, quality=60)
        place = (left // 2, top // 2, right - left - 1, bottom - top - 1, self.ticks.next())
        head = b"".join(_little(value, 3) for value in place) + b"\x02"  # in place of what was there, and it stays
        kept = [part for part in _riff_chunks(buffer.getvalue()) if part[:4] in (b"VP8L", b"VP8 ", b"ALPH")]
        self.chunk(b"ANMF", head + b"".join(kept))

    def end(self) -> None:
        """See the base."""
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = f"{KEY}:{self.text}"
        self.chunk(b"EXIF", exif.tobytes())
        size = self.file.tell() - 8
        self.file.seek(4)
        self.file.write(_little(size, 4))


def _riff_chunks(data: bytes) -> Iterator[bytes]:
    at = 12
    while at < len(data):
        size = 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
        yield data[at : at + size]
        at += size


class Mp4(Writer):
    """H.264 in MP4, with half the colour resolution, as every player wants it; odd sides gain a pixel."""

    def begin(self, frame: ImageArray) -> None:
        """See the base."""
        import av
        from av.video.reformatter import Colorspace

        height, width = (side + side % 2 for side in frame.shape[:2])
        self.bt709 = Colorspace.ITU709
        self.container = av.open(self.file, "w", format="mp4", options={"movflags": "+faststart"})
        self.container.metadata["comment"] = f"{KEY}:{self.text}"
        best = "libx264" in av.codecs_available
        options = {"crf": "12", "preset": "slow"} if best else {"qscale": "2"}
        self.stream: Any = self.container.add_stream("libx264" if best else "mpeg4", rate=self.fps, options=options)
        self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
        context = self.stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709

    def frame(self, frame: ImageArray, box: Box) -> None:
        """See the base."""
        import av

        frame = composite_on_white(frame)
        padding = [(0, side % 2) for side in frame.shape[:2]]
        padded = np.ascontiguousarray(np.pad(frame, (*padding, (0, 0)), "edge"))
        picture = av.VideoFrame.from_ndarray(padded, format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=self.bt709)
        self.container.mux(self.stream.encode(picture))

    def end(self) -> None:
        """See the base."""
        self.container.mux(self.stream.encode())
        self.container.close()


def composite_on_white(frame: ImageArray) -> ImageArray:
    """(H, W, C) of any C → (H, W, 3)."""
    if frame.shape[2] == 1:
        return np.repeat(frame, 3, axis=2)
    if frame.shape[2] == 3:
        return frame
    share = frame[:, :, 3:].astype(np.float32) / 255
    laid: ImageArray = np.rint(frame[:, :, :3] * share + 255 * (1 - share)).astype(np.uint8)
    return laid


WRITERS: dict[str, type[Writer]] = {"gif": Gif, "webp": WebP, "apng": Apng, "mp4": Mp4}


def animation_text(path: Path) -> str | None:
    """The settings that a GIF or an MP4 carries, as JSON; nothing in the file is trusted."""
    if path.suffix.lower() == ".gif":
        with Image.open(path, formats=("GIF",)) as image:
            found = image.info.get("comment", b"")
        text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    else:
        with path.open("rb") as file:
            text = _comment(file, 0, path.stat().st_size).decode("utf-8", "replace")
    return text.removeprefix(f"{KEY}:") if text.startswith(f"{KEY}:") else None


_HOLDERS = {b"moov": 0, b"udta": 0, b"meta": 4, b"ilst": 0, b"\xa9cmt": 0}


def _comment(file: BinaryIO, start: int, end: int, depth: int = 0) -> bytes:
    """The comment in an MP4's boxes from `start` to `end`: the first `data` box below the holders."""
    while start + 8 <= end and depth < 8:
        file.seek(start)
        head = file.read(8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        stop = min(end, start + size) if size >= 8 else end
        if kind == b"data":
            file.seek(start + 16)
            return file.read(min(max(stop - start - 16, 0), LONGEST_TEXT))
        if kind in _HOLDERS and (found := _comment(file, start + 8 + _HOLDERS[kind], stop, depth + 1)):
            return found
        start = stop
    return b""


@contextmanager
def animation(path: Path, fps: Fraction, count: int, info: Mapping[str, Any]) -> Iterator[Callable[[ImageArray], None]]:
    """Gives what takes the frames of `path`, in order; the file is there, whole, when the block has ended well.

    Raises UsageError for an ending or a speed that cannot be, DataError when the disk refuses.
    """
    format = animation_format(path)
    check_speed(format, fps)
    with atomic_path(path) as sibling, sibling.open("xb+") as file:
        writer = WRITERS[format](file, fps, count, info)
        yield writer.add
        writer.end()
