"""Does other noise still draw another picture? A model that has collapsed draws one picture, or one a class."""

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

PAIRS = 64
# Of so many drawn pictures each and its nearest: were there more, a model that has learnt a hundred pictures by heart
# would draw most of them twice as well.
FEW = 48
LOW, WELL = 0.25, 0.4
# Before so many pictures were seen, those drawn may well look alike.
EARLY = 20_000


class CollapseMonitor:
    """How far apart drawn pictures are, as a share of how far the data's are: pairs, or each and its nearest, the less.

    Distances are those of features. Pairs are of one class where there are classes, so that a model which draws one
    picture for each class is found out; a model that draws one of a few is by the nearest.
    """

    def __init__(self, dataset: Dataset, features: Features) -> None:
        self.features = features
        rows, self.labels = _pairs(dataset)
        self.reference = self._apart(features.extract(np.asarray(dataset.images[rows])))
        # Of few pictures a good model draws the same ones again: fewer are looked at than there are.
        self.few = max(2, min(FEW, len(dataset) // 3))
        unlike = sorted(list(dict.fromkeys(rows))[: self.few])
        self.nearest = self._nearest(features.extract(np.asarray(dataset.images[unlike])))
        self.low = False

    def of(self, backend: Backend) -> float:
        """1 is the data's own variety, 0 one picture for all noise. The same seeds each time."""
        items = [SampleSpec(seed, self.labels[seed // 2] if backend.classes else None) for seed in range(2 * PAIRS)]
        pictures = list(sample_batches(backend, items, lambda _, drawn: drawn))
        features = self.features.extract(np.concatenate(pictures))
        apart = self._apart(features) / max(self.reference, 1e-6)
        return min(apart, self._nearest(features[: self.few]) / max(self.nearest, 1e-6))

    def look(self, backend: Backend, images: int, reporter: Reporter) -> dict[str, float]:
        """Measure, and say it once when it is too low after `images` seen; returns what goes into the metrics."""
        found = self.of(backend)
        if found < LOW and images >= EARLY and not self.low:
            self.low = True
            reporter.warn(
                f"other noise hardly draws another picture (variety {found:.2f}, the data's is 1): the model may have "
                "collapsed; if it does not recover, start again with another --seed, a lower --learning-rate, "
                "or a preset that regularises"
            )
        self.low = self.low and found < WELL
        return {"variety": round(found, 4)}

    @staticmethod
    def _apart(features: Tensor) -> float:
        return float(torch.linalg.vector_norm(features[0::2] - features[1::2], dim=1).mean())

    @staticmethod
    def _nearest(features: Tensor) -> float:
        """The median distance to the nearest other one."""
        distances = torch.cdist(features.double(), features.double()).fill_diagonal_(torch.inf)
        return float(distances.min(1).values.median())


def _pairs(dataset: Dataset) -> tuple[list[int], list[int]]:
    """Rows of pairs of pictures, one after the other, and each pair's class; the same for the same data."""
    random = np.random.default_rng(0)
    labels = np.asarray(dataset.labels)
    rows: list[int] = []
    for first in random.integers(len(dataset), size=PAIRS).tolist():
        same = np.flatnonzero(labels == labels[first]) if dataset.classes else np.arange(len(dataset))
        others = same[same != first]
        rows += [first, int(random.choice(others)) if len(others) else first]
    return rows, [int(labels[row]) for row in rows[::2]]
