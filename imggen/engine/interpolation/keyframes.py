"""What a walk goes through: the noise of seeds, or of pictures by way of the model's inversion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imggen.data.decode import UnreadableError, decode_image, fit_image
from imggen.data.layout import EXTENSIONS, images_below
from imggen.engine.interpolation.latent_path import Floats
from imggen.engine.noise import SampleSpec, noise_for
from imggen.errors import DataError, UsageError
from imggen.io.image import ImageArray
from imggen.models.base import Backend
from imggen.models.config import SamplingOptions
from imggen.reporting import Reporter

INVERTED_AT_ONCE = 4


@dataclass
class Keyframes:
    """K keys: noise (K, *noise_shape) on the CPU, and a class each (K,), none where the model has none.

    `seeds` are there when the keys are seeds', `pictures` (K, H, W, C) when they were found for pictures.
    """

    noise: Tensor
    labels: Tensor | None
    names: tuple[str, ...]
    seeds: Sequence[int] | None = None
    pictures: ImageArray | None = None
    _alike: dict[tuple[int, int], float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.noise)

    def alike(self, i: int, j: int) -> float:
        """The cosine between two keys: 0 for different seeds, which are independent."""
        if i == j:
            return 1.0
        if self.seeds is not None:
            return 1.0 if self.seeds[i] == self.seeds[j] else 0.0
        pair = (min(i, j), max(i, j))
        if pair not in self._alike:
            a, b = (self.noise[k].double().flatten() for k in pair)
            self._alike[pair] = float((a @ b / (a.norm() * b.norm()).clamp(min=1e-12)).clamp(-1, 1))
        return self._alike[pair]

    def sizes(self, chosen: Sequence[int]) -> Floats:
        """Root mean squares of some; 1 for seeds, whose noise is what it is."""
        if self.seeds is not None:
            return np.ones(len(chosen))
        found: Floats = self.noise[list(chosen)].double().flatten(1).square().mean(1).sqrt().clamp(min=1e-6).numpy()
        return found


def seed_keys(seeds: Sequence[int], backend: Backend) -> Keyframes:
    """The noise that `sample` draws from."""
    noise, labels = noise_for([SampleSpec(seed) for seed in seeds], backend)
    return Keyframes(noise, labels, tuple(map(str, seeds)), seeds=list(seeds))


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, folders' pictures in the order of their names. Raises DataError."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [path / name for name in images_below(path)]
            if not inside:
                raise DataError(f"there are no pictures in {path}", f"endings: {', '.join(sorted(EXTENSIONS))}")
            found += inside
        else:
            found.append(path)
    return found


def read_picture(path: Path, backend: Backend) -> ImageArray:
    """The middle square of a picture at the model's size and with its channels (H, W, C). Raises DataError."""
    try:
        image = decode_image(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "give a picture's file") from error
    except UnreadableError as error:
        raise DataError(f"{path} cannot be read: {error}", "PNG, JPEG, WebP, GIF, BMP and TIFF can") from error
    return fit_image(image, backend.config.size, backend.config.channels, "center", "")


def picture_keys(
    paths: Sequence[Path],
    pictures: ImageArray,
    backend: Backend,
    labels: Tensor | None,
    options: SamplingOptions,
    reporter: Reporter,
) -> Keyframes:
    """The noise that draws pictures (K, H, W, C) as nearly as the family can; labels none lets it find the class."""
    device = backend.device
    images = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    noise: list[Tensor] = []
    classes: list[Tensor] = []
    done = 0
    with reporter.task("inverting", len(images)) as task:
        for part in torch.split(torch.arange(len(images)), INVERTED_AT_ONCE):
            these = images[part].to(device)
            given = None if labels is None else labels[part].to(device)
            own, given = backend.invert(these, given, options)
            if backend.classes and given is None:
                raise UsageError("this model does not say which class a picture has", "--class NAME")
            noise.append(own.detach().float().cpu())
            classes += [] if given is None else [given.cpu()]
            done += len(part)
            task.update(done)
    found = torch.cat(classes) if classes else None
    return Keyframes(torch.cat(noise), found, tuple(map(str, paths)), pictures=pictures)


def decibels(first: ImageArray, second: ImageArray) -> float:
    """Peak signal-to-noise ratio of two pictures; 99 for equal ones."""
    error = float(np.square(first.astype(np.float64) - second).mean())
    return 99.0 if error == 0 else min(99.0, 10 * math.log10(255**2 / error))
