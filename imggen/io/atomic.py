"""Write files and folders completely or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imggen.errors import DataError

# What only writing can meet, and what depends on the path.
_DISK_HINTS = {
    errno.ENOSPC: "no space is left on the disk: free some, or write elsewhere",
    errno.EDQUOT: "your disk quota is used up: free some space, or write elsewhere",
    errno.EROFS: "the disk is read-only: write elsewhere",
    errno.EFBIG: "the disk, or a limit of the system, does not allow a file that large: write elsewhere",
}
_PATH_HINTS = {
    errno.EACCES: "you may not write there: choose another folder",
    errno.EPERM: "you may not write there: choose another folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.ENOENT: "the folder does not exist: create it first",
    errno.ENAMETOOLONG: "the name is too long for this disk",
}

# Letters of a file's name in that of its temporary file: four bytes each at most, of the 255 that disks allow.
MAX_SHARED_LENGTH = 40

# They make temporary names unique: the counter within a process, process id and token among processes.
_TOKEN, _COUNTER = secrets.token_hex(4), itertools.count()


def disk_hint(error: OSError) -> str | None:
    """What to do about a disk that is full or takes no files; None for other errors."""
    return _DISK_HINTS.get(error.errno or 0)


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces it when the block ends without an error.

    After an error the temporary file is removed and `path` is unchanged. If `path` is a symlink, its target is
    replaced. `durable` waits until the file is on the disk. Raises DataError if it cannot be written.
    """
    target, sibling = _target_and_temporary(path)
    try:
        yield Path(sibling)
        if durable:
            _sync(sibling)
        os.replace(sibling, target)
        if durable and os.name == "posix":
            _sync(os.path.dirname(target) or ".")
    except BaseException as error:
        _clean_up(path, sibling, error)
        raise


@contextmanager
def atomic_folder(path: Path, stale: re.Pattern[str]) -> Iterator[Path]:
    """Yield a temporary folder, whose files move into `path` when the block ends without an error.

    Files already in `path` stay, except those whose whole names match `stale`, which are removed. After an error
    nothing is moved. Raises DataError if the folder cannot be written.
    """
    target, sibling = _target_and_temporary(path)
    try:
        os.makedirs(sibling)
        yield Path(sibling)
        if not os.path.isdir(target):
            os.replace(sibling, target)
            return
        for name in os.listdir(target):
            if stale.fullmatch(name):
                os.unlink(os.path.join(target, name))
        for name in os.listdir(sibling):
            os.replace(os.path.join(sibling, name), os.path.join(target, name))
        os.rmdir(sibling)
    except BaseException as error:
        shutil.rmtree(sibling, ignore_errors=True)
        _clean_up(path, sibling, error)
        raise


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path` completely or not at all, with the mode that the umask gives. Raises DataError."""
    target, sibling = _target_and_temporary(path)
    try:
        handle = os.open(sibling, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(handle, left) :]
        finally:
            os.close(handle)
        os.replace(sibling, target)
    except BaseException as error:
        _clean_up(path, sibling, error)
        raise


def _target_and_temporary(path: Path) -> tuple[str, str]:
    """The real path to replace, and a unique temporary name in the same folder.

    Uses strings and `os`: for a small image, pathlib would take longer than writing the file.
    """
    target = os.path.realpath(path) if os.path.islink(path) else os.fspath(path)
    folder, name = os.path.split(target)
    return target, os.path.join(folder, f".{name[:MAX_SHARED_LENGTH]}.{os.getpid():x}{_TOKEN}{next(_COUNTER):x}.part")


def _clean_up(path: Path, sibling: str, error: BaseException) -> None:
    """Remove the temporary file; raise DataError with a hint if the error is the disk's."""
    with suppress(OSError):
        os.unlink(sibling)
    if isinstance(error, OSError):
        hint = disk_hint(error) or _PATH_HINTS.get(error.errno or 0)
        raise DataError(f"{path} cannot be written: {error.strerror or error}", hint) from error


def _sync(path: str) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
