"""What is decided before a model is loaded: keyframes, path and number of frames. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from imggen.data.files import images_below
from imggen.engine.options import InterpolateOptions
from imggen.engine.seeds import parse_seeds, seed_range
from imggen.errors import UsageError
from imggen.reporting import Reporter

MAX_FRAMES = 100_000
FRAMES_PER_SEGMENT, STRIP_FRAMES_PER_SEGMENT = 40, 8
MAX_STRIP_COLUMNS = 16


@dataclass(frozen=True)
class InterpolationPlan:
    """`cells` paths are rendered side by side, each through its own keyframes: seeds, or else images.

    `frames` counts those of one path. `labels` are the classes at its start and at its end (of a loop, at its middle);
    if None, every keyframe has its own class, or the model has no classes.
    """

    seeds: Sequence[int] | None
    images: list[Path]
    cells: int
    path: str
    loop: bool
    frames: int
    labels: tuple[int, int] | None = None

    @property
    def num_keyframes(self) -> int:
        """Keyframes of all cells."""
        return len(self.images) if self.seeds is None else len(self.seeds)

    @property
    def keyframes_per_cell(self) -> int:
        """Keyframes of one path."""
        return self.num_keyframes // self.cells

    @property
    def segments_per_cell(self) -> int:
        """Segments of one path, from keyframe to keyframe."""
        return self.keyframes_per_cell if self.loop else self.keyframes_per_cell - 1

    def class_fraction(self, t: float) -> float:
        """How far the class has changed, 0 to 1, at a fraction `t` of the path; in a loop it also changes back."""
        return 1 - abs(2 * t - 1) if self.loop else t


def make_plan(options: InterpolateOptions, reporter: Reporter) -> InterpolationPlan:
    """Choose keyframes, path and number of frames. Raises UsageError, and DataError for a folder without images."""
    images = find_images([*options.start, *options.end], Path(options.output), reporter)
    columns, rows = options.grid
    cells, loop = columns * rows, options.loop or options.path == "circle"
    seeds = None if images else _choose_seeds(options, cells)
    count = len(images) if seeds is None else len(seeds)
    _check_keyframes(options, count, "images" if seeds is None else "seeds", cells)

    segments = count // cells if loop else count // cells - 1
    per_segment = STRIP_FRAMES_PER_SEGMENT if options.strip else FRAMES_PER_SEGMENT
    frames = options.frames or segments * per_segment + (not loop)
    if frames > MAX_FRAMES:
        raise UsageError(f"{frames:,} frames are too many", f"--frames {MAX_FRAMES} or fewer")
    if frames - (not loop) < segments:
        raise UsageError("there are more keyframes than frames", f"--frames {segments + (not loop)} or more")
    # A closed spline slows down where the loop closes, so that its last step does not stand out.
    path = options.path or ("spline" if loop else "slerp")
    return InterpolationPlan(seeds, images, cells, path, loop, frames)


def _choose_seeds(options: InterpolateOptions, cells: int) -> Sequence[int]:
    if options.seeds is not None:
        return parse_seeds(options.seeds)
    return seed_range(options.seed or 0, (2 if options.path == "circle" else 4) * cells)


def _check_keyframes(options: InterpolateOptions, count: int, what: str, cells: int) -> None:
    if count > MAX_FRAMES:
        raise UsageError(f"{count:,} keyframes are too many", f"at most {MAX_FRAMES:,}")
    if count % cells:
        columns, rows = options.grid
        raise UsageError(
            f"{count} {what} cannot be divided into {cells} equal paths",
            f"with --grid {columns}x{rows}, give a multiple of {cells} {what}",
        )
    if count < 2 * cells:
        raise UsageError("a path needs at least two keyframes", f"give {2 * cells} {what} or more")
    if options.path == "circle" and count != 2 * cells:
        raise UsageError(
            f"a circle goes through two keyframes, not {count // cells}", "--path spline --loop takes any number"
        )


def find_images(paths: Sequence[Path], output: Path, reporter: Reporter) -> list[Path]:
    """Files as they are, and the images of folders in the order of their names, but for the output's.

    Raises DataError.
    """
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            names, left_out = images_below(path, [output])
            left_out.report(str(path), reporter)
            images += [path / name for name in names]
        else:
            images.append(path)
    return images


def exact_fps(fps: float) -> Fraction:
    """25.0 or 29.97 as a fraction that the animation formats can store."""
    return Fraction(fps).limit_denominator(1001)


def strip_columns(plan: InterpolationPlan) -> int:
    """Columns of a strip: one row per path, but a single long path is broken into rows of equal length."""
    if plan.cells > 1 or plan.frames <= MAX_STRIP_COLUMNS:
        return plan.frames
    return math.ceil(math.sqrt(plan.frames))
