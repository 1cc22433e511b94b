"""Labeled images of a data set, what a model sees in them, and the labels that their nearest neighbors suggest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from imggen.data.dataset import Dataset
from imggen.engine.render import default_batch_size
from imggen.io.pixels import to_float
from imggen.metrics.classification import best_neighbors, nearest_labels
from imggen.metrics.compare import evenly_spaced
from imggen.models import build_model
from imggen.models.base import Model
from imggen.reporting import Reporter

AT_ONCE = 64
PIXEL_SIDE = 32


@dataclass(frozen=True)
class Labeled:
    """Images of a data set by their rows (N,), with labels (N,) as the model numbers its classes.

    `names` (N) are those of their files, empty where nobody asks for them.
    """

    dataset: Dataset
    rows: Tensor
    labels: Tensor
    names: list[str] = field(default_factory=list)

    def images(self, indices: Tensor, device: torch.device) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] by their index."""
        levels, _ = self.dataset.batch(self.rows[indices].numpy())
        return to_float(levels.to(device)).contiguous(memory_format=torch.channels_last)

    def part(self, count: int) -> Labeled:
        """At most `count` evenly spaced ones."""
        chosen = evenly_spaced(len(self.rows), count)
        names = [self.names[index] for index in chosen.tolist()] if self.names else []
        return Labeled(self.dataset, self.rows[chosen], self.labels[chosen], names)


def scores_of(model: Model, labeled: Labeled, reporter: Reporter) -> Tensor:
    """Class scores (N, classes) in nats, on the CPU, of a model that has them."""

    def score(images: Tensor) -> Tensor:
        scores = model.class_scores(images)
        assert scores is not None
        return scores

    return _in_batches(score, model, labeled, reporter, "labeling")


def vectors_of(model: Model, labeled: Labeled, reporter: Reporter) -> Tensor:
    """The vectors (N, D) of what the model sees, on the CPU."""
    return _in_batches(lambda images: model.features(images).vectors, model, labeled, reporter, "extracting features")


@torch.inference_mode()
def _in_batches(
    compute: Callable[[Tensor], Tensor], model: Model, labeled: Labeled, reporter: Reporter, doing: str
) -> Tensor:
    parts = []
    with reporter.task(doing, len(labeled.rows)) as task:
        for indices in torch.split(torch.arange(len(labeled.rows)), min(AT_ONCE, default_batch_size(model))):
            parts.append(compute(labeled.images(indices, model.device)).float().cpu())
            task.update(int(indices[-1]) + 1)
    return torch.cat(parts)


def pixel_vectors(labeled: Labeled) -> Tensor:
    """The pixels (N, D) of images, reduced to a side of PIXEL_SIDE."""
    parts = []
    for indices in torch.split(torch.arange(len(labeled.rows)), AT_ONCE):
        images = labeled.images(indices, torch.device("cpu"))
        parts.append(adaptive_avg_pool2d(images, min(PIXEL_SIDE, images.shape[2])).flatten(1))
    return torch.cat(parts)


def untrained(model: Model) -> Model:
    """A model of the same configuration with random weights, always the same, of which the same parts are used."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        random = build_model(model.config)
    # A part, such as an encoder, is used if its `trained` is 1.
    used = {name: value for name, value in model.state_dict().items() if name.rpartition(".")[2] == "trained"}
    random.load_state_dict(used, strict=False)
    return random.to(model.device).eval()


def labels_by_neighbors(known: Tensor, labels: Tensor, vectors: Tensor) -> Tensor:
    """Labels (M,) of `vectors` (M, D) by the votes of the nearest of `known` (N, D), as many as suit these best."""
    return nearest_labels(known, labels, vectors, neighbors=best_neighbors(known, labels))
