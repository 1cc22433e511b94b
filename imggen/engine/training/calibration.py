"""At the end of a training: the temperature that turns class scores into probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from imggen.data.dataset import Dataset
from imggen.engine.render import default_batch_size
from imggen.io.pixels import to_float
from imggen.metrics.calibration import fit_temperature
from imggen.models.base import Model
from imggen.reporting import Reporter

MAX_IMAGES, MIN_IMAGES = 500, 16  # fewer say too little; where images are held out, 16 or more are
MAX_SCORES = 10_000  # images times classes: each takes as long as decoding an image
MAX_CLASSES = MAX_SCORES // MIN_IMAGES


@torch.inference_mode()
def measure_temperature(
    model: Model, dataset: Dataset, rows: npt.NDArray[np.int64], reporter: Reporter
) -> float | None:
    """The temperature by which the class scores of some `rows` of the data fit their labels best.

    None for a model without scores, for too few images, and for more than MAX_CLASSES classes, which take too long.
    """
    classes = len(model.classes)
    if not 1 < classes <= MAX_CLASSES:
        return None
    count = min(len(rows), MAX_IMAGES, MAX_SCORES // classes)
    if count < MIN_IMAGES:
        return None
    chosen = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
    size = default_batch_size(model)
    scores, labels = [], []
    with reporter.task("calibrating", count) as task:
        for start in range(0, count, size):
            levels, batch_labels = dataset.batch(chosen[start : start + size])
            images = to_float(levels.to(model.device)).contiguous(memory_format=torch.channels_last)
            found = model.class_scores(images)
            if found is None:
                return None
            scores.append(found.cpu())
            labels.append(batch_labels.cpu())
            task.update(start + len(batch_labels))
    return round(fit_temperature(torch.cat(scores), torch.cat(labels)), 4)
