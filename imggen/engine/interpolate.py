"""Keys → a way through noise → frames → an animation, a folder or a strip; bounded memory for any number of frames."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.engine.draw import Item, draw, paint
from imggen.engine.keys import Keys, decibels, picture_keys, read_picture, seed_keys
from imggen.engine.options import InterpolateOptions
from imggen.engine.route import Plan, prepared, settings_of, strip_columns
from imggen.engine.run import exact_fps, output_kind
from imggen.engine.walk import Floats, Place, Segment, even_places, paced_places, probe_places, segments, unevenness
from imggen.io.animation import animation
from imggen.io.files import atomic_folder, atomic_write
from imggen.io.image import Bytes, encode, format_of, grid, quick_png
from imggen.io.seeds import format_seeds
from imggen.models.base import Backend
from imggen.reporting import Reporter

CLOSINGS = 17  # places that the last frame of a loop may take
STALE = re.compile(r"\d{5}\.png")


@dataclass(frozen=True)
class Spot:
    """One frame of one walk."""

    walk: Walk
    place: Place


@dataclass
class Walk:
    """One way through some keys, which are `first` and those after it; `places` are its frames'.

    `details` (*noise_shape), bool, says what of the noise stays the first key's all the way.
    """

    keys: Keys
    first: int
    parts: list[Segment]
    plan: Plan
    places: list[Place]
    details: Tensor | None = None

    def noise(self, place: Place) -> Tensor:
        """(*noise_shape): of one place."""
        part = self.parts[place.segment]
        shares = part.shares(np.array([place.share]))[0]
        total = torch.zeros_like(self.keys.noise[0])
        for key, share in zip(part.keys, shares.tolist(), strict=True):
            if share:
                total += share * self.keys.noise[self.first + key]
        return total if self.details is None else torch.where(self.details, self.keys.noise[self.first], total)

    def label(self, place: Place) -> tuple[int, int, float]:
        """The class left, the class that comes, and how far on the way to it."""
        if self.plan.labels is not None:
            part = self.parts[: place.segment]
            gone = sum(one.length for one in part) + place.share * self.parts[place.segment].length
            share = gone / sum(one.length for one in self.parts)
            return *self.plan.labels, self.plan.class_share(share)
        part_now = self.parts[place.segment]
        a, b = (part_now.keys[end] for end in part_now.ends)
        assert self.keys.labels is not None
        return int(self.keys.labels[self.first + a]), int(self.keys.labels[self.first + b]), place.share

    def exact(self, place: Place) -> Item | None:
        """The seed, and the class, whose picture `sample` draws is this frame; none where it is no seed's."""
        if self.keys.seeds is None or place.share not in (0.0, 1.0):
            return None
        part = self.parts[place.segment]
        key = part.keys[part.ends[int(place.share)]]
        if self.details is not None and key != 0:
            return None  # the seed's picture with the first one's details
        seed = self.keys.seeds[self.first + key]
        if self.plan.labels is None:
            return Item(seed)
        old, new, share = self.label(place)
        return Item(seed, old if share == 0 else new) if share in (0.0, 1.0) or old == new else None


class Studio:
    """What draws frames: the model arranged for speed, and how it was asked to draw."""

    def __init__(self, backend: Backend, options: InterpolateOptions, dtype: torch.dtype, reporter: Reporter) -> None:
        self.backend = backend.fused()
        self.device = next(backend.parameters()).device
        self.temperature = options.temperature
        self.paint = partial(
            paint,
            self.backend,
            render=self.render,
            finish=lambda _, pictures: pictures,
            batch=options.batch,
            precision=dtype,
            on_smaller=lambda size: reporter.warn(f"not enough memory: drawing {size} pictures at a time"),
        )
        self.one = partial(
            draw, self.backend, finish=lambda _, pictures: pictures, temperature=options.temperature, precision=dtype
        )

    def render(self, spots: list[Spot]) -> Tensor:
        """Pictures (B, C, H, W) of some places."""
        noise = torch.stack([spot.walk.noise(spot.place) for spot in spots]).to(self.device)
        if not self.backend.classes:
            return self.backend.generate(noise, None, temperature=self.temperature)
        ways = [spot.walk.label(spot.place) for spot in spots]
        old, new = (torch.tensor([way[end] for way in ways], device=self.device) for end in (0, 1))
        if torch.equal(old, new):
            return self.backend.generate(noise, old, temperature=self.temperature)
        share = torch.tensor([way[2] for way in ways], dtype=torch.float32, device=self.device)
        return self.backend.generate_between(noise, old, new, share, temperature=self.temperature)

    def stream(self, spots: Iterator[Spot]) -> Iterator[Bytes]:
        """Pictures (H, W, C) one by one."""
        for pictures in self.paint(spots):
            yield from pictures

    def exact(self, item: Item) -> Bytes:
        """The picture of a seed, drawn alone, as `sample -n 1` draws it: bit for bit the same."""
        picture: Bytes = next(self.one(items=[item]))[0]
        return picture


def interpolate(options: InterpolateOptions, reporter: Reporter) -> dict[str, Any]:
    """Draw a walk; returns paths, frames, seeds, how even the steps are, and timings. Errors as in `imggen.errors`."""
    began = time.monotonic()
    loaded, chosen, dtype = prepared(options, reporter)
    backend = loaded.backend
    studio = Studio(backend, options, dtype, reporter)
    pictures = [read_picture(path, backend) for path in chosen.pictures]
    keys = _keys(chosen, pictures, backend, reporter)
    walks = _walks(options, chosen, keys, backend.details if options.steady else None)
    result: dict[str, Any] = {"paths": [options.output], "frames": chosen.frames, "path": chosen.path}
    result |= {"loop": chosen.loop, "weights": str(loaded.path), "hash": loaded.hash, "device": str(studio.device)}
    if chosen.seeds is not None:
        result["seeds"] = format_seeds(chosen.seeds)
    else:
        result["pictures"] = _nearness(walks, keys, studio, reporter)
    if options.pace == "perceptual":
        for walk in walks:
            _pace(walk, options, studio, reporter)
    steps = Steps()
    frames = steps.watch(_frames(walks, chosen, options, studio, steps, reporter))
    _write(options, chosen, settings_of(options, chosen, loaded, dtype), frames)
    result["steps"] = steps.report(chosen.loop)
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def _keys(chosen: Plan, pictures: list[Bytes], backend: Backend, reporter: Reporter) -> Keys:
    if chosen.seeds is not None:
        return seed_keys(chosen.seeds, backend)
    labels = None
    if chosen.labels is not None:
        ways = [index % chosen.keys_a_cell / chosen.parts for index in range(len(pictures))]
        # A picture half-way is drawn in the class that comes, as `generate_between` does.
        labels = torch.tensor([chosen.labels[chosen.class_share(way) >= 0.5] for way in ways])
    return picture_keys(chosen.pictures, np.stack(pictures), backend, labels, reporter)


def _walks(options: InterpolateOptions, chosen: Plan, keys: Keys, details: Tensor | None) -> list[Walk]:
    walks = []
    for first in range(0, chosen.keys, chosen.keys_a_cell):
        inside = range(first, first + chosen.keys_a_cell)

        def alike(i: int, j: int, first: int = first) -> float:
            return keys.alike(first + i, first + j)

        parts = segments(chosen.path, len(inside), chosen.loop, alike, keys.sizes(inside))
        places = even_places(parts, chosen.frames, chosen.loop, options.ease)
        walks.append(Walk(keys, first, parts, chosen, places, details))
    return walks


def _nearness(walks: list[Walk], keys: Keys, studio: Studio, reporter: Reporter) -> list[dict[str, Any]]:
    """How near the walk comes to each given picture, said."""
    found = []
    assert keys.pictures is not None
    for walk in walks:
        last = len(walk.parts) - 1
        corners = [Place(index, 0.0) for index in range(len(walk.parts))]
        corners += [] if walk.plan.loop else [Place(last, 1.0)]
        drawn = studio.stream(Spot(walk, place) for place in corners)
        for index, picture in enumerate(drawn, walk.first):
            near = round(decibels(picture, keys.pictures[index]), 2)
            found.append({"path": keys.names[index], "db": near})
            other = ", with the first one's details" if walk.details is not None and index > walk.first else ""
            reporter.info(f"{keys.names[index]}: found again to {near:.1f} dB{other}")
    return found


def _pace(walk: Walk, options: InterpolateOptions, studio: Studio, reporter: Reporter) -> None:
    """Set the walk's places so that neighbouring frames look equally far apart."""
    probes = probe_places(walk.parts, walk.plan.frames)
    total = sum(map(len, probes))
    steps: list[Floats] = []
    with reporter.task("pacing", total) as task:
        drawn = studio.stream(Spot(walk, place) for part in probes for place in part)
        done = 0
        for part in probes:
            far: list[float] = []
            before: Bytes | None = None
            for _ in part:
                picture = next(drawn)
                far += [] if before is None else [distance(before, picture)]
                before, done = picture, done + 1
                task.update(done)
            steps.append(np.array(far))
    walk.places = paced_places(steps, walk.plan.frames, walk.plan.loop, options.ease)


def distance(first: Bytes, second: Bytes) -> float:
    """Root mean square of the differences, in levels of 255."""
    return float(np.sqrt(np.square(first.astype(np.float32) - second).mean()))


class Steps:
    """How far apart neighbouring frames are."""

    def __init__(self) -> None:
        self.far: list[float] = []
        self.first: Bytes | None = None
        self.last: Bytes | None = None

    def watch(self, frames: Iterator[Bytes]) -> Iterator[Bytes]:
        """The same frames, measured as they pass."""
        for frame in frames:
            if self.last is None:
                self.first = frame
            else:
                self.far.append(distance(self.last, frame))
            self.last = frame
            yield frame

    def report(self, loop: bool) -> dict[str, float]:
        """Median and largest step in levels, unevenness (deviation over mean), and the step that closes a loop."""
        if self.first is None or self.last is None or not self.far:
            return {}
        steps = np.array(self.far)
        found = {"median": float(np.median(steps)), "largest": float(steps.max()), "unevenness": unevenness(steps)}
        if loop:
            found["closing"] = distance(self.last, self.first)
        return {name: round(value, 3) for name, value in found.items()}


def _frames(
    walks: list[Walk], chosen: Plan, options: InterpolateOptions, studio: Studio, steps: Steps, reporter: Reporter
) -> Iterator[Bytes]:
    """Sheets (H, W, C), a frame each; in a strip every walk's picture by itself."""
    # The last frame of a loop is drawn by itself; not where it is a key, which stays what it is.
    closing = chosen.loop and chosen.frames > 2 and all(0 < walk.places[-1].share < 1 for walk in walks)
    count = chosen.frames - closing
    order = [(walk, place) for index in range(count) for walk in walks for place in (walk.places[index],)]
    drawn = studio.stream(Spot(walk, place) for walk, place in order if walk.exact(place) is None)
    cells: list[Bytes] = []
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


def _sheet(cells: list[Bytes], options: InterpolateOptions) -> Bytes:
    return np.stack(cells) if options.strip else enlarge(grid(np.stack(cells), options.grid[0]), options)


def _closing(walks: list[Walk], options: InterpolateOptions, studio: Studio, steps: Steps) -> Bytes:
    """The last frame of a loop: moved on towards the first, if need be, until the step between is no longer than most.

    A pace that is even in noise is not even to the eye, and where a loop closes everybody looks. At the very last it is
    the first frame once more, where nothing before is near enough (tokens flip, or nothing moves).
    """
    assert steps.first is not None and steps.last is not None
    for share in np.linspace(0, 1, CLOSINGS).tolist():
        places = [
            replace(walk.places[-1], share=np.interp(share, [0, 1], [walk.places[-1].share, 1])) for walk in walks
        ]
        drawn = studio.stream(Spot(walk, place) for walk, place in zip(walks, places, strict=True))
        sheet = _sheet(list(drawn), options)
        # Of all steps, the one to this frame among them: it, too, has a say in what most are.
        if distance(sheet, steps.first) <= float(np.median([*steps.far, distance(steps.last, sheet)])):
            break
    return sheet


def enlarge(picture: Bytes, options: InterpolateOptions) -> Bytes:
    """Every pixel `zoom` times as wide and high."""
    if options.zoom == 1:
        return picture
    larger: Bytes = np.repeat(np.repeat(picture, options.zoom, axis=-3), options.zoom, axis=-2)
    return larger


def _write(options: InterpolateOptions, chosen: Plan, info: dict[str, Any], frames: Iterator[Bytes]) -> None:
    path = Path(options.output)
    if options.strip:
        each = np.stack(list(frames))  # (frames, cells, H, W, C)
        rows = np.swapaxes(each, 0, 1).reshape(-1, *each.shape[2:])
        atomic_write(path, encode(grid(enlarge(rows, options), strip_columns(chosen)), format_of(path), info))
    elif output_kind(options.output) == "folder":
        with atomic_folder(path, STALE) as folder:
            for index, frame in enumerate(frames):
                (folder / f"{index:05d}.png").write_bytes(quick_png(frame, {**info, "frame": index}))
    else:
        with animation(path, exact_fps(options.fps), chosen.frames, info) as add:
            for frame in frames:
                add(frame)


def plan(options: InterpolateOptions, reporter: Reporter) -> dict[str, Any]:
    """What `interpolate` would do, resolved, without drawing."""
    loaded, chosen, dtype = prepared(options, reporter)
    settings = settings_of(options, chosen, loaded, dtype)
    return {**settings, "keys": chosen.keys, "frames": chosen.frames, "output": options.output}
