"""What a walk is made of, chosen before anything is drawn: keys, path, frames, classes; and the settings to keep."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import imggen
from imggen.engine.checkpoints import LoadedModel, open_model
from imggen.engine.device import precision_name
from imggen.engine.interpolation.keyframes import find_pictures
from imggen.engine.options import InterpolateOptions
from imggen.engine.outputs import LONGEST_SIDE, check_walk_output, output_kind
from imggen.engine.seeds import MAX_SEED, format_seeds, parse_seeds
from imggen.errors import UsageError
from imggen.io.animation import LONGEST_SIDE as LONGEST
from imggen.io.animation import animation_format
from imggen.models.base import Backend
from imggen.reporting import Reporter

MOST_FRAMES = 100_000
A_SEGMENT, A_SEGMENT_OF_A_STRIP = 40, 8
WIDEST_STRIP = 16


@dataclass(frozen=True)
class InterpolationPlan:
    """Everything that was left to choose, chosen; `cells` walks go side by side, each through keys of its own."""

    seeds: Sequence[int] | None
    pictures: list[Path]
    cells: int
    path: str
    loop: bool
    frames: int
    labels: tuple[int, int] | None

    @property
    def keys(self) -> int:
        """Of all cells."""
        return len(self.pictures) if self.seeds is None else len(self.seeds)

    @property
    def keys_a_cell(self) -> int:
        """Of one."""
        return self.keys // self.cells

    @property
    def parts(self) -> int:
        """Ways from key to key of one walk; a circle's two are taken for equally long."""
        return self.keys_a_cell if self.loop else self.keys_a_cell - 1

    def class_share(self, way: float) -> float:
        """How far from the first class to the second after a share `way` of the walk; a loop goes there and back."""
        return 1 - abs(2 * way - 1) if self.loop else way


def prepared(options: InterpolateOptions, reporter: Reporter) -> tuple[LoadedModel, InterpolationPlan, torch.dtype]:
    """The model, loaded, and what it is to draw. Errors as in `imggen.errors`."""
    check_walk_output(options)
    pictures = find_pictures([*options.start, *options.end])
    loaded = open_model(options, options.model, reporter, precision=options.precision)
    if options.steady and loaded.backend.detail_mask is None:
        raise UsageError(
            "what of this model's noise is details cannot be told", "leave --steady out; a vae with a ladder has layers"
        )
    chosen = _plan(options, pictures, loaded.backend)
    return loaded, chosen, loaded.dtype


def _plan(options: InterpolateOptions, pictures: list[Path], backend: Backend) -> InterpolationPlan:
    cells, loop = options.grid[0] * options.grid[1], options.loop or options.path == "circle"
    seeds: Sequence[int] | None = None
    if not pictures:
        first, count = options.seed or 0, (2 if options.path == "circle" else 4) * cells
        if first + count - 1 > MAX_SEED:
            raise UsageError(f"the seeds from {first} on are too large", f"the largest is {MAX_SEED}")
        seeds = range(first, first + count) if options.seeds is None else parse_seeds(options.seeds)
    count = len(pictures) if seeds is None else len(seeds)
    what = "pictures" if seeds is None else "seeds"
    if count > MOST_FRAMES:
        raise UsageError(f"{count:,} keys are too many", f"at most {MOST_FRAMES:,}")
    if count % cells:
        columns, rows = options.grid
        raise UsageError(f"{count} {what} do not make {cells} equal walks", f"--grid {columns}x{rows} wants {cells}, …")
    if count < 2 * cells:
        raise UsageError("a walk goes from one key to another", f"give {2 * cells} {what} or more")
    each = count // cells
    if options.path == "circle" and each != 2:
        raise UsageError(f"a circle goes through two keys, not {each}", "--path spline --loop takes any number")
    parts = 2 if options.path == "circle" else each if loop else each - 1
    frames = options.frames or parts * (A_SEGMENT_OF_A_STRIP if options.strip else A_SEGMENT) + (0 if loop else 1)
    if frames > MOST_FRAMES:
        raise UsageError(f"{frames:,} frames are too many", f"--frames {MOST_FRAMES} or fewer")
    if frames - (not loop) < parts:
        raise UsageError("there are more keys than frames", f"--frames {parts + (not loop)} or more")
    labels = _labels(options, backend)
    # The closed spline slows down where it closes, so that the closing step is not the one that is seen.
    path = options.path or ("spline" if loop else "slerp")
    chosen = InterpolationPlan(seeds, pictures, cells, path, loop, frames, labels)
    _check_size(options, chosen, backend)
    return chosen


def _labels(options: InterpolateOptions, backend: Backend) -> tuple[int, int] | None:
    if options.label is not None:
        one = backend.config.class_index(options.label)
        return one, one
    if options.label_from is None or options.label_to is None:
        return None
    return backend.config.class_index(options.label_from), backend.config.class_index(options.label_to)


def _check_size(options: InterpolateOptions, chosen: InterpolationPlan, backend: Backend) -> None:
    height, width = backend.config.image_shape[1:]
    most, path = LONGEST_SIDE, Path(options.output)
    if options.strip:
        columns = strip_columns(chosen)
        rows = math.ceil(chosen.frames * chosen.cells / columns)
    else:
        columns, rows = options.grid
        most = most if output_kind(options.output) == "folder" else min(most, LONGEST[animation_format(path)])
    if max(columns * (width + 2), rows * (height + 2)) * options.zoom > most:
        raise UsageError("the frames are too large for one file", "fewer --frames, a smaller --grid or --zoom")


def settings_of(
    options: InterpolateOptions, chosen: InterpolationPlan, loaded: LoadedModel, dtype: torch.dtype
) -> dict[str, Any]:
    """What a file remembers of how it was drawn, the command among it."""
    words = ["imggen", "interpolate", options.model if options.weights is None else str(options.weights)]
    if chosen.seeds is not None:
        keys: dict[str, Any] = {"seeds": format_seeds(chosen.seeds)}
        words += ["--seeds", keys["seeds"]]
    else:
        keys = {"pictures": [str(path) for path in chosen.pictures]}
        words += [word for path in options.start for word in ("--from", str(path))]
        words += [word for path in options.end for word in ("--to", str(path))]
    given: dict[str, Any] = {
        "--class": options.label,
        "--class-from": options.label_from,
        "--class-to": options.label_to,
    }
    given |= {"--" + name.replace("_", "-"): value for name, value in options.sampling.changed().items()}
    given["--path"] = chosen.path
    given["--ease"] = options.ease if options.ease != "none" else None
    given["--pace"] = options.pace if options.pace != "noise" else None
    given["--frames"] = chosen.frames
    given["--fps"] = f"{options.fps:g}" if options.fps != 25 and not options.strip else None
    given["--grid"] = "x".join(map(str, options.grid)) if chosen.cells > 1 else None
    given["--zoom"] = options.zoom if options.zoom > 1 else None
    given["--precision"] = precision_name(dtype) if dtype != torch.float32 else None
    words += [str(word) for name, value in given.items() if value is not None for word in (name, value)]
    words += ["--loop"] if chosen.loop and chosen.path != "circle" else []
    words += ["--strip"] if options.strip else []
    words += ["--steady"] if options.steady else []
    return {
        "imggen": imggen.__version__,
        "model": words[2],
        "hash": loaded.hash,
        **keys,
        **{name.lstrip("-"): value for name, value in given.items() if value is not None},
        "loop": chosen.loop,
        **({"steady": True} if options.steady else {}),
        "command": shlex.join([*words, "-o", Path(options.output).name + "/" * options.output.endswith("/")]),
    }


def strip_columns(chosen: InterpolationPlan) -> int:
    """A row a walk; one long walk is broken."""
    if chosen.cells > 1 or chosen.frames <= WIDEST_STRIP:
        return chosen.frames
    return math.ceil(math.sqrt(chosen.frames))
