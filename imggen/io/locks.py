"""Advisory locks on files and folders (flock). They end with the process that holds them, however it ends."""

from __future__ import annotations

import os
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imggen.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The file in a folder that is locked in its place: network disks do not lock folders for one process alone.
LOCK_NAME = ".lock"
_SHARE_SECONDS, _PAUSE_SECONDS = 2.0, 0.02


class Lock:
    """A lock that is held until `release`, or until the object or the process is gone.

    `supported` is False where the system or the disk has no locks: then other processes cannot be noticed.
    """

    def __init__(self, handle: int | None, *, supported: bool) -> None:
        self.supported = supported
        self._handle = handle
        self._close = None if handle is None else weakref.finalize(self, os.close, handle)

    def share(self) -> None:
        """Let other processes share the lock."""
        if self._handle is not None and self.supported:
            fcntl.flock(self._handle, fcntl.LOCK_SH)

    def release(self) -> None:
        """End the lock."""
        if self._close is not None:
            self._close()


def share(path: Path) -> Lock | None:
    """A lock that any number of processes can hold; None if another one holds it alone, or `path` is gone.

    It waits up to two seconds: a process that only asks whether `path` is in use holds it alone for a moment.
    """
    end = time.monotonic() + _SHARE_SECONDS
    while (lock := _lock(path, "LOCK_SH")) is None and path.exists() and time.monotonic() < end:
        time.sleep(_PAUSE_SECONDS)
    return lock


def seize(path: Path) -> Lock | None:
    """A lock that one process alone can hold; None if another one has locked `path`, or it is gone."""
    return _lock(path, "LOCK_EX")


def make_locked_folder(parent: Path, prefix: str) -> tuple[Path, Lock | None]:
    """Make a folder in `parent` with a name of its own, and a lock on it. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    (folder / LOCK_NAME).touch()
    return folder, seize(folder)


def _lock(path: Path, kind: str) -> Lock | None:
    if fcntl is None:
        return Lock(None, supported=False) if path.exists() else None
    inner = path / LOCK_NAME
    path = inner if inner.exists() else path
    try:
        handle = _open(path)
    except OSError:
        return None
    try:
        fcntl.flock(handle, getattr(fcntl, kind) | fcntl.LOCK_NB)
        # The path may have been removed, or replaced, between opening and locking.
        current = os.path.samestat(os.fstat(handle), path.stat())
    except BlockingIOError:
        current = False
    except FileNotFoundError:
        current = False
    except OSError:  # a network disk may not support locks
        os.close(handle)
        return Lock(None, supported=False)
    if not current:
        os.close(handle)
        return None
    return Lock(handle, supported=True)


def _open(path: Path) -> int:
    """Open a file or a folder, for writing if that is possible: network disks need it for a lock of one process."""
    with suppress(OSError):
        return os.open(path, os.O_RDWR)
    return os.open(path, os.O_RDONLY)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Wait until no other process is in such a block with the same file, which is made if it does not exist.

    A no-op where locks are not supported. Raises OSError if the file cannot be made.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def lock_directory(folder: Path) -> Iterator[None]:
    """Be the only process that trains in a folder during the block; a no-op where locks are not supported.

    Raises UsageError if another process is in such a block.
    """
    lock = seize(folder)
    if lock is None:
        hint = "wait until it ends, or choose another folder with -o"
        raise UsageError(f"another process is training in {folder}", hint)
    try:
        yield
    finally:
        lock.release()
