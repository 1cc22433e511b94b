"""What a model computes itself on held-out images: bits per dimension, diagnostics, KL of its latent layers."""

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
from imggen.io.pixels import to_float
from imggen.metrics.compare import Estimate, Estimator, evenly_spaced
from imggen.models.base import Backend, HasLatentLayers, HasLikelihood
from imggen.models.config import SamplingOptions
from imggen.reporting import Reporter

MAX_IMAGES = 1_000
MAX_BATCH = 50
MIN_NATS_OF_USED_LAYER = 0.1  # per image


@torch.inference_mode()
def bits_per_dimension(
    backend: Backend, dataset: Dataset, rows: Tensor, measure: Estimator, reporter: Reporter, samples: int | None = None
) -> dict[str, Estimate]:
    """Negative log-likelihood of at most 1,000 of the images `rows`; empty if the family has no likelihood.

    In bits per dimension, which is one channel of one pixel; beside it the size of the same images as PNG and lossless
    WebP files, headers included. With `samples` also the importance-weighted bound from as many samples. A model of
    binarized images has nats per image instead, of images binarized by the measure's seed, and no file sizes.
    """
    if not isinstance(backend, HasLikelihood) or backend.limitation("likelihood"):
        return {}
    rows = rows[evenly_spaced(len(rows), MAX_IMAGES)]
    name, bound_name = ("nats", "nats_iw") if backend.binarized else ("bits", "bits_iw")
    values: dict[str, list[float]] = {name: []}
    dimensions = math.prod(backend.config.image_shape)
    unit = 1.0 if backend.binarized else dimensions * math.log(2)
    with reporter.task("likelihood", len(rows)) as task:
        for part, images, labels in _batches(backend, dataset, rows, measure.seed):
            log_likelihood = backend.log_likelihood(images, labels)
            values[name].extend((-log_likelihood.cpu().double() / unit).tolist())
            if samples is not None and isinstance(backend, HasLatentLayers):
                bound = backend.importance_bound(images, labels, num_samples=samples)
                values.setdefault(bound_name, []).extend((-bound.cpu().double() / unit).tolist())
            for image in () if backend.binarized else np.asarray(dataset.images[part.numpy()]):
                for format in ("png", "webp"):
                    size = len(encode(image, format, None, level=9))
                    values.setdefault(f"bits_{format}", []).append(8 * size / dimensions)
            task.update(len(values[name]))
    return {name: measure.mean(name, torch.tensor(each, dtype=torch.float64)) for name, each in values.items()}


@torch.inference_mode()
def diagnostic_metrics(
    backend: Backend, dataset: Dataset, rows: Tensor, options: SamplingOptions, measure: Estimator, reporter: Reporter
) -> tuple[dict[str, Estimate], dict[str, tuple[str, str]]]:
    """Means of the family's diagnostics over at most 1,000 of the images `rows`, and a title and description each."""
    device = backend.device
    values: dict[str, list[Tensor]] = {}
    descriptions: dict[str, tuple[str, str]] = {}
    rows = rows[evenly_spaced(len(rows), MAX_IMAGES)]
    with reporter.task("measuring", len(rows)) as task:
        done = 0
        for part in torch.split(rows, _batch_size(backend)):
            levels, labels = dataset.batch(part.numpy())
            images = to_float(levels.to(device))
            given_labels = labels.to(device) if backend.classes else None
            for name, diagnostic in backend.diagnostics(images, given_labels, options).items():
                values.setdefault(name, []).append(diagnostic.values.cpu().double())
                descriptions[name] = (diagnostic.title, diagnostic.description)
            if not values:
                return {}, {}
            done += len(part)
            task.update(done)
    return {name: measure.mean(name, torch.cat(parts)) for name, parts in values.items()}, descriptions


def latent_layers(backend: Backend, dataset: Dataset, rows: Tensor, seed: int) -> list[dict[str, Any]]:
    """Name, mean information in nats per image, and whether it is used, of each layer of latents.

    Measured on at most 1,000 images; empty if the family has no layers of latents.
    """
    if not isinstance(backend, HasLatentLayers):
        return []
    values: dict[str, list[Tensor]] = {}
    for _, images, labels in _batches(backend, dataset, rows[evenly_spaced(len(rows), MAX_IMAGES)], seed):
        for name, information in backend.layer_information(images, labels).items():
            values.setdefault(name, []).append(information.cpu().double())
    means = {name: float(torch.cat(parts).mean()) for name, parts in values.items()}
    return [
        {"name": name, "nats": round(nats, 4), "used": nats >= MIN_NATS_OF_USED_LAYER} for name, nats in means.items()
    ]


def _batch_size(backend: Backend) -> int:
    """Images at a time: fewer of large ones."""
    return max(1, min(MAX_BATCH, default_batch_size(backend)))


def _batches(
    backend: Backend, dataset: Dataset, rows: Tensor, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Rows, images as the likelihood takes them, and labels.

    Random numbers follow from `seed` and an image's row, and do not depend on what was computed for other batches.
    """
    device = backend.device
    with _seeded(seed, device):
        for part in torch.split(rows, _batch_size(backend)):
            levels, labels = dataset.batch(part.numpy())
            images = to_float(levels)
            if isinstance(backend, HasLikelihood) and backend.binarized:
                images = torch.where(_uniform_noise(part, seed, images.shape[1:]) < (images + 1) / 2, 1.0, -1.0)
            torch.manual_seed(mix_seed(seed, int(part[0])))
            yield part, images.to(device), labels.to(device) if backend.classes else None


def _uniform_noise(rows: Tensor, seed: int, shape: torch.Size) -> Tensor:
    """Uniform noise (rows, *shape) that depends on each row alone."""
    generator = torch.Generator()
    seeds = [mix_seed(seed, row) for row in rows.tolist()]
    return torch.stack([torch.rand(shape, generator=generator.manual_seed(each)) for each in seeds])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generator for the block, and restore its state afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
