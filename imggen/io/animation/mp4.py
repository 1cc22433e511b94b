"""MP4: a writer (PyAV, the extra `video`), and a reader of its comment that needs no library."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from imggen.io.animation.writer import Box, Writer
from imggen.io.image import ImageArray, composite_on_white
from imggen.io.metadata import METADATA_KEY

MAX_COMMENT_BYTES = 1 << 20
_MAX_BOX_DEPTH = 8
_BT709 = 1  # its number in H.264's color description

# The boxes on the way to the comment, and how many bytes precede the boxes inside each.
_PARENT_BOXES = {b"moov": 0, b"udta": 0, b"meta": 4, b"ilst": 0, b"\xa9cmt": 0}


class Mp4(Writer):
    """H.264 in MP4, 4:2:0, which every player supports: odd sides gain a pixel, alpha is composited on white."""

    def write_header(self, frame: ImageArray) -> None:
        """Open the container and the video stream; without libx264, MPEG-4 at its best quality."""
        import av
        from av.video.reformatter import Colorspace

        height, width = (side + side % 2 for side in frame.shape[:2])
        self.colorspace = Colorspace.ITU709
        # FFmpeg opens the file by its name: of a file of Python, PyAV would print each error itself. The prefix keeps
        # FFmpeg from looking for a protocol in the name.
        self.container = av.open(f"file:{self.file.name}", "w", format="mp4", options={"movflags": "+faststart"})
        self.container.metadata["comment"] = f"{METADATA_KEY}:{self.settings}"
        has_x264 = "libx264" in av.codecs_available
        options = {"crf": "12", "preset": "slow"} if has_x264 else {"qscale": "2"}
        encoder: Any = "libx264" if has_x264 else "mpeg4"
        self.stream: Any = self.container.add_stream(encoder, rate=self.fps, options=options)
        self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
        context = self.stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709

    def write_frame(self, frame: ImageArray, box: Box) -> None:
        """The whole frame: the codec finds what has changed."""
        import av

        frame = composite_on_white(frame)
        padding = [(0, side % 2) for side in frame.shape[:2]]
        padded = np.ascontiguousarray(np.pad(frame, (*padding, (0, 0)), "edge"))
        image = av.VideoFrame.from_ndarray(padded, format="rgb24")
        image = image.reformat(format="yuv420p", dst_colorspace=self.colorspace)
        self.container.mux(self.stream.encode(image))

    def finish(self) -> None:
        """Flush the encoder and close the container."""
        self.container.mux(self.stream.encode())
        self.container.close()


def read_comment(path: Path) -> str:
    """The comment of an MP4, or an empty text."""
    with path.open("rb") as file:
        return _find_comment(file, 0, path.stat().st_size).decode("utf-8", "replace")


def _find_comment(file: BinaryIO, start: int, end: int, depth: int = 0) -> bytes:
    """Search the boxes from `start` to `end` for the first `data` box inside the parent boxes.

    Sizes and the depth are limited, because the file may be damaged or malicious.
    """
    while start + 8 <= end and depth < _MAX_BOX_DEPTH:
        file.seek(start)
        header = file.read(8)
        size, kind = int.from_bytes(header[:4], "big"), header[4:]
        if size == 1:  # the size follows in 8 bytes after the header
            size = int.from_bytes(file.read(8), "big")
        stop = min(end, start + size) if size >= 8 else end
        if kind == b"data":
            file.seek(start + 16)
            return file.read(min(max(stop - start - 16, 0), MAX_COMMENT_BYTES))
        if kind in _PARENT_BOXES:
            comment = _find_comment(file, start + 8 + _PARENT_BOXES[kind], stop, depth + 1)
            if comment:
                return comment
        start = stop
    return b""
