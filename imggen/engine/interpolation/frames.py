"""The frames of an interpolation: the noise and the class of each, rendering, and the distances between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from imggen.engine.checkpoints import LoadedModel
from imggen.engine.interpolation.keyframes import Keyframes
from imggen.engine.interpolation.latent_path import PathPoint, Segment, unevenness
from imggen.engine.noise import SampleSpec
from imggen.engine.options import InterpolateOptions
from imggen.engine.render import render_batches, sample_batches
from imggen.io.image import ImageArray
from imggen.reporting import Reporter


@dataclass
class LatentPath:
    """One path through consecutive keyframes, of which the first has the index `first`.

    labels: the classes at the start and at the end; if None, every keyframe has its own class.
    class_fraction: how far the class has changed, 0 to 1, at a fraction of the path.
    points: one for each frame.
    fixed_noise: (*noise_shape), bool: elements of the noise that stay those of the first keyframe; None for none.
    """

    keyframes: Keyframes
    first: int
    segments: list[Segment]
    labels: tuple[int, int] | None
    class_fraction: Callable[[float], float]
    points: list[PathPoint]
    fixed_noise: Tensor | None = None

    def noise(self, point: PathPoint) -> Tensor:
        """The noise (*noise_shape) at a point."""
        segment = self.segments[point.segment]
        weights = segment.weights(np.array([point.t]))[0]
        total = torch.zeros_like(self.keyframes.noise[0])
        for index, weight in zip(segment.keyframes, weights.tolist(), strict=True):
            if weight:
                total += weight * self.keyframes.noise[self.first + index]
        if self.fixed_noise is None:
            return total
        return torch.where(self.fixed_noise, self.keyframes.noise[self.first], total)

    def label(self, point: PathPoint) -> int:
        """The class at a point; it changes half-way, so that every frame is an image of one class."""
        old, new, fraction = self._class_change(point)
        return old if np.float32(fraction) < 0.5 else new  # float32: ignores rounding errors at 0.5

    def _class_change(self, point: PathPoint) -> tuple[int, int, float]:
        """The class before and after a point, and how far it has changed, 0 to 1."""
        segment = self.segments[point.segment]
        if self.labels is not None:
            traveled = sum(part.length for part in self.segments[: point.segment]) + point.t * segment.length
            return *self.labels, self.class_fraction(traveled / sum(part.length for part in self.segments))
        assert self.keyframes.labels is not None
        a, b = (self.first + segment.keyframes[end] for end in segment.ends)
        return int(self.keyframes.labels[a]), int(self.keyframes.labels[b]), point.t

    def seed_at(self, point: PathPoint) -> SampleSpec | None:
        """The seed and class whose sample is the frame at a point; None if it is not the sample of a seed."""
        if self.keyframes.seeds is None or point.t not in (0.0, 1.0):
            return None
        segment = self.segments[point.segment]
        index = segment.keyframes[segment.ends[int(point.t)]]
        if self.fixed_noise is not None and index != 0:
            return None  # a part of its noise is the first keyframe's
        seed = self.keyframes.seeds[self.first + index]
        if self.labels is None:
            return SampleSpec(seed)
        old, new, fraction = self._class_change(point)
        is_one_class = fraction in (0.0, 1.0) or old == new
        return SampleSpec(seed, old if fraction == 0 else new) if is_one_class else None


FramePoint = tuple[LatentPath, PathPoint]


class FrameRenderer:
    """Renders frames with a model arranged for inference."""

    def __init__(self, loaded: LoadedModel, options: InterpolateOptions, reporter: Reporter) -> None:
        self.backend = loaded.for_inference()
        self.device = loaded.backend.device
        self.options = options.sampling
        self._render_batches = partial(
            render_batches,
            self.backend,
            render=self._render,
            batch=options.batch,
            precision=loaded.dtype,
            on_smaller=lambda size: reporter.warn(f"not enough memory: generating {size} images at a time"),
        )
        self._sample_batches = partial(sample_batches, self.backend, options=options.sampling, precision=loaded.dtype)

    def _render(self, points: list[FramePoint]) -> Tensor:
        """Images (B, C, H, W) of some points, in [-1, 1]."""
        noise = torch.stack([path.noise(point) for path, point in points]).to(self.device)
        labels = None
        if self.backend.classes:
            labels = torch.tensor([path.label(point) for path, point in points], device=self.device)
        return self.backend.generate(noise, labels, self.options)

    def frames(self, points: Iterator[FramePoint]) -> Iterator[ImageArray]:
        """Yield the frames (H, W, C) uint8 of points one by one, rendered in batches."""
        for images in self._render_batches(points):
            yield from images

    def sample(self, spec: SampleSpec) -> ImageArray:
        """The image (H, W, C) of a seed, generated alone: the same bytes as from `imggen sample -n 1`."""
        images: ImageArray = next(self._sample_batches([spec]))
        return images[0]


def rms_distance(first: ImageArray, second: ImageArray) -> float:
    """Root mean square of the differences, in levels of 255."""
    return float(np.sqrt(np.square(first.astype(np.float32) - second).mean()))


class FrameDistances:
    """The distances between neighboring frames, in the order in which the frames are added."""

    def __init__(self) -> None:
        self.distances: list[float] = []
        self.first: ImageArray | None = None
        self.last: ImageArray | None = None

    def add(self, frame: ImageArray) -> None:
        """Measure the step from the previous frame to this one."""
        if self.last is None:
            self.first = frame
        else:
            self.distances.append(rms_distance(self.last, frame))
        self.last = frame

    def statistics(self, loop: bool) -> dict[str, float]:
        """Median and largest step in levels of 255, unevenness (deviation over mean), and a loop's closing step."""
        if self.first is None or self.last is None or not self.distances:
            return {}
        steps = np.array(self.distances)
        values = {"median": float(np.median(steps)), "largest": float(steps.max()), "unevenness": unevenness(steps)}
        if loop:
            values["closing"] = rms_distance(self.last, self.first)
        return {name: round(value, 3) for name, value in values.items()}
