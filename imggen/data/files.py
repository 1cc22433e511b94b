"""The one way in which imggen lists the files of a folder: for training, comparing, and every verb that reads images.

Links to folders are followed, and each real folder is listed once. What cannot be listed is left out and counted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import NamedTuple

from imggen.data.layout import is_hidden, is_image_file
from imggen.data.left_out import LeftOut
from imggen.errors import DataError

# A folder with both files is the folder of a training run of imggen, whose previews must not become training data.
TRAINING_RUN_FILES = ("metrics.jsonl", "config.toml")
TRAINING_RUN_PREVIEWS = "samples"


class FileEntry(NamedTuple):
    """An image file below a folder: its name relative to that, with slashes, its size in bytes, and its time."""

    name: str
    size: int
    mtime_ns: int


@dataclass
class FolderListing:
    """The image files below a folder, sorted by name; the names of archives among the others; and what is left out."""

    images: list[FileEntry] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


def list_folder(root: Path, exclude: Iterable[Path] = ()) -> FolderListing:
    """All files below `root` but hidden ones, those of training runs, and those in or at a path of `exclude`.

    A path of `exclude` that is `root` itself or lies outside it has no effect. Symlinked folders come after all real
    ones, so that a file is listed by its own path and not by a link's. If `root` is a training run itself, only its
    previews are left out. Raises DataError if `root` cannot be listed.
    """
    listing = FolderListing()
    for prefix, entries in _files_below(root, exclude, listing.left_out):
        for entry in entries:
            name = prefix + entry.name
            try:
                status = entry.stat()
            except PermissionError as error:
                listing.left_out.unreadable.append(f"{name} ({error.strerror})")
                continue
            except OSError:
                listing.left_out.broken_links.append(name)  # or it has just been removed
                continue
            is_regular = stat.S_ISREG(status.st_mode)
            if is_image_file(entry.name):
                if is_regular:
                    listing.images.append(FileEntry(name, status.st_size, status.st_mtime_ns))
                else:
                    listing.left_out.special.append(name)
            elif is_regular:
                listing.left_out.add(name)
                listing.others.append(name)
    listing.images.sort(key=itemgetter(0))
    return listing


def images_below(folder: Path, exclude: Iterable[Path] = ()) -> tuple[list[Path], LeftOut]:
    """The image files of `list_folder` as sorted relative paths, and what was left out. Raises DataError if none."""
    listing = list_folder(folder, exclude)
    if not listing.images:
        raise no_images(folder, listing.left_out)
    return sorted(Path(file.name) for file in listing.images), listing.left_out


def no_images(source: Path | str, left_out: LeftOut) -> DataError:
    """The error for a source without images; its hint says what there is."""
    return DataError(f"there are no images in {source}", left_out.describe())


def _files_below(
    root: Path, exclude: Iterable[Path], left_out: LeftOut
) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Of each folder its name below `root`, with a slash, and the entries of everything there that is not a folder."""
    excluded = {os.path.realpath(path) for path in exclude} - {os.path.realpath(root)}
    visited: set[tuple[int, int]] = set()
    folders, links = [(str(root), "")], list[tuple[str, str]]()
    while folders or links:
        folder, prefix = folders.pop() if folders else links.pop(0)
        is_root, real = not prefix, os.path.realpath(folder)
        if not is_root and real in excluded:
            continue
        try:
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as found:
                entries = sorted(found, key=attrgetter("name"))
        except OSError as error:
            if is_root:
                hint = "check the disk and its permissions"
                raise DataError(f"cannot read {root}: {error.strerror}", hint) from error
            left_out.unreadable.append(f"{prefix.rstrip('/')} ({error.strerror})")
            continue
        is_run = {entry.name for entry in entries}.issuperset(TRAINING_RUN_FILES)
        if is_run and not is_root:
            continue
        files = []
        for entry in entries:
            if is_hidden(entry.name) or (is_run and entry.name == TRAINING_RUN_PREVIEWS):
                continue
            if excluded and f"{real.rstrip(os.sep)}{os.sep}{entry.name}" in excluded:
                continue
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link that leads to itself
                is_folder = False
            if is_folder:
                (links if entry.is_symlink() else folders).append((entry.path, f"{prefix}{entry.name}/"))
            else:
                files.append(entry)
        yield prefix, files
