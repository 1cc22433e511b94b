"""The metrics that `evaluate` prints, each with an interval, computed from features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from imggen.metrics.distances import (
    Discriminant,
    Moments,
    frechet,
    kernel_distances,
    moments_of,
    nearest,
    neighborhoods,
)

BOOTSTRAP_RESAMPLES = 400
FRECHET_RESAMPLES = 20
KERNEL_SUBSETS = 100
KERNEL_SUBSET_SIZE = 1000
NORMAL_97_5_PERCENTILE = 1.96  # of the standard normal distribution: half the width of a 95 % interval
COPY_QUANTILE = 0.01
LOWER_IS_BETTER = ("fd", "fid", "fd_pretrained", "kd", "kid", "kd_pretrained", "error")


@dataclass(frozen=True)
class Estimate:
    """The value of a metric, with a 95 % bootstrap interval from `low` to `high`.

    `count` is the number of images it was computed from, `features` the hash of the feature extractor.
    """

    name: str
    value: float
    low: float
    high: float
    count: int
    features: str

    def to_json(self) -> dict[str, Any]:
        """All fields but the name, which callers use as the key."""
        return {key: value for key, value in asdict(self).items() if key != "name"}

    def better_than(self, other: Estimate) -> bool:
        """Whether this value is better than the other. Raises ValueError if the two cannot be compared.

        They can only if metric, features and number of images are the same: a distance depends on all three.
        """
        if (self.name, self.features, self.count) != (other.name, other.features, other.count):
            raise ValueError(
                f"{self.name} in features {self.features} of {self.count} images does not compare with "
                f"{other.name} in features {other.features} of {other.count}"
            )
        return self.value < other.value if self.name in LOWER_IS_BETTER else self.value > other.value


class Estimator:
    """Computes metrics with their intervals.

    `features` is the hash of the feature extractor, `distances` are the names of the Fréchet and the kernel distance
    in its features. `seed` determines the resampling.
    """

    def __init__(self, features: str, *, distances: tuple[str, str] = ("fd", "kd"), seed: int = 0) -> None:
        self.features = features
        self.distances = distances
        self.seed = seed

    def _estimate(self, name: str, value: float, low: float, high: float, count: int) -> Estimate:
        return Estimate(name, value, low, high, count, self.features)

    def frechet(self, reference: Moments, features: Tensor) -> Estimate:
        """The Fréchet distance of features (N, D) to the reference.

        The interval is the value plus and minus the spread of bootstrap resamples. The mean of the resamples is not
        used, because it is biased upwards: resampled images repeat, which increases the distance.
        """
        value = frechet(reference, moments_of(features))
        generator = torch.Generator().manual_seed(self.seed)
        resampled = []
        for _ in range(FRECHET_RESAMPLES):
            rows = torch.randint(len(features), (len(features),), generator=generator)
            resampled.append(frechet(reference, moments_of(features, torch.bincount(rows, minlength=len(features)))))
        spread = NORMAL_97_5_PERCENTILE * float(torch.tensor(resampled, dtype=torch.float64).std())
        return self._estimate(self.distances[0], value, max(0.0, value - spread), value + spread, len(features))

    def kernel(self, reference: Tensor, features: Tensor) -> Estimate:
        """The kernel distance of features (N, D) to the reference (M, D); unbiased, so it can be negative.

        It is the mean over 100 subsets (KERNEL_SUBSETS) of m images: 1,000, or half of what there is. Subsets of m of n
        images, sampled without replacement, overlap: their standard deviation times √(m/(n-m)) is that of the whole
        (the delete-group jackknife, Shao and Wu 1989).
        """
        count = min(len(features), len(reference))
        size = max(2, min(KERNEL_SUBSET_SIZE, count // 2))
        distances = kernel_distances(reference, features, subsets=KERNEL_SUBSETS, size=size, seed=self.seed)
        value = float(distances.mean())
        spread = NORMAL_97_5_PERCENTILE * float(distances.std()) * (size / (count - size)) ** 0.5
        return self._estimate(self.distances[1], value, value - spread, value + spread, len(features))

    def mean(self, name: str, contributions: Tensor) -> Estimate:
        """The mean of the images' contributions (N,)."""
        return self.bootstrap(name, contributions, lambda rows: rows.mean(-1))

    def median(self, name: str, contributions: Tensor) -> Estimate:
        """The median of the images' contributions (N,)."""
        return self.bootstrap(name, contributions, lambda rows: rows.median(-1).values)

    def bootstrap(self, name: str, contributions: Tensor, statistic: Callable[[Tensor], Tensor]) -> Estimate:
        """A statistic of the images' contributions (N, ...), with the percentile interval of its bootstrap."""
        generator = torch.Generator().manual_seed(self.seed)
        count = len(contributions)
        resampled = torch.stack(
            [
                statistic(contributions[torch.randint(count, (count,), generator=generator)])
                for _ in range(BOOTSTRAP_RESAMPLES)
            ]
        )
        return self._estimate(name, float(statistic(contributions)), *_interval(resampled), count)

    def of_sums(self, name: str, contributions: Tensor, statistic: Callable[[Tensor], Tensor]) -> Estimate:
        """`bootstrap` of a statistic of the sum of the images' contributions (N, ...): it maps (..., ...) to (...).

        Faster than `bootstrap`. Resamples whose value is NaN, because they lack what it is of, are left out.
        """
        generator = torch.Generator().manual_seed(self.seed)
        count, contributions = len(contributions), contributions.double()
        draws = torch.randint(count, (BOOTSTRAP_RESAMPLES, count), generator=generator)
        repeats = torch.stack([torch.bincount(rows, minlength=count) for rows in draws]).double()
        resampled = statistic(torch.tensordot(repeats, contributions, 1))
        return self._estimate(name, float(statistic(contributions.sum(0))), *_interval(resampled), count)


def _interval(resampled: Tensor) -> tuple[float, float]:
    """The bounds between which 95 % of the values lie; those that are NaN are left out."""
    low, high = torch.nanquantile(resampled.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def evenly_spaced(total: int, count: int) -> Tensor:
    """`count` evenly spaced indices from 0 to total - 1, both included; all of them if `count` is not less."""
    if count >= total:
        return torch.arange(total)
    return torch.linspace(0, total - 1, count, dtype=torch.float64).long()


@dataclass(frozen=True)
class FeatureSet:
    """Features (N, D) of some images, and their labels (N,) if they have classes."""

    features: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def subset(self, count: int) -> FeatureSet:
        """`count` evenly spaced images, or all if there are not more."""
        chosen = evenly_spaced(len(self), count)
        return FeatureSet(self.features[chosen], None if self.labels is None else self.labels[chosen])


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    `metrics` are those of the generated images, and `floor` the same metrics of held-out real images, by name: a
    perfect model would reach the floor. `nearest_distances` (N,) and `nearest_indices` (N,) are the distance of each
    generated image to its nearest training image, and that image's index.
    """

    metrics: dict[str, Estimate]
    floor: dict[str, Estimate]
    nearest_distances: Tensor
    nearest_indices: Tensor


def compare(
    reference: FeatureSet,
    held_out: FeatureSet | None,
    pool: Tensor,
    generated: FeatureSet,
    estimator: Estimator,
    classes: int,
) -> Comparison:
    """Compare generated images, and held-out real images, with reference images.

    `pool` are the features (P, D) of all images that the model may have been trained on, among which the nearest are
    searched. With `classes` > 0 and labels, the accuracy of the generated classes is measured too.
    """
    moments = moments_of(reference.features)
    discriminant = None
    if classes and reference.labels is not None:
        discriminant = Discriminant(reference.features, reference.labels, classes)
    metrics, distances = _metrics(reference, moments, generated, estimator, discriminant)
    floor: dict[str, Estimate] = {}
    if held_out is not None:
        floor, held_out_distances = _metrics(reference, moments, held_out, estimator, discriminant)
        # A copy is an image nearer to a reference image than 99 % of the held-out images are.
        copy_distance = torch.quantile(held_out_distances, COPY_QUANTILE)
        for estimates, values in ((metrics, distances), (floor, held_out_distances)):
            estimates["copied"] = estimator.mean("copied", (values < copy_distance).double())
    return Comparison(metrics, floor, *nearest(generated.features, pool))


def _metrics(
    reference: FeatureSet,
    moments: Moments,
    images: FeatureSet,
    estimator: Estimator,
    discriminant: Discriminant | None,
) -> tuple[dict[str, Estimate], Tensor]:
    """All metrics of some images by name, and their distances (N,) to the nearest reference image."""
    # As many real images as generated ones: 1,000 samples of even a perfect model cover few of 50,000 real images.
    real = reference.subset(len(images))
    neighbors = neighborhoods(real.features, images.features)
    distances, _ = nearest(images.features, reference.features)
    estimates = [
        estimator.frechet(moments, images.features),
        estimator.kernel(reference.features, images.features),
        estimator.mean("precision", neighbors.precision),
        estimator.mean("recall", neighbors.recall),
        estimator.mean("density", neighbors.density),
        estimator.mean("coverage", neighbors.coverage),
    ]
    if discriminant is not None and images.labels is not None:
        estimates.append(estimator.mean("accuracy", discriminant.correct(images.features, images.labels)))
    estimates.append(estimator.median("nearest", distances))
    return {estimate.name: estimate for estimate in estimates}, distances
