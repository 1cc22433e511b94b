"""What the paths of a source mean: wrapping folders, splits and classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from imggen.errors import DataError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
SPLITS = {
    "train": frozenset({"train", "training"}),
    "val": frozenset({"val", "valid", "validation"}),
    "test": frozenset({"test", "testing"}),
}
_SPLIT_NAMES = frozenset().union(*SPLITS.values())
_SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})

Parts = tuple[str, ...]
"""A path split at its slashes."""


class NoSplitError(DataError):
    """The data has no such split, or no splits at all."""


@dataclass(frozen=True)
class Layout:
    """Indices of the paths that belong to the split, in order, their labels, and the names of the classes."""

    chosen: list[int]
    labels: list[int]
    classes: tuple[str, ...]


def is_hidden(path: str) -> bool:
    """Whether a part of the path is a dot file or made by an operating system: `__MACOSX`, Thumbs.db, desktop.ini."""
    return any(part.startswith(".") or part.lower() in _SYSTEM_FILES for part in path.split("/"))


def is_image_file(path: str) -> bool:
    """Whether the extension is that of an image format that imggen reads."""
    return PurePosixPath(path).suffix.lower() in EXTENSIONS


def images_below(folder: Path) -> list[Path]:
    """All image files in a folder and its subfolders, as relative paths, sorted; hidden ones are left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if is_image_file(path.name) and path.is_file())
    return sorted(path for path in paths if not is_hidden(path.as_posix()))


def _drop_wrapping_folders(paths: list[Parts]) -> list[Parts]:
    """Drop the leading folders common to all paths, except a folder named train, which means that there are splits."""
    while paths and len(paths[0]) > 1:
        first = paths[0][0]
        if first.lower() in SPLITS["train"] or any(len(p) < 2 or p[0] != first for p in paths):
            break
        paths = [p[1:] for p in paths]
    return paths


def _split_of(folder: str) -> str:
    return next(split for split, names in SPLITS.items() if folder.lower() in names)


def _class_names(paths: list[Parts]) -> list[str]:
    """The first-level folders, sorted, as numbers if all are; none for fewer than two, or if files lie beside them."""
    if any(len(p) < 2 for p in paths):
        return []
    names = {p[0] for p in paths}
    if len(names) < 2:
        return []
    if all(n.isascii() and n.isdigit() for n in names):
        return sorted(names, key=lambda n: (int(n), n))
    return sorted(names)


def arrange(names: list[str], split: str, use_classes: bool, source: str) -> Layout:
    """Derive splits and classes from the folders in `names`; `source` is named in errors.

    The classes are those of all splits together, so that the labels of train and test agree. Raises NoSplitError.
    """
    paths = _drop_wrapping_folders([tuple(name.split("/")) for name in names])
    folders = {p[0].lower() for p in paths if len(p) > 1}
    has_splits = bool(folders & SPLITS["train"]) and folders <= _SPLIT_NAMES and all(len(p) > 1 for p in paths)
    chosen = list(range(len(paths)))
    if has_splits:
        split_of_path = [_split_of(p[0]) for p in paths]
        paths = _drop_wrapping_folders([p[1:] for p in paths])
        if split != "all":
            chosen = [i for i in chosen if split_of_path[i] == split]
        if not chosen:
            available = ", ".join(sorted(set(split_of_path)))
            raise NoSplitError(f"{source} has no {split} split", f"available: {available}, or all of them with all")
    elif split not in ("train", "all"):
        raise NoSplitError(
            f"{source} is not divided into splits, so there is no {split} split",
            "splits are folders named train, val and test; without them, choose train or all",
        )
    classes = _class_names(paths) if use_classes else []
    number = {name: i for i, name in enumerate(classes)}
    labels = [number[paths[i][0]] if number else 0 for i in chosen]
    return Layout(chosen, labels, tuple(classes))
