"""Bits per dimension of held-out pictures: the model's, beside what PNG and WebP take for the same pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.dataset import Dataset
from imggen.engine.noise import mix_seed
from imggen.engine.render import default_batch_size
from imggen.io.image import encode
from imggen.metrics.compare import Estimate, Estimator, evenly_spaced
from imggen.models.base import Backend, HasLatentLayers, HasLikelihood
from imggen.models.config import SamplingOptions
from imggen.reporting import Reporter

COUNT = 1_000
BATCH = 50  # at most
UNUSED = 0.1  # nats a picture: a layer that carries less might as well not be there


@torch.inference_mode()
def bits_per_dimension(
    backend: Backend, dataset: Dataset, rows: Tensor, measure: Estimator, reporter: Reporter, samples: int | None = None
) -> dict[str, Estimate]:
    """Of at most 1,000 of the pictures `rows`; nothing when the family gives no likelihood.

    A dimension is one channel of one pixel. The files are counted whole, headers and all. With `samples` also the
    importance-weighted bound of so many draws. A model of binarised pictures gets nats a picture in place of bits, of
    pictures binarised by the measure's seed, and no files beside them.
    """
    if not isinstance(backend, HasLikelihood) or backend.limitation("likelihood"):
        return {}
    rows = rows[evenly_spaced(len(rows), COUNT)]
    names = ("nats", "nats_iw") if backend.binarized else ("bits", "bits_iw")
    found: dict[str, list[float]] = {}
    dimensions = math.prod(backend.config.image_shape)
    unit = 1.0 if backend.binarized else dimensions * math.log(2)
    with reporter.task("likelihood", len(rows)) as task:
        for part, images, labels in _batches(backend, dataset, rows, measure.seed):
            nats = backend.log_likelihood(images, labels)
            found.setdefault(names[0], []).extend((-nats.cpu().double() / unit).tolist())
            if samples is not None and isinstance(backend, HasLatentLayers):
                bound = backend.importance_bound(images, labels, num_samples=samples)
                found.setdefault(names[1], []).extend((-bound.cpu().double() / unit).tolist())
            for picture in () if backend.binarized else np.asarray(dataset.images[part.numpy()]):
                for name in ("png", "webp"):
                    size = len(encode(picture, name, None, level=9))
                    found.setdefault(f"bits_{name}", []).append(8 * size / dimensions)
            task.update(len(found[names[0]]))
    return {name: measure.mean(name, torch.tensor(values, dtype=torch.float64)) for name, values in found.items()}


@torch.inference_mode()
def own_measures(
    backend: Backend, dataset: Dataset, rows: Tensor, options: SamplingOptions, measure: Estimator, reporter: Reporter
) -> tuple[dict[str, Estimate], dict[str, tuple[str, str]]]:
    """Means of the family's diagnostics over at most 1,000 of the images `rows`, and a title and description each."""
    device = backend.device
    found: dict[str, list[Tensor]] = {}
    explained: dict[str, tuple[str, str]] = {}
    chosen = rows[evenly_spaced(len(rows), COUNT)]
    with reporter.task("measuring", len(chosen)) as task:
        done = 0
        for part in torch.split(chosen, _batch(backend)):
            levels, labels = dataset.batch(part.numpy())
            images = levels.to(device).float().div(127.5).sub(1)
            given = labels.to(device) if backend.classes else None
            for name, (values, title, description) in backend.diagnostics(images, given, options).items():
                found.setdefault(name, []).append(values.cpu().double())
                explained[name] = (title, description)
            if not found:
                return {}, {}
            done += len(part)
            task.update(done)
    return {name: measure.mean(name, torch.cat(values)) for name, values in found.items()}, explained


def layers_of(backend: Backend, dataset: Dataset, rows: Tensor, seed: int) -> list[dict[str, Any]]:
    """What each layer of latents carries: its name, mean nats a picture, and whether that is enough to call it used.

    Of at most 1,000 pictures; an empty list when the family has no layers.
    """
    if not isinstance(backend, HasLatentLayers):
        return []
    found: dict[str, list[Tensor]] = {}
    for _, images, labels in _batches(backend, dataset, rows[evenly_spaced(len(rows), COUNT)], seed):
        for name, values in backend.layer_information(images, labels).items():
            found.setdefault(name, []).append(values.cpu().double())
    means = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    return [{"name": name, "nats": round(value, 4), "used": value >= UNUSED} for name, value in means.items()]


def _batch(backend: Backend) -> int:
    """Pictures at a time: fewer of large ones."""
    return max(1, min(BATCH, default_batch_size(backend)))


def _batches(
    backend: Backend, dataset: Dataset, rows: Tensor, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Rows, pictures as the likelihood takes them, and labels.

    All draws follow from `seed` and a picture's row, and those of one batch not from what was drawn for another.
    """
    device = backend.device
    with _seeded(seed, device):
        for part in torch.split(rows, _batch(backend)):
            levels, labels = dataset.batch(part.numpy())
            images = levels.float().div(127.5).sub(1)
            if isinstance(backend, HasLikelihood) and backend.binarized:
                images = torch.where(_chances(part, seed, images.shape[1:]) < (images + 1) / 2, 1.0, -1.0)
            torch.manual_seed(mix_seed(seed, int(part[0])))
            yield part, images.to(device), labels.to(device) if backend.classes else None


def _chances(rows: Tensor, seed: int, shape: torch.Size) -> Tensor:
    """Uniform numbers (rows, *shape): each row's own, whatever the others are."""
    generator = torch.Generator()
    seeds = [mix_seed(seed, row) for row in rows.tolist()]
    return torch.stack([torch.rand(shape, generator=generator.manual_seed(one)) for one in seeds])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
