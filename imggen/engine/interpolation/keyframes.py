"""The keyframes of a path: the noise of seeds, or noise that the model inverts from images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imggen.data.decode import decode_file, fit_image
from imggen.engine.interpolation.latent_path import Floats
from imggen.engine.noise import SampleSpec, noise_for
from imggen.errors import UsageError
from imggen.io.image import ImageArray
from imggen.io.pixels import from_array, to_float
from imggen.models.base import Backend
from imggen.models.config import SamplingOptions
from imggen.reporting import Reporter

INVERSION_BATCH = 4
MAX_PSNR = 99.0  # reported for equal images, whose PSNR is infinite


@dataclass
class Keyframes:
    """K keyframes: noise (K, *noise_shape) and labels (K,) on the CPU; labels are None if the model has no classes.

    `seeds` is set for keyframes of seeds, `images` (K, H, W, C) for keyframes inverted from images.
    """

    noise: Tensor
    labels: Tensor | None
    names: tuple[str, ...]
    seeds: Sequence[int] | None = None
    images: ImageArray | None = None
    _similarities: dict[tuple[int, int], float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.noise)

    def cosine_similarity(self, i: int, j: int) -> float:
        """The cosine similarity of two keyframes' noise; taken as 0 for different seeds, which are independent."""
        if i == j:
            return 1.0
        if self.seeds is not None:
            return 1.0 if self.seeds[i] == self.seeds[j] else 0.0
        pair = (min(i, j), max(i, j))
        if pair not in self._similarities:
            a, b = (self.noise[k].double().flatten() for k in pair)
            self._similarities[pair] = float((a @ b / (a.norm() * b.norm()).clamp(min=1e-12)).clamp(-1, 1))
        return self._similarities[pair]

    def rms(self, indices: Sequence[int]) -> Floats:
        """(N,): root mean squares of some keyframes' noise; taken as 1 for seeds, whose noise has unit variance."""
        if self.seeds is not None:
            return np.ones(len(indices))
        return self.noise[list(indices)].double().flatten(1).square().mean(1).sqrt().clamp(min=1e-6).numpy()


def seed_keyframes(seeds: Sequence[int], backend: Backend) -> Keyframes:
    """Keyframes with the noise and the classes that `imggen sample` uses for these seeds."""
    noise, labels = noise_for([SampleSpec(seed) for seed in seeds], backend)
    return Keyframes(noise, labels, tuple(map(str, seeds)), seeds=list(seeds))


def read_image(path: Path, backend: Backend) -> ImageArray:
    """The central square of an image at the model's size and with its channels (H, W, C) uint8. Raises DataError."""
    return fit_image(decode_file(path), backend.config.size, backend.config.channels, "center", "")


def image_keyframes(
    paths: Sequence[Path],
    images: ImageArray,
    backend: Backend,
    labels: Tensor | None,
    options: SamplingOptions,
    reporter: Reporter,
) -> Keyframes:
    """Invert images (K, H, W, C) uint8 with labels (K,); without labels the model chooses the most likely classes.

    Raises UsageError if the model has classes but does not choose any.
    """
    device = backend.device
    floats = to_float(from_array(images, "cpu"))
    noise: list[Tensor] = []
    classes: list[Tensor] = []
    with reporter.task("inverting", len(floats)) as task:
        for rows in torch.split(torch.arange(len(floats)), INVERSION_BATCH):
            given = None if labels is None else labels[rows].to(device)
            inversion = backend.invert(floats[rows].to(device), given, options)
            if backend.classes and inversion.labels is None:
                raise UsageError("this model cannot choose the class of an image", "give it with --class NAME")
            noise.append(inversion.noise.detach().float().cpu())
            classes += [] if inversion.labels is None else [inversion.labels.cpu()]
            task.update(int(rows[-1]) + 1)
    all_labels = torch.cat(classes) if classes else None
    return Keyframes(torch.cat(noise), all_labels, tuple(map(str, paths)), images=images)


def psnr(first: ImageArray, second: ImageArray) -> float:
    """Peak signal-to-noise ratio of two images in decibels, at most MAX_PSNR."""
    mean_square = float(np.square(first.astype(np.float64) - second).mean())
    return MAX_PSNR if mean_square == 0 else min(MAX_PSNR, 10 * math.log10(255**2 / mean_square))
