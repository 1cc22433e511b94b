"""Keys → a way through noise → frames → an animation, a folder or a strip; bounded memory for any number of frames."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.engine.interpolation.frames import FrameDistances, FramePoint, FrameRenderer, LatentWalk, distance
from imggen.engine.interpolation.keyframes import Keyframes, decibels, picture_keys, read_picture, seed_keys
from imggen.engine.interpolation.latent_path import (
    Floats,
    PathPoint,
    even_places,
    paced_places,
    probe_places,
    segments,
)
from imggen.engine.interpolation.plan import InterpolationPlan, prepared, settings_of, strip_columns
from imggen.engine.options import InterpolateOptions
from imggen.engine.outputs import exact_fps, output_kind
from imggen.engine.seeds import format_seeds
from imggen.io.animation import animation
from imggen.io.atomic import atomic_folder, atomic_write
from imggen.io.image import ImageArray, encode, encode_png_fast, format_of, grid
from imggen.models.base import Backend
from imggen.reporting import Reporter

CLOSINGS = 17  # places that the last frame of a loop may take
STALE = re.compile(r"\d{5}\.png")


def interpolate(options: InterpolateOptions, reporter: Reporter) -> dict[str, Any]:
    """Draw a walk; returns paths, frames, seeds, how even the steps are, and timings. Errors as in `imggen.errors`."""
    began = time.monotonic()
    loaded, chosen, dtype = prepared(options, reporter)
    backend = loaded.backend
    studio = FrameRenderer(backend, options, dtype, reporter)
    pictures = [read_picture(path, backend) for path in chosen.pictures]
    keys = _keys(options, chosen, pictures, backend, reporter)
    walks = _walks(options, chosen, keys, backend.detail_mask if options.steady else None)
    result: dict[str, Any] = {"paths": [options.output], "frames": chosen.frames, "path": chosen.path}
    result |= {"loop": chosen.loop, "weights": str(loaded.path), "hash": loaded.hash, "device": str(studio.device)}
    if chosen.seeds is not None:
        result["seeds"] = format_seeds(chosen.seeds)
    else:
        result["pictures"] = _nearness(walks, keys, studio, reporter)
    if options.pace == "perceptual":
        for walk in walks:
            _pace(walk, options, studio, reporter)
    steps = FrameDistances()
    frames = steps.watch(_frames(walks, chosen, options, studio, steps, reporter))
    _write(options, chosen, settings_of(options, chosen, loaded, dtype), frames)
    result["steps"] = steps.report(chosen.loop)
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def _keys(
    options: InterpolateOptions,
    chosen: InterpolationPlan,
    pictures: list[ImageArray],
    backend: Backend,
    reporter: Reporter,
) -> Keyframes:
    if chosen.seeds is not None:
        return seed_keys(chosen.seeds, backend)
    labels = None
    if chosen.labels is not None:
        ways = [index % chosen.keys_a_cell / chosen.parts for index in range(len(pictures))]
        # A picture half-way is drawn in the class that comes, as `generate_between` does.
        labels = torch.tensor([chosen.labels[chosen.class_share(way) >= 0.5] for way in ways])
    return picture_keys(chosen.pictures, np.stack(pictures), backend, labels, options.sampling, reporter)


def _walks(
    options: InterpolateOptions, chosen: InterpolationPlan, keys: Keyframes, details: Tensor | None
) -> list[LatentWalk]:
    walks = []
    for first in range(0, chosen.keys, chosen.keys_a_cell):
        inside = range(first, first + chosen.keys_a_cell)

        def alike(i: int, j: int, first: int = first) -> float:
            return keys.alike(first + i, first + j)

        parts = segments(chosen.path, len(inside), chosen.loop, alike, keys.sizes(inside))
        places = even_places(parts, chosen.frames, chosen.loop, options.ease)
        walks.append(LatentWalk(keys, first, parts, chosen, places, details))
    return walks


def _nearness(
    walks: list[LatentWalk], keys: Keyframes, studio: FrameRenderer, reporter: Reporter
) -> list[dict[str, Any]]:
    """How near the walk comes to each given picture, said."""
    found = []
    assert keys.pictures is not None
    for walk in walks:
        last = len(walk.parts) - 1
        corners = [PathPoint(index, 0.0) for index in range(len(walk.parts))]
        corners += [] if walk.plan.loop else [PathPoint(last, 1.0)]
        drawn = studio.stream(FramePoint(walk, place) for place in corners)
        for index, picture in enumerate(drawn, walk.first):
            near = round(decibels(picture, keys.pictures[index]), 2)
            found.append({"path": keys.names[index], "db": near})
            other = ", with the first one's details" if walk.details is not None and index > walk.first else ""
            reporter.info(f"{keys.names[index]}: found again to {near:.1f} dB{other}")
    return found


def _pace(walk: LatentWalk, options: InterpolateOptions, studio: FrameRenderer, reporter: Reporter) -> None:
    """Set the walk's places so that neighbouring frames look equally far apart."""
    probes = probe_places(walk.parts, walk.plan.frames)
    total = sum(map(len, probes))
    steps: list[Floats] = []
    with reporter.task("pacing", total) as task:
        drawn = studio.stream(FramePoint(walk, place) for part in probes for place in part)
        done = 0
        for part in probes:
            far: list[float] = []
            before: ImageArray | None = None
            for _ in part:
                picture = next(drawn)
                far += [] if before is None else [distance(before, picture)]
                before, done = picture, done + 1
                task.update(done)
            steps.append(np.array(far))
    walk.places = paced_places(steps, walk.plan.frames, walk.plan.loop, options.ease)


def _frames(
    walks: list[LatentWalk],
    chosen: InterpolationPlan,
    options: InterpolateOptions,
    studio: FrameRenderer,
    steps: FrameDistances,
    reporter: Reporter,
) -> Iterator[ImageArray]:
    """Sheets (H, W, C), a frame each; in a strip every walk's picture by itself."""
    # The last frame of a loop is drawn by itself; not where it is a key, which stays what it is.
    closing = chosen.loop and chosen.frames > 2 and all(0 < walk.places[-1].share < 1 for walk in walks)
    count = chosen.frames - closing
    order = [(walk, place) for index in range(count) for walk in walks for place in (walk.places[index],)]
    drawn = studio.stream(FramePoint(walk, place) for walk, place in order if walk.exact(place) is None)
    cells: list[ImageArray] = []
    done, began = 0, time.monotonic()
    with reporter.task("drawing", chosen.frames) as task:
        for walk, place in order:
            item = walk.exact(place)
            cells.append(next(drawn) if item is None else studio.exact(item))
            if len(cells) == chosen.cells:
                done += 1
                task.update(done, f"{done / max(time.monotonic() - began, 1e-9):,.0f} frames/s")
                yield _sheet(cells, options)
                cells = []
        if closing:
            yield _closing(walks, options, studio, steps)
            task.update(chosen.frames)


def _sheet(cells: list[ImageArray], options: InterpolateOptions) -> ImageArray:
    return np.stack(cells) if options.strip else enlarge(grid(np.stack(cells), options.grid[0]), options)


def _closing(
    walks: list[LatentWalk], options: InterpolateOptions, studio: FrameRenderer, steps: FrameDistances
) -> ImageArray:
    """The last frame of a loop: moved on towards the first, if need be, until the step between is no longer than most.

    A pace that is even in noise is not even to the eye, and where a loop closes everybody looks. At the very last it is
    the first frame once more, where nothing before is near enough (tokens flip, or nothing moves).
    """
    assert steps.first is not None and steps.last is not None
    for share in np.linspace(0, 1, CLOSINGS).tolist():
        places = [
            replace(walk.places[-1], share=np.interp(share, [0, 1], [walk.places[-1].share, 1])) for walk in walks
        ]
        drawn = studio.stream(FramePoint(walk, place) for walk, place in zip(walks, places, strict=True))
        sheet = _sheet(list(drawn), options)
        # Of all steps, the one to this frame among them: it, too, has a say in what most are.
        if distance(sheet, steps.first) <= float(np.median([*steps.far, distance(steps.last, sheet)])):
            break
    return sheet


def enlarge(picture: ImageArray, options: InterpolateOptions) -> ImageArray:
    """Every pixel `zoom` times as wide and high."""
    if options.zoom == 1:
        return picture
    larger: ImageArray = np.repeat(np.repeat(picture, options.zoom, axis=-3), options.zoom, axis=-2)
    return larger


def _write(
    options: InterpolateOptions, chosen: InterpolationPlan, info: dict[str, Any], frames: Iterator[ImageArray]
) -> None:
    path = Path(options.output)
    if options.strip:
        each = np.stack(list(frames))  # (frames, cells, H, W, C)
        rows = np.swapaxes(each, 0, 1).reshape(-1, *each.shape[2:])
        atomic_write(path, encode(grid(enlarge(rows, options), strip_columns(chosen)), format_of(path), info))
    elif output_kind(options.output) == "folder":
        with atomic_folder(path, STALE) as folder:
            for index, frame in enumerate(frames):
                (folder / f"{index:05d}.png").write_bytes(encode_png_fast(frame, {**info, "frame": index}))
    else:
        with animation(path, exact_fps(options.fps), chosen.frames, info) as add:
            for frame in frames:
                add(frame)


def plan(options: InterpolateOptions, reporter: Reporter) -> dict[str, Any]:
    """What `interpolate` would do, resolved, without drawing."""
    loaded, chosen, dtype = prepared(options, reporter)
    settings = settings_of(options, chosen, loaded, dtype)
    return {**settings, "keys": chosen.keys, "frames": chosen.frames, "output": options.output}
