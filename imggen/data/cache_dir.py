"""Where the cache is, and how large it may become."""

from __future__ import annotations

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


def default_cache_dir() -> Path:
    """The folder in IMGGEN_CACHE, else `imggen` in the user's cache folder, else a private temporary folder.

    Raises DataError if the temporary folder would be one that others can write to.
    """
    if chosen := os.environ.get("IMGGEN_CACHE"):
        return expand_user(chosen)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "imggen"
    if local := os.environ.get("LOCALAPPDATA"):
        return Path(local) / "imggen"
    home = _home()
    if home is None:
        return _private_temporary_folder()
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "imggen"


def expand_user(text: str) -> Path:
    """`text` as a path, with `~` replaced by the user's home folder. Raises DataError if there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        if Path(text).exists():
            return Path(text)
        hint = "write the full path, or set HOME (and IMGGEN_CACHE, where decoded images are kept)"
        raise DataError(f"{text}: the home folder cannot be found", hint) from error


def _home() -> Path | None:
    """The user's home folder; None for a user of a container without HOME and without an entry in /etc/passwd."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _private_temporary_folder() -> Path:
    """A folder of mode 0700 below the temporary folder that belongs to this user."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"imggen-{user}"
    hint = "set IMGGEN_CACHE to a folder that you may write to"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise DataError(
            f"the home folder cannot be found, and {folder} cannot be made: {error.strerror}", hint
        ) from error
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if not private or (hasattr(os, "getuid") and status.st_uid != user):
        raise DataError(f"the home folder cannot be found, and {folder} is not a private folder of this user", hint)
    return folder


_warned: weakref.WeakSet[Reporter] = weakref.WeakSet()


def warn_of_temporary_cache(reporter: Reporter) -> None:
    """Warn, once for each reporter, if the cache is a temporary folder because there is no home folder."""
    names = ("IMGGEN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA")
    if not any(os.environ.get(name) for name in names) and _home() is None and reporter not in _warned:
        _warned.add(reporter)
        folder = default_cache_dir()
        reporter.warn(f"the home folder cannot be found: images are decoded into {folder}; IMGGEN_CACHE sets another")


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
    return next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path())


@contextmanager
def locked_cache(cache_dir: Path) -> Iterator[None]:
    """Make the cache's folder, and be the only process that adds to it or removes from it. Keep the block short."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    with lock_file(cache_dir / ".lock"):
        yield
