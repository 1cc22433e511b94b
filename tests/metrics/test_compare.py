"""Comparisons of feature sets, and estimates with their intervals."""

import pytest
import torch
from torch import Tensor

from imggen.metrics.compare import Estimate, Estimator, FeatureSet, compare, evenly_spaced
from imggen.metrics.features import load_features


def features(count: int, seed: int, *, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)) + shift


def test_evenly_spaced() -> None:
    assert evenly_spaced(10, 3).tolist() == [0, 4, 9]
    assert evenly_spaced(3, 3).tolist() == evenly_spaced(3, 9).tolist() == [0, 1, 2]
    subset = FeatureSet(torch.arange(10.0)[:, None], torch.arange(10)).subset(3)
    assert len(subset) == 3 and subset.features.flatten().tolist() == [0, 4, 9]
    assert subset.labels is not None and subset.labels.tolist() == [0, 4, 9]


@pytest.mark.slow
def test_copies_and_shifts_are_measured() -> None:
    real, held_out = features(300, 0), features(100, 1)
    reference = FeatureSet(real, torch.arange(300) % 2)
    estimator = Estimator("hash")
    copies = FeatureSet(real[:100] + 1e-6)
    copied = compare(reference, FeatureSet(held_out), real, copies, estimator, 2)
    assert copied.metrics["copied"].value == 1 and copied.floor["copied"].value <= 0.01
    assert copied.nearest_indices.tolist() == list(range(100)) and "accuracy" not in copied.metrics
    shifted = compare(reference, FeatureSet(held_out), real, FeatureSet(features(100, 2, shift=2)), estimator, 2)
    assert shifted.metrics["fd"].value > 5 * shifted.floor["fd"].value
    assert shifted.metrics["precision"].value < shifted.floor["precision"].value
    alone = compare(reference, None, real, copies, estimator, 2)
    assert alone.floor == {} and "copied" not in alone.metrics


def test_accuracy_needs_labels() -> None:
    labels = torch.arange(300) % 2
    separated = features(300, 0) + 6.0 * labels[:, None]
    comparison = compare(
        FeatureSet(separated, labels), None, separated, FeatureSet(separated, 1 - labels), Estimator("hash"), 2
    )
    assert comparison.metrics["accuracy"].value == 0


def test_only_inception_distances_are_called_fid() -> None:
    real = FeatureSet(features(60, 0))
    for distances in (("fid", "kid"), ("fd", "kd"), ("fd_pretrained", "kd_pretrained")):
        comparison = compare(real, None, real.features, real, Estimator("hash", distances=distances), 0)
        assert tuple(comparison.metrics)[:2] == distances
    assert load_features("pretrained", torch.device("cpu")).distances == ("fd_pretrained", "kd_pretrained")


def test_estimates_depend_on_the_seed_alone() -> None:
    values = features(50, 0)[:, 0]
    assert Estimator("hash", seed=1).mean("m", values) == Estimator("hash", seed=1).mean("m", values)
    assert Estimator("hash", seed=1).mean("m", values).low != Estimator("hash", seed=2).mean("m", values).low
    assert set(Estimator("hash").median("m", values).to_json()) == {"value", "low", "high", "count", "features"}


def test_better_than() -> None:
    low, high = (Estimate("fd", value, 0, 9, 100, "a") for value in (1.0, 2.0))
    assert low.better_than(high) and not high.better_than(low)
    with pytest.raises(ValueError, match="compare"):
        low.better_than(Estimate("fd", 2.0, 0, 9, 100, "b"))
