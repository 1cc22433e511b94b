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
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from imggen.data.layout import relative_name
from imggen.data.readers import LABEL_ENDING, MAX_EXPANSION, MAX_LABEL_BYTES
from imggen.errors import DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
PARTIAL_PREFIX = ".unpacking-"
MAX_PARTIAL_AGE_SECONDS = 86_400  # where there are no locks
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
    status = path.stat()
    identity = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    folder = cache_dir / "archives"
    remove_partial_tars(folder)
    final = folder / (hashlib.sha256(identity.encode("utf-8", "backslashreplace")).hexdigest()[:32] + ".tar")
    if final.exists():
        return final
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _partial_tar(folder) as target:
            _decompress_into(target, path, folder)
            target.flush()
            if os.name == "nt":
                target.close()  # Windows cannot rename an open file
            Path(target.name).replace(final)
    except OSError as error:
        raise _cannot_unpack(folder, error) from error
    return final


@contextmanager
def _partial_tar(folder: Path) -> Iterator[IO[bytes]]:
    """A new file in `folder`, locked while it is open and removed after an error."""
    while True:
        file = tempfile.NamedTemporaryFile(dir=folder, prefix=PARTIAL_PREFIX, delete=False)  # noqa: SIM115
        if _lock(file) is not False and Path(file.name).exists():
            break
        file.close()  # another process has taken it for abandoned, between its creation and its lock
    with file:
        try:
            yield file.file
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _lock(file: IO[bytes]) -> bool | None:
    """Lock a file without waiting: True, False if another process holds the lock, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_partial_tars(folder: Path) -> None:
    """Remove what killed processes left of unpacking: files that no process has locked.

    Where there are no locks, those that were not written to for a day.
    """
    for path in folder.glob(f"{PARTIAL_PREFIX}*"):
        with suppress(OSError), path.open("rb+") as file:
            locked = _lock(file)
            if locked is None:
                locked = time.time() - path.stat().st_mtime > MAX_PARTIAL_AGE_SECONDS
            if locked:
                path.unlink()


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
        free = f" ({shutil.disk_usage(folder).free / 1e9:.1f} GB free)"
    return DataError(
        f"cannot unpack into {folder}: {error.strerror or error}{free}",
        "free some space, or set IMGGEN_CACHE to a folder on a larger disk",
    )
