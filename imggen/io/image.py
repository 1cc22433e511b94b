"""Pictures to bytes with their settings, grids, and a writer that works while others draw."""

from __future__ import annotations

import io
import json
import math
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

from imggen.errors import DataError, UsageError
from imggen.io.files import atomic_write

Bytes = NDArray[np.uint8]
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
KEY = "imggen"
_LONGEST = 1 << 20
_DESCRIPTION = ExifTags.Base.ImageDescription


def format_of(path: Path) -> str:
    """png, jpeg or webp by the name's ending. Raises UsageError."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"imggen does not write '{path.suffix}' pictures", f"endings: {', '.join(FORMATS)}")
    return found


def _image(array: Bytes) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def encode(array: Bytes, format: str, info: Mapping[str, Any] | None, *, level: int = 4) -> bytes:
    """A picture (H, W, C), C of 1, 3 or 4, as a file's bytes, its settings inside; `level` is PNG's effort."""
    image, buffer = _image(array), io.BytesIO()
    text = json.dumps(dict(info)) if info else None
    if format == "png":
        chunk = PngImagePlugin.PngInfo()
        if text:
            chunk.add_itxt(KEY, text)
        image.save(buffer, "PNG", pnginfo=chunk, compress_level=level)
        return buffer.getvalue()
    exif = Image.Exif()
    if text:
        exif[_DESCRIPTION] = f"{KEY}:{text}"
    if format == "jpeg":
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        image.save(buffer, "JPEG", quality=95, exif=exif)
    elif format == "webp":
        image.convert("RGB" if image.mode == "L" else image.mode).save(
            buffer, "WEBP", lossless=True, exact=True, exif=exif.tobytes()
        )
    else:
        raise UsageError(f"there is no picture format '{format}'", "formats: png, jpeg, webp")
    return buffer.getvalue()


def read_info(path: Path) -> dict[str, Any] | None:
    """The settings in a picture, or none. Raises DataError when it is no picture; nothing in it is trusted."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            text = image.info.get(KEY) if image.format == "PNG" else image.getexif().get(_DESCRIPTION)
            if image.format == "PNG" and text is None:
                image.load()  # the chunk may stand behind the pixels
                text = image.info.get(KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a picture that can be read", "PNG, JPEG and WebP carry settings") from error
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    try:
        found = json.loads(text.removeprefix(f"{KEY}:"))
    except (json.JSONDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def grid(images: Bytes, columns: int | None = None, *, padding: int = 2) -> Bytes:
    """Pictures (N, H, W, C) on one sheet, row by row, on white (transparent where they have alpha).

    One picture stays as it is. `columns` none is the nearest to a square.
    """
    count, height, width, channels = images.shape
    if count == 1:
        only: Bytes = images[0]
        return only
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    sheet = np.full(
        (rows * (height + padding) + padding, columns * (width + padding) + padding, channels), 255, np.uint8
    )
    if channels == 4:
        sheet[:, :, 3] = 0
    for index, picture in enumerate(images):
        y = padding + index // columns * (height + padding)
        x = padding + index % columns * (width + padding)
        sheet[y : y + height, x : x + width] = picture
    return sheet


class Writer:
    """Encodes and writes in threads; at most `waiting` pictures queue up, so memory does not grow."""

    def __init__(self, threads: int = 2, waiting: int = 512) -> None:
        self._queue: queue.Queue[tuple[Path, Bytes, Mapping[str, Any], str] | None] = queue.Queue(waiting)
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if self._error is None:
                path, array, info, picture_format = job
                try:
                    atomic_write(path, encode(array, picture_format, info))
                except BaseException as error:
                    self._error = error

    def put(self, path: Path, array: Bytes, info: Mapping[str, Any], format: str) -> None:
        """Queue a picture; raises the first error of an earlier one."""
        if self._error is not None:
            raise self._error
        self._queue.put((path, array, info, format))

    def close(self) -> None:
        """Wait for every file; raises the first error."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._error = self._error or error
            for _ in self._threads:
                self._queue.put(None)
