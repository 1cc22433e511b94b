"""List the members of tars. Compressed tars are unpacked into the cache once, so that members can be read by offset."""

from __future__ import annotations

import bz2
import errno
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
from typing import IO, NamedTuple

from imggen.data.cache_dir import NOT_ALLOWED, cache_limit, locked_cache
from imggen.data.cache_files import DamagedError, block_checksums, check_blocks, read_document, write_document
from imggen.data.layout import relative_name
from imggen.data.readers import LABEL_ENDING, MAX_EXPANSION, MAX_LABEL_BYTES
from imggen.errors import DataError, in_one_line
from imggen.io.locks import Lock, seize, share
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


class TarListing(NamedTuple):
    """An uncompressed tar: its files with links resolved, and the links that lead to no file.

    `lock` keeps it in the cache, if it is there.
    """

    path: Path
    entries: list[TarFileEntry]
    broken_links: list[str]
    lock: Lock | None


def list_tar(path: Path, cache_dir: Path) -> TarListing:
    """List a tar; a compressed one is unpacked into the cache.

    Of a name that is there twice, the last one counts, as when a tar is unpacked. Raises DataError if the tar is
    damaged, or does not fit the cache.
    """
    unpacked, lock = (path, None) if path.name.lower().endswith(".tar") else _unpacked(path, cache_dir)
    uncompressed = unpacked.resolve()
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
    return TarListing(uncompressed, list(entries.values()), broken, lock)


class _HeaderFile(io.BufferedReader):
    """A tar of which only headers are read: tarfile would read an extension of any size into memory.

    Newer Pythons read it in pieces, so the pieces of a member are counted together.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.length, self.allowed = path.stat().st_size, MAX_HEADER_BYTES

    def begin_member(self) -> None:
        """Allow the label of a member and the headers of the next one, MAX_HEADER_BYTES together."""
        self.allowed = MAX_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes. Raises tarfile.ReadError for more than are allowed."""
        if size is None or not 0 <= size <= self.allowed:
            raise tarfile.ReadError("a header is too large")
        self.allowed -= size
        return super().read(size)


def _read_entries(file: _HeaderFile) -> tuple[dict[str, TarFileEntry], dict[str, str]]:
    """The regular files by name, and the target of each link. Raises tarfile.TarError and others for a damaged tar."""
    entries: dict[str, TarFileEntry] = {}
    links: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        while (info := archive.next()) is not None:
            file.begin_member()
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
    reason = in_one_line(error) if isinstance(error, Exception) else error
    return DataError(f"{path} is not a usable tar: {reason}", "it may be incomplete: download or create it again")


def _decompressed(path: Path) -> gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File:
    """Open a compressed file for reading, by the last letters of its name."""
    name = path.name.lower()
    if name.endswith("gz"):
        return gzip.open(path, "rb")
    if name.endswith("xz"):
        return lzma.open(path, "rb")
    return bz2.open(path, "rb")


def _unpacked(path: Path, cache_dir: Path) -> tuple[Path, Lock | None]:
    """The decompressed copy in the cache, made if it does not exist yet, and a lock that keeps it there.

    It is renamed only when it is complete, so that an incomplete copy is never used.
    """
    folder = cache_dir / ARCHIVES
    final = folder / unpacked_name(path)
    lock = share(final)
    if lock is not None and _is_complete(final):
        return final, lock
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
            _decompress_into(target, path, folder, cache_limit(cache_dir))
        write_document(final.with_suffix(".json"), {"path": str(path.resolve()), "blocks": block_checksums(temporary)})
        if lock is not None:
            lock.share()
        temporary.replace(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return final, lock


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


def _decompress_into(target: IO[bytes], path: Path, folder: Path, limit: int | None) -> None:
    """Write the decompressed contents of `path`, at most `limit` bytes, to `target`, a file in `folder`.

    Raises DataError.
    """
    allowed = max(_MIN_EXPANDED_BYTES, MAX_EXPANSION * path.stat().st_size)
    room = shutil.disk_usage(folder).free
    size = 0
    try:
        with _decompressed(path) as source:
            while block := source.read(1 << 20):
                size += len(block)
                if size > allowed:
                    raise _damaged(path, f"it expands more than {MAX_EXPANSION:,} times")
                if limit is not None and size > limit:
                    raise _over_limit(path, limit)
                if size > room:
                    raise _cannot_unpack(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
                _write(target, block, folder)
        _write(target, b"", folder)
    except (EOFError, lzma.LZMAError, zlib.error, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _write(target: IO[bytes], block: bytes, folder: Path) -> None:
    """Write, with an error of its own for a full disk: damaged input raises OSError too."""
    try:
        target.write(block)
        if not block:  # the end: what is left in the buffer
            target.flush()
    except OSError as error:
        raise _cannot_unpack(folder, error) from error


def _over_limit(path: Path, limit: int) -> DataError:
    return DataError(
        f"{path} unpacks to more than the cache may have, {size_text(limit)}",
        "set IMGGEN_CACHE_LIMIT to more, such as 50GB or none, or unpack it and give the folder",
    )


def _cannot_unpack(folder: Path, error: OSError) -> DataError:
    message = f"cannot unpack into {folder}: {error.strerror or error}"
    if error.errno in NOT_ALLOWED:
        return DataError(message, "set IMGGEN_CACHE to a folder that you may write to")
    with suppress(OSError):
        message += f" ({size_text(shutil.disk_usage(folder).free)} free)"
    return DataError(message, "free some space, or set IMGGEN_CACHE to a folder on a larger disk")
