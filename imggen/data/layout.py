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
_LITTER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})

Parts = tuple[str, ...]


class NoSplitError(DataError):
    """The data has no such split, or is not divided at all."""


@dataclass(frozen=True)
class Layout:
    """Which of the given paths are taken (positions, in order), their classes and labels."""

    chosen: list[int]
    labels: list[int]
    classes: tuple[str, ...]


def is_hidden(path: str) -> bool:
    """True for what operating systems leave behind: dot files, `__MACOSX`, Thumbs.db."""
    return any(part.startswith(".") or part.lower() in _LITTER for part in path.split("/"))


def is_image_file(path: str) -> bool:
    """True when the extension is one of a picture that imggen reads."""
    return PurePosixPath(path).suffix.lower() in EXTENSIONS


def images_below(folder: Path) -> list[Path]:
    """The pictures anywhere in a folder, in the order of their names, as paths from there; no hidden ones."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if is_image_file(path.name) and path.is_file())
    return sorted(path for path in found if not is_hidden(path.as_posix()))


def _strip(paths: list[Parts]) -> list[Parts]:
    """Drop wrapping folders, but never a lone training folder: it says that there are splits."""
    while paths and len(paths[0]) > 1:
        first = paths[0][0]
        if first.lower() in SPLITS["train"] or any(len(p) < 2 or p[0] != first for p in paths):
            break
        paths = [p[1:] for p in paths]
    return paths


def _split_of(folder: str) -> str:
    return next(split for split, names in SPLITS.items() if folder.lower() in names)


def _class_names(paths: list[Parts]) -> list[str]:
    """First-level folders in order, or nothing when they do not make classes."""
    if any(len(p) < 2 for p in paths):
        return []
    names = {p[0] for p in paths}
    if len(names) < 2:
        return []
    if all(n.isascii() and n.isdigit() for n in names):
        return sorted(names, key=lambda n: (int(n), n))
    return sorted(names)


def arrange(names: list[str], split: str, use_classes: bool, source: str) -> Layout:
    """Read splits and classes off the folders of `names`; `source` is named in errors.

    Classes are those of all splits together, so that labels of train and test agree.
    """
    paths = _strip([tuple(name.split("/")) for name in names])
    folders = {p[0].lower() for p in paths if len(p) > 1}
    has_splits = bool(folders & SPLITS["train"]) and folders <= _SPLIT_NAMES and all(len(p) > 1 for p in paths)
    chosen = list(range(len(paths)))
    if has_splits:
        belongs = [_split_of(p[0]) for p in paths]
        paths = _strip([p[1:] for p in paths])
        if split != "all":
            chosen = [i for i in chosen if belongs[i] == split]
        if not chosen:
            there = ", ".join(sorted(set(belongs)))
            raise NoSplitError(
                f"{source} has no {split} split", f"it has: {there}; or take them together with split all"
            )
    elif split not in ("train", "all"):
        raise NoSplitError(
            f"{source} is not divided into splits, so there is no {split} split",
            "splits are folders named train, val and test; without them the only choices are train and all",
        )
    classes = _class_names(paths) if use_classes else []
    number = {name: i for i, name in enumerate(classes)}
    labels = [number[paths[i][0]] if number else 0 for i in chosen]
    return Layout(chosen, labels, tuple(classes))
