"""What the writers of all animation formats share: the order of calls, the changed rectangle, the frame durations."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from imggen.io.image import ImageArray

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; right and bottom are exclusive."""


class FrameDurations:
    """Frame durations in whole ticks for a frame rate that the ticks need not divide.

    The end of every frame is within half a tick of its exact time, so that rounding errors do not add up.
    """

    def __init__(self, fps: Fraction, ticks_per_second: int) -> None:
        self.fps, self.ticks_per_second = fps, ticks_per_second
        self.frames, self.elapsed = 0, 0

    def next(self) -> int:
        """The duration of the next frame, in ticks."""
        self.frames += 1
        end = round(self.frames * self.ticks_per_second / self.fps)
        duration, self.elapsed = end - self.elapsed, end
        return duration


class Writer(ABC):
    """Writes one animation; frames are (H, W, C) uint8, all of one shape, with C of 1, 3 or 4.

    `count` is the number of frames, `info` the settings stored in the file. `file` must be readable and seekable.
    """

    def __init__(self, file: BinaryIO, fps: Fraction, count: int, info: Mapping[str, Any]) -> None:
        self.file, self.fps, self.count = file, fps, count
        self.settings = json.dumps(dict(info))
        self.previous: ImageArray | None = None

    def add(self, frame: ImageArray) -> None:
        """Write the next frame."""
        if self.previous is None:
            self.write_header(frame)
        self.write_frame(frame, self.changed_box(frame))
        self.previous = frame

    def changed_box(self, frame: ImageArray) -> Box:
        """The smallest box around all pixels that differ from the previous frame; one pixel if none differs."""
        height, width = frame.shape[:2]
        if self.previous is None:
            return 0, 0, width, height
        differs = (frame != self.previous).any(2)
        rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
        if not len(rows):
            return 0, 0, 1, 1
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @abstractmethod
    def write_header(self, frame: ImageArray) -> None:
        """Write what precedes the first frame, which is `frame`."""

    @abstractmethod
    def write_frame(self, frame: ImageArray, box: Box) -> None:
        """Write one frame, in which only the pixels in `box` differ from the previous one."""

    @abstractmethod
    def finish(self) -> None:
        """Write what follows the last frame."""


def little_endian(value: int, size: int) -> bytes:
    """`value` in `size` bytes, the least significant first, as GIF and RIFF store it."""
    return value.to_bytes(size, "little")
