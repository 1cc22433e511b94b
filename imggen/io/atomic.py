"""Files that are written whole or not at all."""

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

from imggen.errors import DataError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_HINTS = {
    errno.ENOSPC: "no space is left on the disk: free some, or write elsewhere",
    errno.EDQUOT: "your quota on this disk is spent: free some, or write elsewhere",
    errno.EROFS: "the disk can only be read: write elsewhere",
    errno.EACCES: "you may not write there: choose another folder",
    errno.EPERM: "you may not write there: choose another folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.ENOENT: "the folder does not exist: make it first",
    errno.EFBIG: "the disk, or a limit of the system, takes no file that large: write elsewhere",
    errno.ENAMETOOLONG: "the name is too long for this disk",
}


_TOKEN, _NUMBER = secrets.token_hex(4), itertools.count()


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A sibling to write to; it takes the place of `path` when the block ends well, and goes when it does not.

    `durable` waits until the disk has it. A symlink is written through. Raises DataError when the disk refuses.
    """
    target, sibling = _names(path)
    try:
        yield Path(sibling)
        if durable:
            _sync(sibling)
        os.replace(sibling, target)
        if durable and os.name == "posix":
            _sync(os.path.dirname(target) or ".")
    except BaseException as error:
        _give_up(path, sibling, error)
        raise


@contextmanager
def atomic_folder(path: Path, stale: re.Pattern[str]) -> Iterator[Path]:
    """A folder to write files to; they take their places in `path` when the block ends well, else nothing is there.

    What lies in `path` already stays, but for files whose names match `stale`. Raises DataError when the disk refuses.
    """
    target, sibling = _names(path)
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
        _give_up(path, sibling, error)
        raise


@contextmanager
def lock_directory(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; where the system or the disk knows no such thing, nothing is held.

    Raises UsageError where another process holds it.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a disk of a network may know no locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                hint = "wait for it, or name another folder by -o"
                raise UsageError(f"another training is at work in {folder}", hint) from error
        yield
    finally:
        os.close(handle)


def _names(path: Path) -> tuple[str, str]:
    # Strings and os: pathlib would take longer than the disk does for a small picture.
    target = os.path.realpath(path) if os.path.islink(path) else os.fspath(path)
    folder, name = os.path.split(target)
    return target, os.path.join(folder, f".{name[:80]}.{os.getpid():x}{_TOKEN}{next(_NUMBER):x}.part")


def _give_up(path: Path, sibling: str, error: BaseException) -> None:
    with suppress(OSError):
        os.unlink(sibling)
    if isinstance(error, OSError):
        hint = _HINTS.get(error.errno or 0)
        raise DataError(f"{path} cannot be written: {error.strerror or error}", hint) from error


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all, with the mode that the umask gives. Raises DataError."""
    target, sibling = _names(path)
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
        _give_up(path, sibling, error)
        raise
