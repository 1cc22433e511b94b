"""Does other noise still draw another picture? A model that has collapsed draws one picture, or one a class."""

from __future__ import annotations

import numpy as np
import torch

from imggen.data.dataset import Dataset
from imggen.engine.draw import Item, draw
from imggen.io.image import Bytes
from imggen.metrics.extract import Features
from imggen.models.base import Backend
from imggen.reporting import Reporter

PAIRS = 64
LOW, WELL = 0.25, 0.4
# Before so many pictures were seen, those drawn may well look alike.
EARLY = 20_000


class Variety:
    """How far apart pairs of drawn pictures are, as a share of how far pairs of the data's are.

    Distances are those of features, pairs are of one class where there are classes, so that a model which draws
    one picture for each class is found out.
    """

    def __init__(self, dataset: Dataset, features: Features) -> None:
        self.features = features
        rows, self.labels = _pairs(dataset)
        self.reference = self._apart(np.asarray(dataset.images[rows]))
        self.low = False

    def of(self, backend: Backend) -> float:
        """1 is the data's own variety, 0 one picture for all noise. The same seeds each time."""
        items = [Item(seed, self.labels[seed // 2] if backend.classes else None) for seed in range(2 * PAIRS)]
        pictures = list(draw(backend, items, lambda _, drawn: drawn))
        return self._apart(np.concatenate(pictures)) / max(self.reference, 1e-6)

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

    def _apart(self, pictures: Bytes) -> float:
        features = self.features.extract(pictures)
        return float(torch.linalg.vector_norm(features[0::2] - features[1::2], dim=1).mean())


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
