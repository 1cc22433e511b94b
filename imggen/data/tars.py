"""List the members of tars. Compressed tars are unpacked into the cache once, so that members can be read by offset."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import posixpath
import shutil
import tarfile
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from imggen.data.cache_dir import locked_cache
from imggen.data.cache_files import DamagedError, block_checksums, check_blocks, read_document, write_document
from imggen.data.layout import relative_name
from imggen.data.readers import LABEL_ENDING, MAX_EXPANSION, MAX_LABEL_BYTES
from imggen.errors import DataError
from imggen.io.locks import seize
from imggen.reporting import size_text

ARCHIVES = "archives"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
PARTIAL_PREFIX = ".unpacking-"
MAX_HEADER_BYTES = 1 << 20  # of long names and other extensions of one member
_MIN_EXPANDED_BYTES = 64 << 20  # unpacked without asking whether the archive is that large


@dataclass(frozen=True)
class TarFileEntry:
    """A regular file inside an uncompressed tar: its bytes begin at `offset`.

    `label` are the contents of a small file whose name ends in .cls.
    """

    name: str
    offset: int
    size: int
    mtime: float
    label: bytes | None = None


def list_tar(path: Path, cache_dir: Path) -> tuple[Path, list[TarFileEntry], list[str]]:
    """The uncompressed tar with the contents of `path`, its files with links resolved, and links that lead to no file.

    Of a name that is there twice, the last one counts, as when a tar is unpacked. Raises DataError if the tar is
    damaged or the cache's disk is full.
    """
    uncompressed = (path if path.name.lower().endswith(".tar") else _unpacked(path, cache_dir)).resolve()
    with _HeaderFile(uncompressed) as file:
        try:
            entries, links = _read_entries(file)
        except Exception as error:  # damaged tars make tarfile raise nearly anything
            raise _damaged(path, error) from error
    broken = []
    for name, target in links.items():
        found = entries.get(target)
        if found is None:
            broken.append(name)
        else:
            entries[name] = replace(found, name=name)
    return uncompressed, list(entries.values()), broken


class _HeaderFile(io.BufferedReader):
    """A tar of which only headers are read: tarfile would read an extension of any size into memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.length = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes. Raises tarfile.ReadError for more than MAX_HEADER_BYTES."""
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header is too large")
        return super().read(size)


def _read_entries(file: _HeaderFile) -> tuple[dict[str, TarFileEntry], dict[str, str]]:
    """The regular files by name, and the target of each link. Raises tarfile.TarError and others for a damaged tar."""
    entries: dict[str, TarFileEntry] = {}
    links: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            name = relative_name(info.name)
            if info.isreg() and not info.issparse():
                if info.size < 0 or info.offset_data + info.size > file.length:
                    raise tarfile.ReadError("unexpected end of data")
                label = None
                if name.endswith(LABEL_ENDING) and info.size <= MAX_LABEL_BYTES:
                    file.seek(info.offset_data)
                    label = file.read(info.size)
                entries[name] = TarFileEntry(name, info.offset_data, info.size, info.mtime, label)
                links.pop(name, None)
            elif info.islnk() and relative_name(info.linkname) in entries:  # to what stands before it
                entries[name] = replace(entries[relative_name(info.linkname)], name=name)
            elif info.islnk() or info.issym():
                folder = posixpath.dirname(name) if info.issym() else ""
                links[name] = posixpath.normpath(posixpath.join(folder, relative_name(info.linkname)))
    return entries, links


def _damaged(path: Path, error: Exception | str) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} is not a usable tar: {reason}", "it may be incomplete: download or create it again")


def _decompressed(path: Path) -> gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File:
    """Open a compressed file for reading, by the last letters of its name."""
    name = path.name.lower()
    if name.endswith("gz"):
        return gzip.open(path, "rb")
    if name.endswith("xz"):
        return lzma.open(path, "rb")
    return bz2.open(path, "rb")


def _unpacked(path: Path, cache_dir: Path) -> Path:
    """The decompressed copy in the cache, made if it does not exist yet.

    It is renamed only when it is complete, so that an incomplete copy is never used.
    """
    folder = cache_dir / ARCHIVES
    final = folder / unpacked_name(path)
    if _is_complete(final):
        return final
    try:
        with locked_cache(cache_dir):  # so that nobody takes the new file for a leftover before it is locked
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=PARTIAL_PREFIX, delete=False) as target:
                temporary = Path(target.name)
            lock = seize(temporary)
    except OSError as error:
        raise _cannot_unpack(folder, error) from error
    try:
        with temporary.open("wb") as target:
            _decompress_into(target, path, folder)
        write_document(final.with_suffix(".json"), {"path": str(path.resolve()), "blocks": block_checksums(temporary)})
        temporary.replace(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            lock.release()
    return final


def unpacked_name(path: Path) -> str:
    """The name, in the cache, of the unpacked copy of a compressed tar in its present state."""
    status = path.stat()
    identity = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.sha256(identity.encode("utf-8", "backslashreplace")).hexdigest()[:32] + ".tar"


def read_archive_path(unpacked: Path) -> Path | None:
    """The compressed tar that an unpacked copy was made from; None if that is not recorded."""
    try:
        return Path(str(read_document(unpacked.with_suffix(".json"))["path"]))
    except (DamagedError, OSError, KeyError):
        return None


def _is_complete(unpacked: Path) -> bool:
    """Whether there is an unpacked copy that matches its checksums; notes the time of use."""
    try:
        check_blocks(unpacked, str(read_document(unpacked.with_suffix(".json")).get("blocks")))
    except (DamagedError, OSError):
        return False
    with suppress(OSError):
        os.utime(unpacked)
    return True


def _decompress_into(target: IO[bytes], path: Path, folder: Path) -> None:
    """Write the decompressed contents of `path` to `target`, a file in `folder`. Raises DataError."""
    allowed = max(_MIN_EXPANDED_BYTES, MAX_EXPANSION * path.stat().st_size)
    try:
        with _decompressed(path) as source:
            while block := source.read(1 << 20):
                allowed -= len(block)
                if allowed < 0:
                    raise _damaged(path, f"it expands more than {MAX_EXPANSION:,} times")
                _write(target, block, folder)
    except (EOFError, lzma.LZMAError, zlib.error, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _write(target: IO[bytes], block: bytes, folder: Path) -> None:
    """Write, with an error of its own for a full disk: damaged input raises OSError too."""
    try:
        target.write(block)
    except OSError as error:
        raise _cannot_unpack(folder, error) from error


def _cannot_unpack(folder: Path, error: OSError) -> DataError:
    free = ""
    with suppress(OSError):
        free = f" ({size_text(shutil.disk_usage(folder).free)} free)"
    return DataError(
        f"cannot unpack into {folder}: {error.strerror or error}{free}",
        "free some space, or set IMGGEN_CACHE to a folder on a larger disk",
    )
