"""Checks of outputs, used by several verbs: may this file or folder be written? Imports no torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from imggen.errors import DataError, UsageError

MAX_GRID_SIDE = 16_000  # pixels: WebP's limit is 16,383, and few viewers open larger images
NUMBERED_NAME = re.compile(r"[^%]*%(0\d{1,2})?d[^%]*")


def output_kind(output: str) -> str:
    """Classify the text of `-o`: "stdout" (-), "pattern" (name-%05d.png), "grid" (one image file) or "folder"."""
    if output == "-":
        return "stdout"
    if "%" in Path(output).name:
        return "pattern"
    return "grid" if Path(output).suffix and not output.endswith("/") else "folder"


def check_writable(folder: Path) -> None:
    """Raise DataError unless `folder`, or the nearest existing folder above it, can be written to."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise DataError(f"{existing} is a file, not a folder", "choose another output with -o")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise DataError(f"{existing} cannot be written to", "choose a folder that you may write to")


def _check_parent(path: Path) -> None:
    """Raise UsageError unless the folder of a file exists."""
    parent = path.absolute().parent
    if not parent.exists():
        raise UsageError(f"there is no folder {path.parent}", "create it first, or choose another output with -o")


def check_pattern(path: Path) -> None:
    """Raise UsageError unless the file's name has exactly one number, such as %05d."""
    if not NUMBERED_NAME.fullmatch(path.name):
        raise UsageError(f"'{path.name}' has no single %d for the seed", "such as name-%05d.png")


def is_occupied(folder: Path) -> bool:
    """Whether a folder exists and has files in it; unfinished files (.*.part) of a killed process do not count."""
    return folder.is_dir() and any(not _is_unfinished(path) for path in folder.iterdir())


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".part")


def refuse_file(path: Path, force: bool) -> None:
    """Raise UsageError or DataError if a file exists and `force` is not set, or if it cannot be written."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a file", "give a file's name")
    _check_parent(path)
    check_writable(path.absolute().parent)
    if path.exists() and not force:
        raise UsageError(f"{path} already exists", "--force overwrites it")


def refuse_folder(path: Path, force: bool) -> None:
    """Raise UsageError or DataError if a folder is not empty and `force` is not set, or if it cannot be written."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a folder", "give a file's name with an ending, or another folder")
    check_writable(path)
    if is_occupied(path) and not force:
        raise UsageError(f"{path} already exists", "--force writes into it")
