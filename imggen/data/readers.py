"""Read the encoded bytes of images from a folder, a zip, a tar, or an array in memory.

The readers of files consist of paths and positions alone, so that worker processes can open a source again cheaply.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from imggen.io.locks import Lock


class ImageReader(Protocol):
    """Reads the images of one source by index."""

    def image(self, index: int) -> bytes | Image.Image:
        """The encoded bytes of image `index`, or the image itself where the source is an array."""


@dataclass
class FolderReader:
    """Images as files below the folder `root`."""

    root: str
    names: list[str]

    def image(self, index: int) -> bytes:
        """The bytes of the file."""
        return Path(self.root, self.names[index]).read_bytes()


@dataclass
class TarReader:
    """Images inside an uncompressed tar; `spans` are the offset and length of each, in bytes."""

    path: str
    spans: list[tuple[int, int]]

    def image(self, index: int) -> bytes:
        """The bytes of the member; the tar is opened every time, so that threads do not share a file position."""
        offset, length = self.spans[index]
        with Path(self.path).open("rb") as file:
            file.seek(offset)
            return file.read(length)


@dataclass
class ZipReader:
    """Images as members of a zip, which each process opens once and its threads share."""

    path: str
    members: list[str]
    _archive: zipfile.ZipFile | None = field(default=None, init=False, repr=False)

    def image(self, index: int) -> bytes:
        """The bytes of the member; zipfile checks its checksum."""
        if self._archive is None:
            self._archive = zipfile.ZipFile(self.path)
        return self._archive.read(self.members[index])


FILE_READERS = {"folder": FolderReader, "tar": TarReader, "zip": ZipReader}


@dataclass
class ArrayReader:
    """Images as rows of an array: (N, H, W) gray or (N, H, W, 3) RGB."""

    pixels: npt.NDArray[np.uint8]

    def image(self, index: int) -> Image.Image:
        """Row `index` as a Pillow image."""
        return Image.fromarray(self.pixels[index])


class Origin(NamedTuple):
    """The resolved path of a source, empty for a named data set, and which of its images and labels are used."""

    path: str = ""
    split: str = "train"
    use_classes: bool = True


@dataclass
class Source:
    """The images of one source, listed in a fixed order and not decoded yet.

    `names` are relative paths, `labels` (N,) index `classes` and are all 0 when there are none, `key` is a hash of the
    contents, `ignored` counts files that are not images. `parallel` is False where the images are already in this
    process's memory: worker processes would need a copy. `fingerprints` tell, with the names, which images have
    changed; they are empty where they could not show that. `lock` keeps an unpacked archive in the cache.
    """

    name: str
    classes: tuple[str, ...]
    names: list[str]
    labels: npt.NDArray[np.int64]
    key: str
    ignored: int
    reader: ImageReader
    parallel: bool = True
    origin: Origin = field(default_factory=Origin)
    fingerprints: list[str] = field(default_factory=list)
    lock: Lock | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)

    def image(self, index: int) -> bytes | Image.Image:
        """The encoded bytes of image `index`, or the image itself where the source is an array."""
        return self.reader.image(index)
