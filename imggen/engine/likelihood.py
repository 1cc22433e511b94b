"""Bits per dimension of held-out pictures: the model's, beside what PNG and WebP take for the same pictures."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from imggen.data.dataset import Dataset
from imggen.io.image import encode
from imggen.metrics.figures import Figure, Measure, evenly
from imggen.models.base import Backend
from imggen.reporting import Reporter

COUNT = 1_000
BATCH = 50


@torch.inference_mode()
def bits_per_dimension(
    backend: Backend, dataset: Dataset, rows: Tensor, measure: Measure, reporter: Reporter
) -> dict[str, Figure]:
    """Of at most 1,000 of the pictures `rows`; nothing when the family gives no likelihood.

    A dimension is one channel of one pixel. The files are counted whole, headers and all.
    """
    device = next(backend.parameters()).device
    rows = rows[evenly(len(rows), COUNT)]
    parts = torch.split(rows, BATCH)
    found: dict[str, list[float]] = {"bits": [], "bits_png": [], "bits_webp": []}
    dimensions = math.prod(backend.image_shape)
    with reporter.task("likelihood", len(rows)) as task:
        for part in parts:
            levels, labels = dataset.batch(part.numpy())
            images = levels.to(device).float().div(127.5).sub(1)
            nats = backend.log_likelihood(images, labels.to(device) if backend.classes else None)
            if nats is None:
                return {}
            found["bits"] += (-nats.cpu().double() / (dimensions * math.log(2))).tolist()
            for picture in np.asarray(dataset.images[part.numpy()]):
                for name in ("png", "webp"):
                    size = len(encode(picture, name, None, level=9))
                    found[f"bits_{name}"].append(8 * size / dimensions)
            task.update(len(found["bits"]))
    return {name: measure.mean(name, torch.tensor(values, dtype=torch.float64)) for name, values in found.items()}
