"""Write frames one by one to GIF, animated WebP, APNG or MP4, in bounded memory, and read the settings back.

The file has exactly the frames that were added. Pillow encodes single frames, and the writers here put the containers
together, because Pillow's own writers drop a frame that equals the previous one. Only the rectangle that changed is
stored. MP4 is written by PyAV (the extra `video`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imggen.errors import UsageError
from imggen.io.animation import mp4
from imggen.io.animation.apng import Apng
from imggen.io.animation.gif import Gif
from imggen.io.animation.mp4 import Mp4
from imggen.io.animation.webp import WebP
from imggen.io.animation.writer import FrameDurations, Writer
from imggen.io.atomic import atomic_path
from imggen.io.image import ImageArray, composite_on_white
from imggen.io.metadata import METADATA_KEY, read_settings_text

__all__ = [
    "ENDINGS",
    "MAX_FPS",
    "WRITERS",
    "Apng",
    "FrameDurations",
    "Gif",
    "Mp4",
    "WebP",
    "Writer",
    "animation",
    "animation_format",
    "animation_text",
    "check_speed",
    "composite_on_white",
]

ENDINGS = {".gif": "gif", ".webp": "webp", ".png": "apng", ".apng": "apng", ".mp4": "mp4"}
WRITERS: dict[str, type[Writer]] = {"gif": Gif, "webp": WebP, "apng": Apng, "mp4": Mp4}
MAX_FPS = {"gif": 50, "webp": 1000, "apng": 1000, "mp4": 240}


def animation_format(path: Path) -> str:
    """gif, webp, apng or mp4, from the file name's ending. Raises UsageError, also for MP4 without PyAV."""
    format = ENDINGS.get(path.suffix.lower())
    if format is None:
        raise UsageError(f"imggen does not write '{path.suffix}' animations", f"endings: {', '.join(ENDINGS)}")
    if format == "mp4" and find_spec("av") is None:
        raise UsageError("MP4 needs PyAV", "pip install 'imggen[video]', or -o walk.webp")
    return format


def check_speed(format: str, fps: Fraction) -> None:
    """Raise UsageError if `fps` is more than players of this format support."""
    if fps > MAX_FPS[format]:
        hint = "viewers slow faster GIFs down to 10 a second: .webp, .png or .mp4" if format == "gif" else None
        raise UsageError(f"{format.upper()} plays at most {MAX_FPS[format]} frames a second", hint)


@contextmanager
def animation(path: Path, fps: Fraction, count: int, info: Mapping[str, Any]) -> Iterator[Callable[[ImageArray], None]]:
    """Yield a function that adds one frame (H, W, C) uint8; `path` appears, complete, when the block ends.

    `count` is the number of frames, `info` the settings stored in the file. After an error nothing is left. Raises
    UsageError for an ending or a frame rate that is not supported, DataError if the file cannot be written.
    """
    format = animation_format(path)
    check_speed(format, fps)
    with atomic_path(path) as sibling, sibling.open("xb+") as file:
        writer = WRITERS[format](file, fps, count, info)
        yield writer.add
        writer.finish()


def animation_text(path: Path) -> str | None:
    """The settings in an animation, as JSON text that is not checked yet, or None if it has none.

    Raises DataError for a damaged image, OSError for an MP4 that cannot be read.
    """
    if path.suffix.lower() != ".mp4":
        return read_settings_text(path)
    comment = mp4.read_comment(path)
    prefix = f"{METADATA_KEY}:"
    return comment.removeprefix(prefix) if comment.startswith(prefix) else None
