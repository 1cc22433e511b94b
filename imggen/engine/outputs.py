"""What lies in a run's folder, and what may be overwritten; no torch, so that refusals come at once."""

from __future__ import annotations

import math
import os
import re
import sys
from fractions import Fraction
from pathlib import Path

from imggen.engine.options import EvaluateOptions, InterpolateOptions, SampleOptions
from imggen.errors import DataError, UsageError
from imggen.io.animation import animation_format, check_speed
from imggen.io.image import format_of
from imggen.models.base import Backend

MIN_IMAGES_TO_COMPARE = 10  # pictures that can be compared
PATTERN = re.compile(r"[^%]*%(0\d{1,2})?d[^%]*")


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, or made, before any work is done. Raises DataError."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise DataError(f"{there} is a file, not a folder", "write elsewhere")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"{there} cannot be written to", "you may not write there: choose another folder")


def check_parent(path: Path) -> None:
    """Refuse a file in a folder that is not there, before any work is done. Raises UsageError."""
    parent = path.absolute().parent
    if not parent.exists():
        raise UsageError(f"there is no folder {path.parent}", "make it first, or write elsewhere")


def output_kind(output: str) -> str:
    """What `-o` asks for: "stdout", "pattern" (name-%05d.png), "grid" (one picture file) or "folder"."""
    if output == "-":
        return "stdout"
    if "%" in Path(output).name:
        return "pattern"
    return "grid" if Path(output).suffix and not output.endswith("/") else "folder"


def check_sample_output(options: SampleOptions) -> None:
    """Refuse to overwrite pictures or to fill a terminal with bytes. Raises UsageError."""
    kind = output_kind(options.output)
    path = Path(options.output)
    if kind == "stdout":
        if sys.stdout.isatty():
            raise UsageError("PNG bytes would fill the terminal", "pipe them: imggen sample … -o - > grid.png")
        return
    if kind != "folder":
        format_of(path)
    if kind == "pattern":
        if not PATTERN.fullmatch(path.name):
            raise UsageError(f"'{path.name}' needs one number, such as name-%05d.png")
        taken = _taken_by(path)
    elif kind == "grid":
        taken = path if path.exists() else None
    else:
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, not a folder", "give a picture's name or another folder")
        taken = path if path.is_dir() and any(map(_seen, path.iterdir())) else None
    check_writable(path if kind == "folder" else path.parent)
    if kind == "grid":
        check_parent(path)
    if taken is not None and not options.force and not (options.resume and kind != "grid"):
        more = ", --resume draws what is missing" if kind != "grid" else ""
        raise UsageError(f"{taken} already exists", f"--force overwrites it{more}")


def _seen(path: Path) -> bool:
    """What a killed process left half-written takes no place."""
    return not (path.name.startswith(".") and path.name.endswith(".part"))


def _taken_by(pattern: Path) -> Path | None:
    head, tail = pattern.name.split("%", 1)
    tail = tail.split("d", 1)[-1]
    if not pattern.parent.is_dir():
        return None
    for path in pattern.parent.iterdir():
        middle = path.name[len(head) : len(path.name) - len(tail)]
        if path.name.startswith(head) and path.name.endswith(tail) and middle.isdigit():
            return path
    return None


def check_report(options: EvaluateOptions) -> None:
    """Refuse too few pictures, to overwrite a report, or to make one of another kind. Raises UsageError, DataError."""
    if options.count < MIN_IMAGES_TO_COMPARE:
        raise UsageError(
            f"{options.count} pictures are too few to compare", f"-n {MIN_IMAGES_TO_COMPARE} or more; 10,000 are steady"
        )
    if options.output is None:
        return
    if options.output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the report is an HTML file, not '{options.output.name}'", "-o report.html")
    if options.output.exists() and not options.force:
        raise UsageError(f"{options.output} already exists", "--force overwrites it")
    check_parent(options.output)
    check_writable(options.output.absolute().parent)


def exact_fps(fps: float) -> Fraction:
    """25 or 29.97 as a fraction that files can hold."""
    return Fraction(fps).limit_denominator(1001)


def check_walk_output(options: InterpolateOptions) -> None:
    """Refuse to overwrite frames, and formats and speeds that cannot be. Raises UsageError, DataError."""
    path, kind = Path(options.output), output_kind(options.output)
    if kind in ("stdout", "pattern"):
        raise UsageError("a walk is a file or a folder of frames", "-o walk.gif, or -o frames/")
    if kind == "folder":
        if options.strip:
            raise UsageError("a strip is one picture", "-o strip.png")
        refuse_folder(path, options.force)
        return
    if options.strip:
        format_of(path)
    else:
        check_speed(animation_format(path), exact_fps(options.fps))
    refuse_file(path, options.force)


def refuse_file(path: Path, force: bool) -> None:
    """Refuse to overwrite a file unasked, or to write where nothing can be. Raises UsageError, DataError."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a file", "give a file's name")
    check_parent(path)
    check_writable(path.absolute().parent)
    if path.exists() and not force:
        raise UsageError(f"{path} already exists", "--force overwrites it")


def refuse_folder(path: Path, force: bool) -> None:
    """Refuse to write into a folder that holds something, unasked. Raises UsageError, DataError."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a folder", "give a file's name with an ending, or another folder")
    check_writable(path)
    if path.is_dir() and any(map(_seen, path.iterdir())) and not force:
        raise UsageError(f"{path} already exists", "--force writes into it")


LONGEST_SIDE = 16_000  # WebP ends at 16,383, and no viewer is happy with more


def check_grid(count: int, columns: int, backend: Backend) -> None:
    """Refuse a grid that no file holds. Raises UsageError."""
    height, width = backend.config.image_shape[1:]
    rows = math.ceil(count / columns)
    if max(columns * (width + 2), rows * (height + 2)) > LONGEST_SIDE:
        raise UsageError(f"a grid of {count:,} pictures is too large for one file", "fewer pictures, or -o folder/")
