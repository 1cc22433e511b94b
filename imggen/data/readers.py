"""Read the encoded bytes of images from a folder, from archives, or from an array in memory.

The readers of files consist of paths and positions alone, so that worker processes can open a source again cheaply.
Of every file at most MAX_FILE_BYTES are read, whatever its name, its headers or its archive say.
"""

from __future__ import annotations

import bz2
import lzma
import zipfile
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from imggen.io.formats import refusal_of_size
from imggen.io.locks import Lock
from imggen.reporting import Reporter

LABEL_ENDING, MAX_LABEL_BYTES = ".cls", 256  # webdataset's files of classes
STORED, DEFLATED, BZIP2, LZMA = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA
# Deflate cannot expand more than 1,032 times, and no image that bzip2 or LZMA expands further is worth reading.
MAX_EXPANSION = 1_100
MIN_BYTES_FOR_EXPANSION = 1 << 20  # smaller results are harmless
_SIGNATURE_BYTES = 2
_SIGNATURES = frozenset({b"\x89P", b"\xff\xd8", b"RI", b"GI", b"BM", b"II", b"MM"})  # of all formats that decode reads
_CHUNK_BYTES = 64 << 10
LOCAL_HEADER_BYTES, _LOCAL_HEADER_SIGNATURE = 30, b"PK\x03\x04"
_LZMA_HEADER_BYTES = 9  # version and length of the properties (2 + 2), then the properties


class Member(NamedTuple):
    """An image file inside the archive number `archive`.

    In a tar its bytes begin at `offset`, and `method` is None. In a zip its header is at `offset`, followed by
    `stored` bytes that `method` expands to `size` bytes with the checksum `crc`.
    """

    archive: int
    offset: int
    size: int
    method: int | None = None
    stored: int = 0
    crc: int = 0


class ImageReader(Protocol):
    """Reads the images of one source by index."""

    def image(self, index: int) -> bytes | Image.Image:
        """The encoded bytes of image `index`, or the image itself where the source is an array."""


class _Readable(Protocol):
    """A file, or a member of a zip."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""


def read_image_bytes(path: Path) -> bytes:
    """The bytes of an image file; of a file that is no image, only the first ones, by which it is recognized.

    Raises OSError, and ValueError for a file of more than MAX_FILE_BYTES.
    """
    with path.open("rb") as file:
        return _read_image(file, path.stat().st_size)


def _read_image(file: _Readable, size: int) -> bytes:
    """At most `size` bytes, or only the first ones if no image begins with them. Raises ValueError for too many."""
    if refusal := refusal_of_size(size):
        raise ValueError(refusal)
    head = file.read(min(size, _SIGNATURE_BYTES))
    return head if head not in _SIGNATURES else head + file.read(size - len(head))


@dataclass
class FolderReader:
    """Images as files below the folder `root`."""

    root: str
    names: list[str]

    def image(self, index: int) -> bytes:
        """The bytes of the file."""
        return read_image_bytes(Path(self.root, self.names[index]))


@dataclass
class ArchiveReader:
    """Images inside uncompressed tars and zips."""

    paths: list[str]
    members: list[Member]

    def __post_init__(self) -> None:
        """Make members of lists, as which JSON brings them back."""
        self.members = [Member(*member) for member in self.members]

    def image(self, index: int) -> bytes:
        """The bytes of the member, checked where it has a checksum.

        The archive is opened every time, so that threads do not share a file position.
        """
        member = self.members[index]
        with Path(self.paths[member.archive]).open("rb") as file:
            if member.method is None:
                file.seek(member.offset)
                return _read_image(file, member.size)
            return _read_zip_member(file, member)


def _read_zip_member(file: IO[bytes], member: Member) -> bytes:
    """The image that a member of a zip is, with its checksum checked. Raises ValueError for a damaged one."""
    data = _read_image(expand_zip_member(file, member), member.size)
    if data[:_SIGNATURE_BYTES] in _SIGNATURES and (len(data) < member.size or zlib.crc32(data) != member.crc):
        raise ValueError("the archive is damaged: wrong checksum")
    return data


def expand_zip_member(file: IO[bytes], member: Member) -> Expanded:
    """A member of the zip `file`, to read its bytes as they were before compression. Raises ValueError."""
    file.seek(member.offset)
    header = file.read(LOCAL_HEADER_BYTES)
    if len(header) < LOCAL_HEADER_BYTES or not header.startswith(_LOCAL_HEADER_SIGNATURE):
        raise ValueError("the archive is damaged")
    if member.size > max(MIN_BYTES_FOR_EXPANSION, MAX_EXPANSION * member.stored):
        raise ValueError(f"it would expand {member.size / max(1, member.stored):,.0f} times")
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
    return Expanded(file, member)


class _Expander(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Expand to at most `max_length` bytes."""


class _Deflate:
    """zlib's decompressor, with the input that is left over kept as the two others keep it."""

    def __init__(self) -> None:
        self._state = zlib.decompressobj(-15)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._state.decompress(self._state.unconsumed_tail + data, max_length)


class Expanded:
    """A member of a zip as its bytes before compression. No call makes more of them than it was asked for."""

    def __init__(self, file: IO[bytes], member: Member) -> None:
        self._file, self._left = file, member.stored
        self._expander: _Expander | None = None
        if member.method == DEFLATED:
            self._expander = _Deflate()
        elif member.method == BZIP2:
            self._expander = bz2.BZ2Decompressor()
        elif member.method == LZMA:
            self._expander = _lzma_expander(self._take(_LZMA_HEADER_BYTES), member.size)
        elif member.method != STORED:
            raise ValueError(f"compression method {member.method} is not supported")

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or fewer at the end."""
        if self._expander is None:
            return self._take(size)
        parts, missing, chunk = list[bytes](), size, b""
        while missing > 0:
            try:
                part = self._expander.decompress(chunk, missing)
            except EOFError:  # bzip2 and LZMA know their end
                break
            if not part and not (chunk := self._take(_CHUNK_BYTES)):
                break
            chunk = chunk if not part else b""
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _take(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


def _lzma_expander(header: bytes, size: int) -> lzma.LZMADecompressor:
    """A decompressor for LZMA in a zip, whose header gives its parameters (APPNOTE.TXT 5.8)."""
    if len(header) < _LZMA_HEADER_BYTES or header[4] >= 9 * 5 * 5:
        raise ValueError("the archive is damaged")
    rest, lc = divmod(header[4], 9)
    pb, lp = divmod(rest, 5)
    # The dictionary is a buffer of that size, and need not be larger than all of the data.
    dict_size = min(int.from_bytes(header[5:9], "little"), max(size, 4096))
    filters = [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": max(dict_size, 4096)}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)


FILE_READERS: dict[str, Any] = {"folder": FolderReader, "archive": ArchiveReader}


def reader_document(reader: Any) -> dict[str, Any]:
    """A reader of files as its kind and its fields, of which some may be readers."""
    kind = next(name for name, reader_class in FILE_READERS.items() if type(reader) is reader_class)
    return {"kind": kind, **{item.name: getattr(reader, item.name) for item in fields(reader) if item.init}}


def reader_from(document: Any) -> Any:
    """The inverse of `reader_document`; a reader is returned as it is."""
    if not isinstance(document, dict):
        return document
    own = dict(document)
    return FILE_READERS[own.pop("kind")](**own)


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
    changed; they are empty where they could not show that. `locks` keep unpacked archives in the cache. `warnings` and
    `notes` are lines for the user about what was left out and what was assumed; `report` shows them.
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
    locks: tuple[Lock, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)

    def image(self, index: int) -> bytes | Image.Image:
        """The encoded bytes of image `index`, or the image itself where the source is an array."""
        return self.reader.image(index)

    def report(self, reporter: Reporter) -> None:
        """Show the user what was left out and what was assumed."""
        for message in self.warnings:
            reporter.warn(message)
        for message in self.notes:
            reporter.info(message)
