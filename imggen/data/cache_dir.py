"""Where the cache is, and how large it may become."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imggen.errors import DataError, UsageError
from imggen.io.locks import lock_file
from imggen.option import SizeLimit, parse_limit
from imggen.reporting import Reporter

DEFAULT_LIMIT = SizeLimit(fraction=0.2)
# Nothing may be written to a place, or there can be no folder, however much space the disk has.
NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


def default_cache_dir() -> Path:
    """The folder in IMGGEN_CACHE, else `imggen` in the user's cache folder, else a private temporary folder.

    The last is for users without a home folder, or whose cache can neither be read nor made. Raises DataError if it
    would be one that others can write to.
    """
    if chosen := os.environ.get("IMGGEN_CACHE"):
        return expand_user(chosen)
    wanted = _users_cache()
    problem = _problem(wanted)
    return _private_temporary_folder(problem) if wanted is None or problem else wanted


def _users_cache() -> Path | None:
    """`imggen` in the user's cache folder; None for a user of a container without HOME and without a name."""
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "imggen"
    if local := os.environ.get("LOCALAPPDATA"):
        return Path(local) / "imggen"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "imggen"


def _problem(cache: Path | None) -> str:
    """Why the user's cache cannot be used; empty if it can. One that can only be read is used as it is."""
    if cache is None:
        return "the home folder cannot be found"
    nearest = existing_parent(cache)
    needed = os.R_OK if nearest == cache else os.W_OK
    if nearest.is_dir() and os.access(nearest, needed | os.X_OK):
        return ""
    return f"the cache {cache} cannot be {'read' if needed == os.R_OK else 'made'}"


def expand_user(text: str) -> Path:
    """`text` as a path, with `~` replaced by the user's home folder. Raises DataError if there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        if Path(text).exists():
            return Path(text)
        hint = "write the full path, or set HOME (and IMGGEN_CACHE, where decoded images are kept)"
        raise DataError(f"{text}: the home folder cannot be found", hint) from error


def _private_temporary_folder(problem: str) -> Path:
    """A folder of mode 0700 below the temporary folder that belongs to this user; `problem` is why."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"imggen-{user}"
    hint = "set IMGGEN_CACHE to a folder that you may write to"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise DataError(f"{problem}, and {folder} cannot be made: {error.strerror}", hint) from error
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if not private or (hasattr(os, "getuid") and status.st_uid != user):
        raise DataError(f"{problem}, and {folder} is not a private folder of this user", hint)
    return folder


_warned: weakref.WeakSet[Reporter] = weakref.WeakSet()


def warn_of_temporary_cache(reporter: Reporter) -> None:
    """Warn, once for each reporter, if the cache is a temporary folder because the user's cannot be used."""
    if not os.environ.get("IMGGEN_CACHE") and reporter not in _warned and (problem := _problem(_users_cache())):
        _warned.add(reporter)
        reporter.warn(f"{problem}: images are decoded into {default_cache_dir()}; IMGGEN_CACHE sets another folder")


def cache_limit(cache_dir: Path, limit: SizeLimit | None = None) -> int | None:
    """Bytes that the cache may have: `limit`, else IMGGEN_CACHE_LIMIT, else 20 % of its disk. None: no limit.

    Raises UsageError if the variable cannot be read.
    """
    text = os.environ.get("IMGGEN_CACHE_LIMIT")
    if limit is None and text:
        try:
            limit = parse_limit(text)
        except UsageError as error:
            raise UsageError(f"IMGGEN_CACHE_LIMIT: {error.message}", error.hint) from error
    return (limit or DEFAULT_LIMIT).bytes_of(shutil.disk_usage(existing_parent(cache_dir)).total)


def existing_parent(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    # Unlike Path.exists, this is false for what lies in a folder that cannot be looked into.
    return next((path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK)), Path())


@contextmanager
def locked_cache(cache_dir: Path) -> Iterator[None]:
    """Make the cache's folder, and be the only process that adds to it or removes from it. Keep the block short."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    with lock_file(cache_dir / ".lock"):
        yield
