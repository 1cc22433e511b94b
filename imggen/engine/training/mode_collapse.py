"""Detect mode collapse: different noise generates nearly the same image, or one image for each class."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imggen.data.dataset import Dataset
from imggen.engine.noise import SampleSpec
from imggen.engine.render import sample_batches
from imggen.metrics.features import Features
from imggen.models.base import Backend
from imggen.reporting import Reporter

NUM_PAIRS = 64
# Of this many samples the distance to the nearest other one is measured. With more, a model that has memorized a
# hundred images would generate most of them twice.
MAX_NEAREST_SAMPLES = 48
WARN_BELOW_DIVERSITY, RECOVERED_FROM_DIVERSITY = 0.25, 0.4
# After fewer training images, samples of a healthy model may still be nearly equal.
MIN_IMAGES_BEFORE_WARNING = 20_000


class CollapseMonitor:
    """Measures the diversity of samples, as feature distances, relative to the diversity of the data.

    It is the smaller one of two ratios: the mean distance within pairs of samples, and the median distance of a sample
    to the nearest other one. Pairs are of one class if there are classes, so that one image for each class counts as
    collapse; the nearest samples show a model that generates a few different images.
    """

    def __init__(self, dataset: Dataset, features: Features) -> None:
        self.features = features
        rows, self.labels = _pair_rows(dataset)
        self.pair_distance = mean_pair_distance(features.extract(np.asarray(dataset.images[rows])))
        # A good model of a small data set generates some images twice: measure fewer than there are.
        self.num_nearest = max(2, min(MAX_NEAREST_SAMPLES, len(dataset) // 3))
        distinct_rows = sorted(list(dict.fromkeys(rows))[: self.num_nearest])
        self.nearest_distance = _median_nearest_distance(features.extract(np.asarray(dataset.images[distinct_rows])))
        self.warned = False

    def diversity(self, backend: Backend) -> float:
        """1 for samples as diverse as the data, 0 if all are one image. Always from the same seeds."""
        specs = [SampleSpec(seed, self.labels[seed // 2] if backend.classes else None) for seed in range(2 * NUM_PAIRS)]
        samples = np.concatenate(list(sample_batches(backend, specs)))
        features = self.features.extract(samples)
        pair_ratio = mean_pair_distance(features) / max(self.pair_distance, 1e-6)
        nearest = _median_nearest_distance(features[: self.num_nearest])
        return min(pair_ratio, nearest / max(self.nearest_distance, 1e-6))

    def check(self, backend: Backend, images_seen: int, reporter: Reporter) -> dict[str, float]:
        """Measure the diversity, warn once while it is low, and return it for the metrics."""
        diversity = self.diversity(backend)
        if diversity < WARN_BELOW_DIVERSITY and images_seen >= MIN_IMAGES_BEFORE_WARNING and not self.warned:
            self.warned = True
            reporter.warn(
                f"possible mode collapse: the diversity of samples is {diversity:.2f} of the data's; if it does not "
                "recover, start again with another --seed, a lower --learning-rate, or a preset that regularizes"
            )
        self.warned = self.warned and diversity < RECOVERED_FROM_DIVERSITY
        return {"diversity": round(diversity, 4)}


def mean_pair_distance(features: Tensor) -> float:
    """The mean distance between rows 0 and 1, 2 and 3, and so on."""
    return float(torch.linalg.vector_norm(features[0::2] - features[1::2], dim=1).mean())


def _median_nearest_distance(features: Tensor) -> float:
    distances = torch.cdist(features.double(), features.double()).fill_diagonal_(torch.inf)
    return float(distances.min(1).values.median())


def _pair_rows(dataset: Dataset) -> tuple[list[int], list[int]]:
    """Rows of pairs of images of one class, one pair after the other, and the class of each pair; not random."""
    random = np.random.default_rng(0)
    labels = np.asarray(dataset.labels)
    rows: list[int] = []
    for first in random.integers(len(dataset), size=NUM_PAIRS).tolist():
        same_class = np.flatnonzero(labels == labels[first]) if dataset.classes else np.arange(len(dataset))
        others = same_class[same_class != first]
        rows += [first, int(random.choice(others)) if len(others) else first]
    return rows, [int(labels[row]) for row in rows[::2]]
