"""Intervals of the metrics: how often they hold the truth, and how wide they are."""

import numpy as np
import pytest
import torch

from imggen.metrics.compare import Estimate, Estimator
from imggen.metrics.distances import moments_of


def test_metrics_of_other_features_do_not_compare() -> None:
    one = Estimate("fd", 2.0, 1.0, 3.0, 100, "aaa")
    assert Estimate("fd", 1.0, 1.0, 3.0, 100, "aaa").better_than(one)
    assert not Estimate("recall", 0.1, 0, 1, 100, "aaa").better_than(Estimate("recall", 0.2, 0, 1, 100, "aaa"))
    for other in (
        Estimate("fd", 1, 1, 1, 100, "bbb"),
        Estimate("fd", 1, 1, 1, 50, "aaa"),
        Estimate("kd", 1, 1, 1, 100, "aaa"),
    ):
        with pytest.raises(ValueError, match="compare"):
            one.better_than(other)


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    held = 0
    for index in range(60):
        figure = Estimator("x", seed=index).mean("m", (torch.rand(200, generator=generator) < 0.3).double())
        held += figure.low <= 0.3 <= figure.high
    assert held >= 50


@pytest.mark.slow
def test_kernel_intervals_are_as_wide_as_the_distance_varies() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(600, 8, generator=generator)
    found = [Estimator("x").kernel(reference, torch.randn(300, 8, generator=generator)) for _ in range(20)]
    spread = float(torch.tensor([figure.value for figure in found]).std())
    widths = [(figure.high - figure.low) / 2 / 1.96 for figure in found]
    assert 0.5 * spread < float(np.median(widths)) < 2.5 * spread


def test_frechet_intervals_are_as_wide_as_the_distance_varies() -> None:
    generator = torch.Generator().manual_seed(0)
    moments = moments_of(torch.randn(2000, 8, generator=generator))
    found = [Estimator("x").frechet(moments, torch.randn(500, 8, generator=generator) * 1.2 + 0.2) for _ in range(20)]
    spread = float(torch.tensor([figure.value for figure in found]).std())
    widths = [(figure.high - figure.value) / 1.96 for figure in found]
    assert 0.5 * spread < float(np.median(widths)) < 2 * spread
