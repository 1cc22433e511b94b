"""How well labels were found: accuracy, balanced accuracy, calibration, confusion; and what costs nothing to find."""

from __future__ import annotations

import torch
from torch import Tensor

from imggen.metrics.calibration import sureness_error
from imggen.metrics.compare import Estimate, Estimator

NEIGHBORS = (1, 3, 5, 10)
_QUERIES_AT_ONCE = 1_000


def confusion_table(labels: Tensor, guesses: Tensor, classes: int) -> Tensor:
    """How many images (classes, classes) of each class (row) got each label (column)."""
    return torch.bincount(labels * classes + guesses, minlength=classes * classes).view(classes, classes)


def label_metrics(probabilities: Tensor, labels: Tensor, measure: Estimator) -> dict[str, Estimate]:
    """Accuracy, balanced accuracy and calibration error of probabilities (N, C), with intervals over the images.

    Balanced accuracy is the mean over the classes that occur of the fraction of their images that is right, so that
    rare classes count as much as frequent ones.
    """
    sureness, guesses = probabilities.max(1)
    correct = (guesses == labels).double()
    rows = torch.stack([labels.double(), correct, sureness.double()], 1)
    classes = probabilities.shape[1]

    def balanced(rows: Tensor) -> Tensor:
        totals = torch.bincount(rows[:, 0].long(), minlength=classes)
        hits = torch.bincount(rows[:, 0].long(), rows[:, 1], minlength=classes)
        return (hits / totals)[totals > 0].mean()

    return {
        "accuracy": measure.mean("accuracy", correct),
        "balanced_accuracy": measure.bootstrap("balanced_accuracy", rows, balanced),
        "calibration_error": measure.bootstrap(
            "calibration_error", rows, lambda rows: torch.tensor(sureness_error(rows[:, 2], rows[:, 1]))
        ),
    }


def nearest_labels(known: Tensor, known_labels: Tensor, vectors: Tensor, *, neighbors: int) -> Tensor:
    """Labels (M,) by the votes of the nearest of `known` (N, D) to each of `vectors` (M, D); ties to the nearest."""
    classes = int(known_labels.max()) + 1
    found = []
    for part in torch.split(vectors, _QUERIES_AT_ONCE):
        nearest = torch.cdist(part, known).topk(min(neighbors, len(known)), largest=False).indices
        votes = torch.zeros(len(part), classes, dtype=torch.float64)
        weights = 1 - 1e-6 * torch.arange(nearest.shape[1], dtype=torch.float64)
        votes.scatter_add_(1, known_labels[nearest], weights.expand_as(nearest).contiguous())
        found.append(votes.argmax(1))
    return torch.cat(found)


def best_neighbors(known: Tensor, known_labels: Tensor) -> int:
    """The number of neighbors of NEIGHBORS by which one half of `known` labels the other half best."""
    first = torch.arange(len(known)) % 2 == 0
    hits = [
        (nearest_labels(known[first], known_labels[first], known[~first], neighbors=k) == known_labels[~first]).sum()
        for k in NEIGHBORS
    ]
    return NEIGHBORS[int(torch.stack(hits).argmax())]
