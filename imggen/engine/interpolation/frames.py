"""The frames of a walk: what each shows, and how they are rendered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from imggen.engine.interpolation.keyframes import Keyframes
from imggen.engine.interpolation.latent_path import (
    PathPoint,
    Segment,
    unevenness,
)
from imggen.engine.interpolation.plan import InterpolationPlan
from imggen.engine.noise import SampleSpec
from imggen.engine.options import InterpolateOptions
from imggen.engine.render import render_batches, sample_batches
from imggen.io.image import ImageArray
from imggen.models.base import Backend
from imggen.reporting import Reporter


@dataclass(frozen=True)
class FramePoint:
    """One frame of one walk."""

    walk: LatentWalk
    place: PathPoint


@dataclass
class LatentWalk:
    """One way through some keys, which are `first` and those after it; `places` are its frames'.

    `details` (*noise_shape), bool, says what of the noise stays the first key's all the way.
    """

    keys: Keyframes
    first: int
    parts: list[Segment]
    plan: InterpolationPlan
    places: list[PathPoint]
    details: Tensor | None = None

    def noise(self, place: PathPoint) -> Tensor:
        """(*noise_shape): of one place."""
        part = self.parts[place.segment]
        shares = part.shares(np.array([place.share]))[0]
        total = torch.zeros_like(self.keys.noise[0])
        for key, share in zip(part.keys, shares.tolist(), strict=True):
            if share:
                total += share * self.keys.noise[self.first + key]
        return total if self.details is None else torch.where(self.details, self.keys.noise[self.first], total)

    def label(self, place: PathPoint) -> tuple[int, int, float]:
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

    def exact(self, place: PathPoint) -> SampleSpec | None:
        """The seed, and the class, whose picture `sample` draws is this frame; none where it is no seed's."""
        if self.keys.seeds is None or place.share not in (0.0, 1.0):
            return None
        part = self.parts[place.segment]
        key = part.keys[part.ends[int(place.share)]]
        if self.details is not None and key != 0:
            return None  # the seed's picture with the first one's details
        seed = self.keys.seeds[self.first + key]
        if self.plan.labels is None:
            return SampleSpec(seed)
        old, new, share = self.label(place)
        return SampleSpec(seed, old if share == 0 else new) if share in (0.0, 1.0) or old == new else None


class FrameRenderer:
    """What draws frames: the model arranged for speed, and how it was asked to draw."""

    def __init__(self, backend: Backend, options: InterpolateOptions, dtype: torch.dtype, reporter: Reporter) -> None:
        self.backend = backend.for_inference()
        self.device = backend.device
        self.options = options.sampling
        self.paint = partial(
            render_batches,
            self.backend,
            render=self.render,
            finish=lambda _, pictures: pictures,
            batch=options.batch,
            precision=dtype,
            on_smaller=lambda size: reporter.warn(f"not enough memory: drawing {size} pictures at a time"),
        )
        self.one = partial(
            sample_batches,
            self.backend,
            finish=lambda _, pictures: pictures,
            options=options.sampling,
            precision=dtype,
        )

    def render(self, spots: list[FramePoint]) -> Tensor:
        """Pictures (B, C, H, W) of some places."""
        noise = torch.stack([spot.walk.noise(spot.place) for spot in spots]).to(self.device)
        if not self.backend.classes:
            return self.backend.generate(noise, None, self.options)
        ways = [spot.walk.label(spot.place) for spot in spots]
        old, new = (torch.tensor([way[end] for way in ways], device=self.device) for end in (0, 1))
        if torch.equal(old, new):
            return self.backend.generate(noise, old, self.options)
        share = torch.tensor([way[2] for way in ways], dtype=torch.float32, device=self.device)
        # The class changes half-way, so that every frame is an image of one class.
        return self.backend.generate(noise, torch.where(share < 0.5, old, new), self.options)

    def stream(self, spots: Iterator[FramePoint]) -> Iterator[ImageArray]:
        """Pictures (H, W, C) one by one."""
        for pictures in self.paint(spots):
            yield from pictures

    def exact(self, item: SampleSpec) -> ImageArray:
        """The picture of a seed, drawn alone, as `sample -n 1` draws it: bit for bit the same."""
        picture: ImageArray = next(self.one(items=[item]))[0]
        return picture


def distance(first: ImageArray, second: ImageArray) -> float:
    """Root mean square of the differences, in levels of 255."""
    return float(np.sqrt(np.square(first.astype(np.float32) - second).mean()))


class FrameDistances:
    """How far apart neighbouring frames are."""

    def __init__(self) -> None:
        self.far: list[float] = []
        self.first: ImageArray | None = None
        self.last: ImageArray | None = None

    def watch(self, frames: Iterator[ImageArray]) -> Iterator[ImageArray]:
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
