"""List the members of tars. Compressed tars are unpacked into the cache once, so that members can be read by offset."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imggen.data.cache_dir import locked_cache
from imggen.data.cache_files import DamagedError, block_checksums, check_blocks, read_document, write_document
from imggen.errors import DataError
from imggen.io.locks import seize
from imggen.reporting import size_text

ARCHIVES = "archives"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")


@dataclass(frozen=True)
class Member:
    """A regular file inside an uncompressed tar: its bytes begin at `offset`."""

    name: str
    offset: int
    size: int
    mtime: float


def list_tar(path: Path, cache_dir: Path) -> tuple[Path, list[Member]]:
    """The uncompressed tar with the contents of `path`, and its regular files, hard links resolved.

    Raises DataError if the tar is damaged or the cache's disk is full.
    """
    uncompressed = (path if path.name.lower().endswith(".tar") else _unpacked(path, cache_dir)).resolve()
    try:
        with tarfile.open(uncompressed, "r:") as archive:
            infos = archive.getmembers()
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(path, error) from error
    members: dict[str, Member] = {}
    for info in infos:
        name = info.name.removeprefix("./").lstrip("/")
        if info.isreg() and not info.issparse():
            members[name] = Member(name, info.offset_data, info.size, info.mtime)
        elif info.islnk():
            target = members.get(info.linkname.removeprefix("./").lstrip("/"))
            if target is not None:
                members[name] = Member(name, target.offset, target.size, target.mtime)
    return uncompressed, list(members.values())


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a usable tar: {error}", "it may be incomplete: download or create it again")


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
    with locked_cache(cache_dir):  # so that nobody takes the new file for a leftover before it is locked
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".unpacking-", delete=False) as target:
            temporary = Path(target.name)
        lock = seize(temporary)
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
    try:
        with _decompressed(path) as source:
            while block := source.read(1 << 20):
                _write(target, block, folder)
    except (EOFError, lzma.LZMAError, zlib.error, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _write(target: IO[bytes], block: bytes, folder: Path) -> None:
    """Write, with an error of its own for a full disk: damaged input raises OSError too."""
    try:
        target.write(block)
    except OSError as error:
        free = shutil.disk_usage(folder).free
        raise DataError(
            f"cannot unpack into {folder}: {error.strerror or error} ({size_text(free)} free)",
            "free some space, or set IMGGEN_CACHE to a folder on a larger disk",
        ) from error
