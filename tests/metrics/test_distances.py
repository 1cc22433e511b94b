"""Every distance, compared with other implementations, with closed forms, and for plausibility.

The other implementations are imported where they are used: they take seconds, and every process of a test run imports
this file.
"""

import math

import pytest
import torch
from torch import Tensor

from imggen.metrics.distances import (
    Discriminant,
    MomentSum,
    frechet,
    kernel_distances,
    mmd,
    moments_of,
    nearest,
    neighborhoods,
    radii,
)


def features(count: int, width: int = 24, *, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) / math.sqrt(width)
    return (torch.randn(count, width, generator=generator) @ mixing) * scale + shift


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.7), (5.0, 0.2)])
def test_frechet_agrees_with_torch_fidelity(shift: float, scale: float) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    one, two = features(600), features(500, seed=1, shift=shift, scale=scale)
    ours = frechet(moments_of(one), moments_of(two))
    theirs = fid_statistics_to_metric(fid_features_to_statistics(one), fid_features_to_statistics(two), verbose=False)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


def test_frechet_of_gaussians_is_the_closed_form() -> None:
    width, s = 16, 1.5
    mean = torch.linspace(-1, 1, width, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(4000, width, dtype=torch.float64, generator=generator)
    # Whitened exactly, so that the sample's own moments are those of the formula.
    raw -= raw.mean(0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(raw.T))).T
    value = frechet(moments_of(white), moments_of(white * s + mean))
    assert value == pytest.approx(float(mean.square().sum()) + width * (1 - s) ** 2, rel=1e-6)
    assert frechet(moments_of(white), moments_of(white)) == pytest.approx(0, abs=1e-9)


def test_moments_come_batch_by_batch() -> None:
    x = features(1000, shift=1000.0)
    total = MomentSum(x[0])
    for part in torch.split(x, 37):
        total.add(part)
    moments = total.moments()
    assert torch.allclose(moments.mean, x.double().mean(0), rtol=1e-12)
    assert torch.allclose(moments.covariance, torch.cov(x.double().T), rtol=1e-9, atol=1e-12)
    weighted = moments_of(x, torch.ones(1000))
    assert torch.allclose(weighted.covariance, moments.covariance, atol=1e-9)
    twice = moments_of(x[:500], torch.full((500,), 2.0))
    doubled = moments_of(torch.cat([x[:500], x[:500]]))
    assert torch.allclose(twice.covariance, doubled.covariance, atol=1e-9)
    with pytest.raises(ValueError, match="two"):
        MomentSum(x[0]).moments()


def test_few_images_give_a_number() -> None:
    few = features(5, width=64)
    assert math.isfinite(frechet(moments_of(features(300, width=64)), moments_of(few)))
    assert torch.isfinite(kernel_distances(features(300, width=64), few, subsets=5)).all()
    with pytest.raises(ValueError):
        kernel_distances(few, few[:1])
    with pytest.raises(ValueError):
        radii(few, 5)


def test_kernel_distance_agrees_with_torch_fidelity() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    one, two = features(400).double(), features(400, seed=1, shift=0.2).double()
    theirs = kid_features_to_metric(one, two, kid_subsets=1, kid_subset_size=400, verbose=False, rng_seed=0)
    # A subset of everything: whatever the order, the number is the same.
    assert float(mmd(one.double(), two.double())) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    distances = kernel_distances(one, two, subsets=3, size=400)
    assert distances.tolist() == pytest.approx([float(mmd(one.double(), two.double()))] * 3, rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    distances = kernel_distances(features(3000), features(3000, seed=5), subsets=60, size=200)
    assert abs(float(distances.mean())) < 3 * float(distances.std()) / math.sqrt(15)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_neighborhoods_agree_with_prdc(shift: float) -> None:
    from prdc import compute_prdc

    real, generated = features(300), features(280, seed=1, shift=shift)
    neighbors = neighborhoods(real, generated, k=5, k_density=5)
    theirs = compute_prdc(real.numpy(), generated.numpy(), nearest_k=5)
    for name in ("density", "coverage"):
        assert float(getattr(neighbors, name).mean()) == pytest.approx(theirs[name], rel=1e-6)
    for name in ("precision", "recall"):
        assert float(getattr(neighbors, name).mean()) == pytest.approx(theirs[name], rel=1e-6)


def test_precision_and_recall_agree_with_torch_fidelity() -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, generated = features(300), features(280, seed=1, shift=0.3)
    neighbors = neighborhoods(real, generated)
    theirs = prc_features_to_metric(generated, real, prc_neighborhood=3, prc_batch_size=100, verbose=False)
    assert float(neighbors.precision.mean()) == pytest.approx(theirs["precision"], rel=1e-6)
    assert float(neighbors.recall.mean()) == pytest.approx(theirs["recall"], rel=1e-6)


@pytest.mark.slow
def test_neighbors_do_not_depend_on_how_rows_are_split() -> None:
    real, generated = features(2100, width=6), features(2300, width=6, seed=2)
    neighbors = neighborhoods(real, generated)
    distances = torch.cdist(generated.double(), real.double())
    assert torch.equal(neighbors.precision.bool(), (distances <= radii(real, 3)).any(1))
    assert torch.equal(neighbors.recall.bool(), (distances <= radii(generated, 3)[:, None]).any(0))
    assert torch.equal(neighbors.density, (distances < radii(real, 5)).sum(1).double() / 5)
    assert torch.equal(neighbors.coverage.bool(), distances.min(0).values < radii(real, 5))
    value, index = nearest(generated, real)
    assert torch.equal(value, distances.min(1).values) and torch.equal(index, distances.argmin(1))


def test_worse_samples_score_worse() -> None:
    """Noise, dropped modes and repetition each worsen the metric that measures them."""
    real = torch.cat([features(400, seed=1), features(400, seed=2, shift=3.0)])
    good = torch.cat([features(400, seed=3), features(400, seed=4, shift=3.0)])
    moments = moments_of(real)
    base = frechet(moments, moments_of(good))
    noise = torch.randn(good.shape, generator=torch.Generator().manual_seed(8))
    distances = [frechet(moments, moments_of(good + amount * noise)) for amount in (0.3, 0.6, 1.2)]
    assert base < distances[0] < distances[1] < distances[2]
    assert frechet(moments, moments_of(good[:400])) > 2 * base
    all_modes, half, same = (neighborhoods(real, x) for x in (good, good[:400], good[:20].repeat(40, 1)))
    assert half.recall.mean() < 0.7 * all_modes.recall.mean() and half.coverage.mean() < 0.7 * all_modes.coverage.mean()
    assert same.coverage.mean() < 0.5 * all_modes.coverage.mean() and same.recall.mean() < 0.2
    noisy = neighborhoods(real, good + 1.5 * noise)
    assert noisy.precision.mean() < 0.5 * all_modes.precision.mean() and noisy.density.mean() < all_modes.density.mean()


def test_discriminant_separates_classes() -> None:
    labels = torch.arange(600) % 3
    centers = torch.randn(3, 24, generator=torch.Generator().manual_seed(7)) * 2
    x = features(600) + centers[labels]
    discriminant = Discriminant(x[:300], labels[:300], 3)
    assert discriminant.correct(x[300:], labels[300:]).mean() > 0.97
    assert discriminant.correct(x[300:], (labels[300:] + 1) % 3).mean() < 0.03
    few = Discriminant(x[:6], labels[:6], 3)
    assert torch.isfinite(few.correct(x, labels)).all()
