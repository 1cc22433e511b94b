"""Keyframes to a path through the latent space to frames in an animation, a folder or a strip.

Memory is bounded for any number of frames, except in a strip.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imggen.engine.checkpoints import LoadedModel, open_model
from imggen.engine.interpolation.frames import FrameDistances, FrameRenderer, LatentPath, rms_distance
from imggen.engine.interpolation.keyframes import Keyframes, image_keyframes, psnr, read_image, seed_keyframes
from imggen.engine.interpolation.latent_path import (
    Floats,
    PathPoint,
    even_points,
    make_segments,
    paced_points,
    probe_points,
)
from imggen.engine.interpolation.plan import InterpolationPlan, exact_fps, strip_columns
from imggen.engine.options import InterpolateOptions
from imggen.engine.outputs import MAX_GRID_SIDE, output_kind
from imggen.engine.provenance import settings
from imggen.engine.seeds import format_seeds
from imggen.errors import UsageError
from imggen.io.animation import animation, animation_format
from imggen.io.atomic import atomic_folder, atomic_write
from imggen.io.formats import LONGEST_SIDE
from imggen.io.image import ImageArray, encode, encode_png_fast, format_of, grid
from imggen.models.base import Backend
from imggen.reporting import Reporter

CLOSING_CANDIDATES = 17  # points that are tried for the last frame of a loop
FRAME_NAME = re.compile(r"\d{5}\.png")


def interpolate(options: InterpolateOptions, plan: InterpolationPlan, reporter: Reporter) -> dict[str, Any]:
    """Render and write the frames; see `imggen.engine.interpolation.run`."""
    began = time.monotonic()
    loaded, plan = _open_model(options, plan, reporter)
    renderer = FrameRenderer(loaded, options, reporter)
    result: dict[str, Any] = {
        "paths": [options.output],
        "frames": plan.frames,
        "path": plan.path,
        "loop": plan.loop,
        "weights": str(loaded.path),
        "hash": loaded.hash,
        "device": str(renderer.device),
    }

    # Choose the points of the frames
    keyframes = _make_keyframes(options, plan, loaded.backend, reporter)
    paths = _make_paths(options, plan, keyframes, loaded.backend)
    if plan.seeds is not None:
        result["seeds"] = format_seeds(plan.seeds)
    else:
        result["images"] = _report_inversions(paths, plan, renderer, reporter)
    if options.pace == "perceptual":
        for path in paths:
            _pace(path, plan, options, renderer, reporter)

    # Render and write the frames
    distances = FrameDistances()
    with (
        _open_output(options, plan, _settings(options, plan, loaded)) as write,
        reporter.task("interpolating", plan.frames) as task,
    ):
        rendering_began = time.monotonic()
        for number, frame in enumerate(_render_frames(paths, plan, options, renderer), 1):
            distances.add(frame)
            write(frame)
            task.update(number, f"{number / max(time.monotonic() - rendering_began, 1e-9):,.0f} frames/s")
        if _has_closing_frame(paths, plan):
            frame = _closing_frame(paths, options, renderer, distances)
            distances.add(frame)
            write(frame)
            task.update(plan.frames)
    result["steps"] = distances.statistics(plan.loop)
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def describe_plan(options: InterpolateOptions, plan: InterpolationPlan, reporter: Reporter) -> dict[str, Any]:
    """What `interpolate` would do; see `imggen.engine.interpolation.dry_run`."""
    loaded, plan = _open_model(options, plan, reporter)
    return {**_settings(options, plan, loaded), "keyframes": plan.num_keyframes, "output": options.output}


def _open_model(
    options: InterpolateOptions, plan: InterpolationPlan, reporter: Reporter
) -> tuple[LoadedModel, InterpolationPlan]:
    """The model, and the plan with the classes that were asked for.

    Raises UsageError for what this model cannot do, CheckpointError and DeviceError.
    """
    loaded = open_model(options, options.model, reporter, precision=options.precision)
    backend = loaded.backend
    if options.steady and backend.detail_mask is None:
        raise UsageError(
            "this model has no separate noise for details", "leave --steady out; a vae with several layers has it"
        )
    plan = replace(plan, labels=_find_labels(options, backend))
    _check_size(options, plan, backend)
    return loaded, plan


def _find_labels(options: InterpolateOptions, backend: Backend) -> tuple[int, int] | None:
    """The labels of --class, or of --class-from and --class-to."""
    if options.label is not None:
        label = backend.config.class_index(options.label)
        return label, label
    if options.label_from is None or options.label_to is None:
        return None
    return backend.config.class_index(options.label_from), backend.config.class_index(options.label_to)


def _check_size(options: InterpolateOptions, plan: InterpolationPlan, backend: Backend) -> None:
    """Raise UsageError if a frame, or the strip, is larger than the output's format supports."""
    height, width = backend.config.image_shape[1:]
    max_side = MAX_GRID_SIDE
    columns, rows = options.grid
    if options.strip:
        columns = strip_columns(plan)
        rows = math.ceil(plan.frames * plan.cells / columns)
    elif output_kind(options.output) != "folder":
        max_side = min(max_side, LONGEST_SIDE[animation_format(Path(options.output))])
    if max(columns * (width + 2), rows * (height + 2)) * options.zoom > max_side:
        raise UsageError("the frames are too large for one file", "fewer --frames, a smaller --grid or --zoom")


def _make_keyframes(
    options: InterpolateOptions, plan: InterpolationPlan, backend: Backend, reporter: Reporter
) -> Keyframes:
    if plan.seeds is not None:
        return seed_keyframes(plan.seeds, backend)
    images = np.stack([read_image(path, backend) for path in plan.images])
    labels = None
    if plan.labels is not None:
        # Each image is inverted in the class that its frame will have.
        positions = [index % plan.keyframes_per_cell / plan.segments_per_cell for index in range(len(images))]
        labels = torch.tensor([plan.labels[plan.class_fraction(position) >= 0.5] for position in positions])
    return image_keyframes(plan.images, images, backend, labels, options.sampling, reporter)


def _make_paths(
    options: InterpolateOptions, plan: InterpolationPlan, keyframes: Keyframes, backend: Backend
) -> list[LatentPath]:
    """One path for each cell, with its frames at equal steps in noise."""
    fixed_noise = backend.detail_mask if options.steady else None
    count = plan.keyframes_per_cell
    paths = []
    for first in range(0, plan.num_keyframes, count):

        def cosine_similarity(i: int, j: int, first: int = first) -> float:
            return keyframes.cosine_similarity(first + i, first + j)

        rms = keyframes.rms(range(first, first + count))
        segments = make_segments(plan.path, count, plan.loop, cosine_similarity, rms)
        points = even_points(segments, plan.frames, plan.loop, options.ease)
        paths.append(LatentPath(keyframes, first, segments, plan.labels, plan.class_fraction, points, fixed_noise))
    return paths


def _report_inversions(
    paths: list[LatentPath], plan: InterpolationPlan, renderer: FrameRenderer, reporter: Reporter
) -> list[dict[str, Any]]:
    """Report, and return, how near each inverted keyframe comes to the given image."""
    reports = []
    for path in paths:
        keyframes = path.keyframes
        assert keyframes.images is not None
        points = [PathPoint(index, 0.0) for index in range(len(path.segments))]
        points += [] if plan.loop else [PathPoint(len(path.segments) - 1, 1.0)]
        for index, frame in enumerate(renderer.frames((path, point) for point in points), path.first):
            decibels = round(psnr(frame, keyframes.images[index]), 2)
            reports.append({"path": keyframes.names[index], "db": decibels})
            note = ", with the first one's details" if path.fixed_noise is not None and index > path.first else ""
            reporter.info(f"{keyframes.names[index]}: reconstructed to {decibels:.1f} dB{note}")
    return reports


def _pace(
    path: LatentPath, plan: InterpolationPlan, options: InterpolateOptions, renderer: FrameRenderer, reporter: Reporter
) -> None:
    """Move the path's points so that neighboring frames differ by equal amounts."""
    probes = probe_points(path.segments, plan.frames)
    distances: list[Floats] = []
    done = 0
    with reporter.task("pacing", sum(map(len, probes))) as task:
        frames = renderer.frames((path, point) for segment in probes for point in segment)
        for segment in probes:
            steps = FrameDistances()
            for _ in segment:
                steps.add(next(frames))
                done += 1
                task.update(done)
            distances.append(np.array(steps.distances))
    path.points = paced_points(distances, plan.frames, plan.loop, options.ease)


def _has_closing_frame(paths: list[LatentPath], plan: InterpolationPlan) -> bool:
    """Whether the last frame is chosen by `_closing_frame`: that of a loop, unless it is a keyframe."""
    return plan.loop and plan.frames > 2 and all(0 < path.points[-1].t < 1 for path in paths)


def _render_frames(
    paths: list[LatentPath], plan: InterpolationPlan, options: InterpolateOptions, renderer: FrameRenderer
) -> Iterator[ImageArray]:
    """Yield every frame but the closing one, as `_compose` makes it of the cells."""
    count = plan.frames - _has_closing_frame(paths, plan)
    order = [(path, path.points[index]) for index in range(count) for path in paths]
    rendered = renderer.frames((path, point) for path, point in order if path.seed_at(point) is None)
    cells: list[ImageArray] = []
    for path, point in order:
        spec = path.seed_at(point)
        cells.append(next(rendered) if spec is None else renderer.sample(spec))
        if len(cells) == plan.cells:
            yield _compose(cells, options)
            cells = []


def _closing_frame(
    paths: list[LatentPath], options: InterpolateOptions, renderer: FrameRenderer, distances: FrameDistances
) -> ImageArray:
    """The last frame of a loop, moved towards the first until the step between them is at most the median step.

    Equal steps in noise are not equal to the eye, and a jump where the loop closes is the most visible. If no point
    before the end is near enough (a token flips, or nothing moves), the last frame equals the first.
    """
    assert distances.first is not None and distances.last is not None
    for fraction in np.linspace(0, 1, CLOSING_CANDIDATES).tolist():
        points = [
            (path, replace(path.points[-1], t=np.interp(fraction, [0, 1], [path.points[-1].t, 1]))) for path in paths
        ]
        frame = _compose(list(renderer.frames(iter(points))), options)
        # The median of all steps includes the one to this frame.
        median = float(np.median([*distances.distances, rms_distance(distances.last, frame)]))
        if rms_distance(frame, distances.first) <= median:
            break
    return frame


def _compose(cells: list[ImageArray], options: InterpolateOptions) -> ImageArray:
    """One frame of all cells: a grid (H, W, C), or in a strip the cells by themselves (cells, H, W, C)."""
    return np.stack(cells) if options.strip else _enlarge(grid(np.stack(cells), options.grid[0]), options.zoom)


def _enlarge(image: ImageArray, zoom: int) -> ImageArray:
    """Repeat every pixel of (…, H, W, C) `zoom` times in both directions."""
    return image if zoom == 1 else np.repeat(np.repeat(image, zoom, axis=-3), zoom, axis=-2)


@contextmanager
def _open_output(
    options: InterpolateOptions, plan: InterpolationPlan, info: dict[str, Any]
) -> Iterator[Callable[[ImageArray], None]]:
    """Yield a function that writes one frame; the output appears, complete, when the block ends without an error."""
    path = Path(options.output)
    if options.strip:
        frames: list[ImageArray] = []
        yield frames.append
        images = np.stack(frames, 1)  # (cells, frames, H, W, C)
        cells = _enlarge(images.reshape(-1, *images.shape[2:]), options.zoom)
        atomic_write(path, encode(grid(cells, strip_columns(plan)), format_of(path), info))
    elif output_kind(options.output) == "folder":
        count = 0

        def write_file(frame: ImageArray) -> None:
            nonlocal count
            (folder / f"{count:05d}.png").write_bytes(encode_png_fast(frame, {**info, "frame": count}))
            count += 1

        with atomic_folder(path, FRAME_NAME) as folder:
            yield write_file
    else:
        with animation(path, exact_fps(options.fps), plan.frames, info) as add:
            yield add


def _settings(options: InterpolateOptions, plan: InterpolationPlan, loaded: LoadedModel) -> dict[str, Any]:
    """The settings stored in every file, with the command that makes it again."""
    return settings(
        "interpolate",
        options,
        loaded,
        seed=None,
        seeds=None if plan.seeds is None else format_seeds(plan.seeds),
        path=plan.path,
        loop=plan.loop,
        frames=plan.frames,
        output=Path(options.output).name + "/" * options.output.endswith("/"),
    )
