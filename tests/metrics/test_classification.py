"""Metrics of labels, on cases whose values are known."""

import pytest
import torch

from imggen.metrics.classification import best_neighbors, confusion_table, label_metrics, nearest_labels
from imggen.metrics.compare import Estimator
from imggen.metrics.crossvalidation import cross_validate


def test_metrics_of_known_labels() -> None:
    labels = torch.tensor([0] * 8 + [1] * 2)
    probabilities = torch.tensor([[0.8, 0.2, 0.0]] * 9 + [[0.2, 0.8, 0.0]], dtype=torch.float64)
    found = label_metrics(probabilities, labels, Estimator("x"))
    assert found["accuracy"].value == pytest.approx(0.9)
    assert found["balanced_accuracy"].value == pytest.approx(0.75)  # of the two classes that occur
    assert found["calibration_error"].value == pytest.approx(0.1)
    assert all(each.low <= each.value <= each.high for each in found.values())
    assert confusion_table(labels, probabilities.argmax(1), 3).tolist() == [[8, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_neighbors_and_regression_tell_clusters_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    vectors = torch.eye(3)[labels] * 5 + torch.randn(90, 3, generator=generator)
    neighbors = best_neighbors(vectors[:60], labels[:60])
    guesses = nearest_labels(vectors[:60], labels[:60], vectors[60:], neighbors=neighbors)
    assert (guesses == labels[60:]).float().mean() > 0.9
    assert cross_validate(vectors, labels, 3).float().mean() > 0.9
    shuffled = labels[torch.randperm(90, generator=generator)]
    assert cross_validate(vectors, shuffled, 3).float().mean() < 0.6
