"""One entry of the cache: the decoded images of a source in one form, checked when it is opened.

Its folder is named by a hash and holds images.npy (N, size, size, channels) uint8, labels.npy (N,) int64, rows.npy (see
cache_reuse.py) and index.json, which is written last and has the checksums of images.npy. The other files carry their
own. A process holds a shared lock on the folder for as long as it uses the images.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imggen.data.cache_files import DamagedError, check_blocks, load_array, read_document, write_document
from imggen.data.readers import Origin, Source
from imggen.data.scan import digest
from imggen.documents import COUNT, NUMBER, TEXT, DocumentError, Kind, read_fields
from imggen.io.locks import Lock, seize, share

FORMAT_VERSION = 2
KEY = re.compile(r"[0-9a-f]{32}")
REMOVED = ".imggen-removed-"  # begins the name of a folder that is being removed
DAY_SECONDS = 86_400.0

Skipped = tuple[tuple[str, str], ...]
"""Name and reason of each image that cannot be read."""


class Form(NamedTuple):
    """What images are decoded to: (size, size, channels), by one of `choices.CROPS`."""

    size: int
    channels: int
    crop: str


@dataclass(frozen=True)
class Index:
    """What index.json says: the source and its key, the form, the number of images and the unreadable ones.

    `created` is a time in seconds, `blocks` the `block_checksums` of images.npy.
    """

    source: str
    origin: Origin
    source_key: str
    form: Form
    count: int
    classes: tuple[str, ...]
    ignored: int
    skipped: Skipped
    created: float
    blocks: str


@dataclass(frozen=True)
class CacheEntry:
    """A complete entry that was opened, and the lock that keeps other processes from removing it."""

    folder: Path
    index: Index
    lock: Lock

    @property
    def skipped(self) -> Skipped:
        """Name and reason of each image that was left out."""
        return self.index.skipped


def entry_key(source: Source, form: Form) -> str:
    """The name of the entry's folder."""
    return digest([source.key, *form, FORMAT_VERSION])


def write_index(folder: Path, index: Index) -> None:
    """Write index.json, which makes the entry valid. Raises DataError."""
    write_document(folder / "index.json", {"version": FORMAT_VERSION, **asdict(index)})


def read_index(folder: Path) -> Index:
    """Read index.json. Raises DamagedError, also for another version's, and OSError if it is missing."""
    document = read_document(folder / "index.json")
    if document.pop("version", None) != FORMAT_VERSION:
        raise DamagedError("index.json is of another version of imggen")
    try:
        fields = read_fields(document, _INDEX)
    except DocumentError as error:
        raise DamagedError(f"index.json {error}") from error
    fields["classes"], fields["skipped"] = tuple(fields["classes"]), tuple(map(tuple, fields["skipped"]))
    index = Index(**{**fields, "origin": Origin(*fields["origin"]), "form": Form(*fields["form"])})
    if min(index.form.size, index.form.channels) < 0:
        raise DamagedError("index.json has impossible numbers")
    return index


def _is_row(value: Any, *types: type[Any]) -> bool:
    """Whether it is a list of values of exactly these types: in Python, True would pass for a number."""
    return type(value) is list and [type(each) for each in value] == list(types)


_INDEX = {
    **dict.fromkeys(("source", "source_key", "blocks"), TEXT),
    **dict.fromkeys(("count", "ignored"), COUNT),
    "created": NUMBER,
    "origin": Kind("path, split and use of classes", lambda value: _is_row(value, str, str, bool)),
    "form": Kind("size, channels and crop", lambda value: _is_row(value, int, int, str)),
    "classes": Kind("names", lambda value: type(value) is list and all(type(name) is str for name in value)),
    "skipped": Kind(
        "names and reasons", lambda value: type(value) is list and all(_is_row(v, str, str) for v in value)
    ),
}


def open_entry(folder: Path) -> CacheEntry | None:
    """The entry in a folder; None if there is none, or another process is just removing it.

    Notes the time of use. Raises DamagedError if its files do not match their checksums, or each other.
    """
    lock = share(folder)
    if lock is None:
        return None
    try:
        index = read_index(folder)
        if len(load_array(folder / "labels.npy")) != index.count:
            raise DamagedError("labels.npy does not fit index.json")
        _check_images(folder / "images.npy", index)
    except OSError as error:
        lock.release()
        raise DamagedError(f"{error.filename or folder}: {error.strerror or error}") from error
    except DamagedError:
        lock.release()
        raise
    with suppress(OSError):
        os.utime(folder / "index.json")
    return CacheEntry(folder, index, lock)


def _check_images(path: Path, index: Index) -> None:
    size, channels, _ = index.form
    check_blocks(path, index.blocks)
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DamagedError("images.npy is not an array") from error
    if images.shape != (index.count, size, size, channels) or images.dtype != np.uint8:
        raise DamagedError("images.npy does not fit index.json")


def last_used(path: Path) -> float:
    """When a folder of the cache (by its index.json) or a file in it was last used, in seconds; 0 if it is gone."""
    for candidate in (path / "index.json", path):
        with suppress(OSError):
            return candidate.stat().st_mtime
    return 0.0


def remove_unused(path: Path, *, damaged: bool = False) -> bool:
    """Remove a folder or a file of the cache, unless a process uses it; returns whether it was removed.

    Where the disk has no locks, it must not have been used for a day, unless it is damaged. A folder is renamed first,
    so that nothing incomplete has its name if this process is killed.
    """
    lock = seize(path)
    if lock is None:
        return False
    try:
        # Windows, where there are no locks either, does not remove what is in use.
        certain = lock.supported or damaged or os.name != "posix"
        if not certain and time.time() - last_used(path) < DAY_SECONDS:
            return False
        if path.is_dir():
            doomed = path.with_name(f"{REMOVED}{secrets.token_hex(8)}")
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            path.unlink()
    except OSError:
        return False  # of another user, or on a read-only disk
    finally:
        lock.release()
    return True
