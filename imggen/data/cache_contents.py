"""What the cache holds, and removing from it: what is incomplete, out of date, over the limit, or no longer wanted.

Nothing that a process uses is removed (see `io/locks.py`), and nothing that imggen did not write: the cache may be any
folder, even the user's home.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imggen.data.cache_dir import existing_parent
from imggen.data.cache_entry import DAY_SECONDS, KEY, REMOVED, Index, last_used, read_index, remove_unused
from imggen.data.cache_files import DamagedError
from imggen.data.tars import ARCHIVES, read_archive_path, unpacked_name
from imggen.errors import CheckpointError, DataError
from imggen.io.checkpoint import read_header
from imggen.io.locks import seize
from imggen.reporting import Reporter, size_text

DOWNLOADS = {
    "mnist": ("MNIST",),
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz"),
}
_INCOMPLETE = re.compile(rf"\.[0-9a-f]{{32}}-[^.]+|\.unpacking-[^.]+|{REMOVED}[0-9a-f]+")
_PART = re.compile(r"\..+\.[0-9a-f]+\.part")
_RECORD = re.compile(r"[0-9a-f]{32}\.json")  # of an unpacked archive
_FEATURES = re.compile(r"[0-9a-f]{32}-[0-9a-f]+-[0-9a-f]{12}\.npy")
_VECTORS = re.compile(r"[0-9a-f]{32}-[0-9a-f]{12}\.safetensors")
_DIRECTIONS = re.compile(r"[0-9a-f]{12}\.safetensors")
_SURVEY = re.compile(r"([0-9a-f]{32}|[a-z0-9]+-[a-z]+-\d+(-plain)?)\.json")


class NoRoomError(DataError):
    """The decoded images do not fit the disk or the limit of the cache, or nothing may be written there."""


@dataclass(frozen=True)
class Item:
    """One thing in the cache, at `paths`; `source` is the path that it was made from, if that is recorded.

    `kind` is one of images, archive (unpacked), download, features, vectors, surveys, directions (of a model's noise),
    incomplete and damaged. `outdated` says that the source has changed since, `model` which model the vectors are of.
    """

    kind: str
    name: str
    paths: tuple[Path, ...]
    bytes: int
    used: float
    source: str = ""
    outdated: bool = False
    index: Index | None = None
    model: str = ""

    @property
    def source_exists(self) -> bool | None:
        """Whether the source is still there; None where that is not recorded."""
        return Path(self.source).exists() if self.source else None

    @property
    def in_use(self) -> bool:
        """Whether a process uses it now."""
        lock = seize(self.paths[0])
        if lock is not None:
            lock.release()
        return lock is None and self.paths[0].exists()

    def remove(self) -> bool:
        """Remove it, unless a process uses it; returns whether it was removed."""
        # The first one is the one that is locked.
        return all(remove_unused(path, damaged=self.kind == "damaged") for path in self.paths)

    def __str__(self) -> str:
        form = "" if self.index is None else f" at {self.index.form.size} px"
        return f"{self.kind} of {self.name}{form}, {size_text(self.bytes)}"


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    with suppress(OSError):
        files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        return sum(each.lstat().st_size for each in files)
    return 0


def list_items(cache_dir: Path) -> list[Item]:
    """Everything in the cache, most recently used first."""
    if not cache_dir.is_dir():
        return []
    entries = list(_entries(cache_dir))
    items = [*entries, *_archives(cache_dir), *_downloads(cache_dir), *_vectors(cache_dir), *_leftovers(cache_dir)]
    # Features are named after the entry of the images, surveys after the key of the source.
    owners = {item.paths[0].name: item for item in entries}
    owners |= {item.index.source_key: item for item in entries if item.index is not None}
    for kind, pattern in (("features", _FEATURES), ("surveys", _SURVEY)):
        for path in _matching(cache_dir / kind, pattern):
            owner = owners.get(path.stem.split("-")[0])
            name, outdated = (path.stem[:12], False) if owner is None else (owner.name, owner.outdated)
            items.append(Item(kind, name, (path,), size_of(path), last_used(path), outdated=outdated))
    for path in _matching(cache_dir / "directions", _DIRECTIONS):  # of the noise of a model with this hash
        items.append(Item("directions", path.stem, (path,), size_of(path), last_used(path)))
    return sorted(items, key=lambda item: -item.used)


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and not path.is_symlink())


def _entries(cache_dir: Path) -> Iterator[Item]:
    """The entries. Of entries of the same files in different states, all but the latest are out of date."""
    indices: dict[Path, Index | None] = {}
    for folder in _matching(cache_dir, KEY):
        if folder.is_dir():
            try:
                indices[folder] = read_index(folder)
            except (DamagedError, OSError):
                indices[folder] = None
    latest: dict[object, Index] = {}
    for index in indices.values():
        if index is not None and index.created >= getattr(latest.get(index.origin), "created", 0.0):
            latest[index.origin] = index
    for folder, index in indices.items():
        size, used = size_of(folder), last_used(folder)
        if index is None:
            yield Item("damaged", folder.name[:12], (folder,), size, used)
        else:
            origin = index.origin
            outdated = bool(origin.path) and index.source_key != latest[origin].source_key
            yield Item("images", index.source, (folder,), size, used, origin.path, outdated, index)


def _archives(cache_dir: Path) -> Iterator[Item]:
    """The unpacked archives."""
    for tar in _matching(cache_dir / ARCHIVES, re.compile(r"[0-9a-f]{32}\.tar")):
        source = read_archive_path(tar)
        with suppress(OSError):
            outdated = source is not None and source.exists() and unpacked_name(source) != tar.name
            name = tar.stem[:12] if source is None else source.name
            paths = (tar, *(path for path in (tar.with_suffix(".json"),) if path.exists()))
            yield Item("archive", name, paths, size_of(tar), last_used(tar), str(source or ""), outdated)


def _downloads(cache_dir: Path) -> Iterator[Item]:
    """The data sets that torchvision has downloaded."""
    for name, parts in DOWNLOADS.items():
        paths = tuple(path for part in parts if (path := cache_dir / "datasets" / part).exists())
        if paths:
            yield Item("download", name, paths, sum(map(size_of, paths)), max(map(last_used, paths)))


def _vectors(cache_dir: Path) -> Iterator[Item]:
    """What models have seen in the images of a source, for `imggen search`."""
    for path in _matching(cache_dir / "vectors", _VECTORS):
        name, source, model = path.stem[:12], "", ""
        with suppress(CheckpointError):
            document = read_header(path, kind="vectors").document
            source, model = str(document.get("source", "")), str(document.get("model", ""))
            name = Path(source).name or name
        yield Item("vectors", name, (path,), size_of(path), last_used(path), source, model=model)


def _leftovers(cache_dir: Path) -> Iterator[Item]:
    """What is being written, or was when a process was killed."""
    for folder in (cache_dir, cache_dir / ARCHIVES, cache_dir / "datasets"):
        for path in _matching(folder, _INCOMPLETE):
            yield Item("incomplete", path.name[1:13], (path,), size_of(path), last_used(path))
    for kind in ("surveys", "features", "vectors", ARCHIVES):
        for path in _matching(cache_dir / kind, _PART):
            yield Item("incomplete", path.name[1:13], (path,), size_of(path), last_used(path))
    for path in _matching(cache_dir / ARCHIVES, _RECORD):
        if not path.with_suffix(".tar").exists():
            yield Item("incomplete", path.name[:12], (path,), size_of(path), last_used(path))


def remove_leftovers(cache_dir: Path) -> list[Item]:
    """Remove what killed processes left incomplete; returns what was removed. Call it in `locked_cache`.

    The lock on it ended with the process. Small files that are never locked, and everything where locks are not
    supported, must be a day old.
    """
    removed = []
    for item in _leftovers(cache_dir):
        path = item.paths[0]
        lock = seize(path)
        if lock is None:
            continue
        certain = lock.supported and path.suffix not in (".part", ".json")
        if certain or time.time() - item.used > DAY_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True) if not path.is_dir() else None
            removed.append(item)
        lock.release()
    return removed


def remove_items(items: Iterable[Item], why: str, reporter: Reporter) -> list[Item]:
    """Remove the items that no process uses, each with a message; returns them."""
    removed = [item for item in items if item.remove()]
    for item in removed:
        reporter.info(f"removed from the cache, {why}: {item}")
    return removed


def remove_outdated(cache_dir: Path, reporter: Reporter) -> None:
    """Remove entries and unpacked archives whose source has changed since, as far as no process uses them."""
    remove_items([item for item in list_items(cache_dir) if item.outdated], "as its source has changed", reporter)


def make_room(cache_dir: Path, needed: int, limit: int | None, reporter: Reporter) -> None:
    """Remove least recently used items until `needed` bytes fit the disk, and the limit of the cache in bytes.

    Call it in `locked_cache`. Raises NoRoomError, without removing anything, if they would not fit.
    """
    items = list_items(cache_dir)
    free = shutil.disk_usage(cache_dir).free - _promised_bytes(items)
    over_limit = 0 if limit is None else sum(item.bytes for item in items) + needed - limit
    excess = max(over_limit, needed - free)
    if excess <= 0:
        return
    candidates = [item for item in removable_items(items) if not item.in_use]
    if excess > sum(item.bytes for item in candidates):
        raise _no_room(cache_dir, needed, free, limit if needed <= free else None)
    for item in candidates:
        if excess <= 0:
            return
        if remove_items([item], "to make room", reporter):
            excess -= item.bytes


def removable_items(items: list[Item]) -> list[Item]:
    """What may be removed to make room, in order: outdated items, then the least recently used. No downloads."""
    removable = [item for item in items if item.kind in ("images", "archive", "features", "vectors", "damaged")]
    return sorted(removable, key=lambda item: (not item.outdated, item.used))


def _promised_bytes(items: list[Item]) -> int:
    """Bytes that other processes are still going to write into files that they have made."""
    promised = 0
    for item in items:
        if item.kind == "incomplete":
            with suppress(OSError):  # it may just have been finished
                status = (item.paths[0] / "images.npy").stat()
                promised += max(0, status.st_size - 512 * getattr(status, "st_blocks", status.st_size))
    return promised


def _no_room(cache_dir: Path, needed: int, free: int, limit: int | None) -> NoRoomError:
    folder = existing_parent(cache_dir)
    if limit is None:
        return NoRoomError(
            f"the decoded images need {size_text(needed)}, and {folder} has {size_text(max(0, free))} free",
            "free some space, set IMGGEN_CACHE to a larger disk, choose a smaller --size, or leave --cache disk out",
        )
    return NoRoomError(
        f"the decoded images need {size_text(needed)}, and the cache may have {size_text(limit)}",
        "set IMGGEN_CACHE_LIMIT to more, such as 50GB or none, or leave --cache disk out",
    )
