"""What the paths of a source mean: wrapping folders, splits and classes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from imggen.errors import DataError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
UNLABELED = "unlabeled"
SPLITS = {
    "train": frozenset({"train", "training"}),
    "val": frozenset({"val", "valid", "validation"}),
    "test": frozenset({"test", "testing"}),
    UNLABELED: frozenset({"pred", "unlabeled", "unlabelled"}),  # read with --split all only
}
_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
_SEPARATORS = re.compile(r"[\W_]+")
_DOMAIN_NAME = re.compile(r"([Tt]rain|[Vv]al|[Tt]est)([A-Z])")
MAX_NAMED = 6
_SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})

Parts = tuple[str, ...]
"""A path split at its slashes."""


class NoSplitError(DataError):
    """The data has no such split, or no splits at all."""


@dataclass(frozen=True)
class Layout:
    """Indices of the paths that belong to the split, in order, their labels, and the names of the classes.

    `warnings` are lines for the user about folders whose meaning is doubtful.
    """

    chosen: list[int]
    labels: list[int]
    classes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def is_hidden(path: str) -> bool:
    """Whether a part of the path is a dot file or made by an operating system: `__MACOSX`, Thumbs.db, desktop.ini."""
    if path.startswith("."):
        return True
    if "/" not in path:  # of a folder's files, of which there may be a million
        return path.lower() in _SYSTEM_FILES
    return "/." in path or not _SYSTEM_FILES.isdisjoint(path.lower().split("/"))


def is_image_file(path: str) -> bool:
    """Whether the extension is that of an image format that imggen reads."""
    # Without pathlib, which would take most of the time of listing a large folder.
    dot = path.rfind(".")
    return dot > 0 and path[dot - 1] != "/" and path[dot:].lower() in EXTENSIONS


def relative_name(name: str) -> str:
    """The name of an archive's member without what would make it absolute, and without a leading "./"."""
    while name.startswith(("/", "./")):
        name = name.lstrip("/").removeprefix("./")
    return name


def _drop_wrapping_folders(paths: list[Parts]) -> list[Parts]:
    """Drop the leading folders common to all paths, except a folder named train, which means that there are splits."""
    while paths and len(paths[0]) > 1:
        first = paths[0][0]
        if first.lower() in SPLITS["train"] or any(len(p) < 2 or p[0] != first for p in paths):
            break
        paths = [p[1:] for p in paths]
    return paths


@dataclass(frozen=True)
class _SplitName:
    """The split that a folder's name contains, the rest of the name, and the letter of trainA and testB."""

    split: str
    rest: tuple[str, ...] = ()
    domain: str = ""


def _parse_split(folder: str) -> _SplitName | None:
    """The split in names such as train, test_set, seg_pred or trainA; None if there is none, or more than one."""
    if (match := _DOMAIN_NAME.fullmatch(folder)) is not None:
        return _SplitName(_SPLIT_OF[match[1].lower()], domain=match[2])
    words = [word for word in _SEPARATORS.split(folder.lower()) if word]
    splits = [_SPLIT_OF[word] for word in words if word in _SPLIT_OF]
    if len(splits) != 1:
        return None
    return _SplitName(splits[0], tuple(word for word in words if word not in _SPLIT_OF))


def _split_names(folders: Iterable[str]) -> dict[str, _SplitName] | None:
    """The split of each folder, if it is certain that they are splits and not classes, else None.

    They are if one is for training, and all are named alike but for the split: train and test, training_set and
    test_set, seg_train, seg_test and seg_pred, trainA, trainB, testA and testB.
    """
    found = {folder: _parse_split(folder) for folder in folders}
    names = {folder: name for folder, name in found.items() if name is not None}
    if len(names) < len(found) or not any(name.split == "train" for name in names.values()):
        return None
    if len({(name.rest, bool(name.domain)) for name in names.values()}) > 1:
        return None
    return names


def split_names_of(folders: Iterable[str]) -> dict[str, str] | None:
    """The split that each name stands for, or None if it is not certain that all of them are splits."""
    names = _split_names(folders)
    return None if names is None else {folder: name.split for folder, name in names.items()}


def is_split_name(folder: str) -> bool:
    """Whether a folder is named after a split alone: train, val, test, or another word for one of them."""
    return folder.lower() in _SPLIT_OF


def _inside_splits(paths: list[Parts], names: dict[str, _SplitName]) -> list[Parts]:
    """The paths below their split's folder; a letter of trainA becomes a folder; train/train/x.png becomes x.png."""
    repeated = dict.fromkeys(names, True)
    for path in paths:
        repeated[path[0]] &= len(path) > 2 and path[1].lower() == path[0].lower()
    inner = [path[2 if repeated[path[0]] else 1 :] for path in paths]
    domains = [names[path[0]].domain for path in paths]
    return [(domain, *path) if domain else path for domain, path in zip(domains, inner, strict=True)]


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

    The classes are those of all splits together, so that the labels of train and test agree. Names that differ only
    in how Unicode composes their letters are one class. Raises NoSplitError.
    """
    if split == "all" and not use_classes:
        return Layout(list(range(len(names))), [0] * len(names), ())
    paths = _drop_wrapping_folders([tuple(unicodedata.normalize("NFC", name).split("/")) for name in names])
    folders = {p[0] for p in paths if len(p) > 1}
    split_names = _split_names(folders) if folders and all(len(p) > 1 for p in paths) else None
    chosen = list(range(len(paths)))
    warnings: tuple[str, ...] = () if split_names or split == "all" else _doubtful_folders(paths, source)
    labeled = paths
    if split_names:
        split_of_path = [split_names[p[0]].split for p in paths]
        paths = _drop_wrapping_folders(_inside_splits(paths, split_names))
        labeled = _with_labels(paths, split_of_path)
        if split != "all":
            chosen = [i for i in chosen if split_of_path[i] == split]
        if not chosen:
            available = ", ".join(sorted(set(split_of_path) - {UNLABELED}))
            raise NoSplitError(f"{source} has no {split} split", f"available: {available}, or all of them with all")
    elif split not in ("train", "all"):
        raise NoSplitError(
            f"{source} is not divided into splits, so there is no {split} split",
            "splits are folders named train, val and test; without them, choose train or all",
        )
    number = {name: i for i, name in enumerate(_class_names(labeled) if use_classes else [])}
    with_class = [i for i in chosen if len(paths[i]) > 1 and paths[i][0] in number]
    if not with_class:
        return Layout(chosen, [0] * len(chosen), (), warnings)
    if len(with_class) < len(chosen):
        warnings = (*warnings, f"{source}: {len(chosen) - len(with_class):,} images without a class are left out")
    return Layout(with_class, [number[paths[i][0]] for i in with_class], tuple(number), warnings)


def _with_labels(paths: list[Parts], split_of_path: list[str]) -> list[Parts]:
    """The paths of splits that can have classes: test images without labels often lie in no folder."""
    has_folders = {split for path, split in zip(paths, split_of_path, strict=True) if len(path) > 1} - {UNLABELED}
    if "train" not in has_folders:
        return paths
    return [path for path, split in zip(paths, split_of_path, strict=True) if split in has_folders]


def _doubtful_folders(paths: list[Parts], source: str) -> tuple[str, ...]:
    """A warning if folders that are read as classes or as one set look like splits, though it is not certain."""
    splits_of: dict[str, set[str]] = {}
    for path in paths:
        if len(path) > 1:
            found = splits_of.setdefault(path[0], set())
            inner = _parse_split(path[1]) if len(path) > 2 else None
            found.add(inner.split if inner else "")
    named = {folder: name.split for folder in splits_of if (name := _parse_split(folder)) is not None}
    if "train" in named.values() and len(set(named.values())) > 1:
        return (
            f"{source}: {_listed(named)} look like splits, and all of them are read: "
            "rename them to train, val and test, or give one of them",
        )
    if splits_of and all("train" in found and len(found - {""}) > 1 for found in splits_of.values()):
        return (
            f"{source}: {_listed(splits_of)} hold folders that look like splits, and all of them are read: "
            "sort the images into train/CLASS and test/CLASS",
        )
    return ()


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:MAX_NAMED]) + (", …" if len(ordered) > MAX_NAMED else "")
