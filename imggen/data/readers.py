"""Where the bytes of the pictures come from: a folder, a zip, a tar, or an array in memory.

Those of files are made of names and places alone, so that worker processes can reopen a source cheaply.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image


class ImageReader(Protocol):
    """Gives the i-th picture of a source."""

    def image(self, index: int) -> bytes | Image.Image:
        """The encoded bytes of picture `index`, or a picture where the source is an array."""


@dataclass
class FolderReader:
    """Pictures as files below a folder."""

    root: str
    names: list[str]

    def image(self, index: int) -> bytes:
        """The file's bytes."""
        return Path(self.root, self.names[index]).read_bytes()


@dataclass
class TarReader:
    """Pictures at known places of a plain tar."""

    path: str
    spans: list[tuple[int, int]]

    def image(self, index: int) -> bytes:
        """The member's bytes; the file is opened each time, which keeps this safe in threads."""
        offset, length = self.spans[index]
        with Path(self.path).open("rb") as file:
            file.seek(offset)
            return file.read(length)


@dataclass
class ZipReader:
    """Pictures as members of a zip, which every process opens once and threads share."""

    path: str
    members: list[str]
    _archive: zipfile.ZipFile | None = field(default=None, init=False, repr=False)

    def image(self, index: int) -> bytes:
        """The member's bytes, its checksum verified by zipfile."""
        if self._archive is None:
            self._archive = zipfile.ZipFile(self.path)
        return self._archive.read(self.members[index])


FILE_READERS = {"folder": FolderReader, "tar": TarReader, "zip": ZipReader}


@dataclass
class ArrayReader:
    """Pictures as rows of an array: (N, H, W) grey or (N, H, W, 3) colour."""

    pixels: npt.NDArray[np.uint8]

    def image(self, index: int) -> Image.Image:
        """Row `index` as a picture."""
        return Image.fromarray(self.pixels[index])


@dataclass
class Source:
    """The pictures of one source, listed in a fixed order and not decoded yet.

    `names` are relative paths, `labels` index `classes` (all 0 when there are none), `key` is a
    hash of the contents, `ignored` counts files that are no pictures. `parallel` is False where
    the pictures already lie in this process's memory, so sending them to others gains nothing.
    """

    name: str
    classes: tuple[str, ...]
    names: list[str]
    labels: npt.NDArray[np.int64]
    key: str
    ignored: int
    reader: ImageReader
    parallel: bool = True

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.names)

    def image(self, index: int) -> bytes | Image.Image:
        """Encoded bytes of picture `index`, or the picture itself where the source is an array."""
        return self.reader.image(index)
