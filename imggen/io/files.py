"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imggen.errors import DataError

_HINTS = {
    errno.ENOSPC: "no space is left on the disk: free some, or write elsewhere",
    errno.EDQUOT: "your quota on this disk is spent: free some, or write elsewhere",
    errno.EROFS: "the disk can only be read: write elsewhere",
    errno.EACCES: "you may not write there: choose another folder",
    errno.EPERM: "you may not write there: choose another folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.ENOENT: "the folder does not exist: make it first",
    errno.ENAMETOOLONG: "the name is too long for this disk",
}


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A sibling to write to; it takes the place of `path` when the block ends well, and goes when it does not.

    `durable` waits until the disk has it. A symlink is written through. Raises DataError when the disk refuses.
    """
    target = Path(os.path.realpath(path))
    sibling = target.with_name(f".{target.name[:80]}.{secrets.token_hex(4)}.part")
    try:
        yield sibling
        if durable:
            _sync(sibling)
        sibling.replace(target)
        if durable and os.name == "posix":
            _sync(target.parent)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}", _HINTS.get(error.errno or 0)) from error
    finally:
        with suppress(OSError):
            sibling.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write `data` to `path`, whole or not at all, with the mode that the umask gives. Raises DataError."""
    with atomic_path(path, durable=durable) as sibling, sibling.open("xb") as file:
        file.write(data)
