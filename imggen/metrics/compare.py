"""Figures with intervals: what evaluate prints, worked out from features."""

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
    neighbourhoods,
)

RESAMPLES = 400
FRECHET_RESAMPLES = 20
KERNEL_SIZE = 1000
LOWER_IS_BETTER = ("fd", "fid", "kd", "kid")


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % bootstrap interval, how many pictures it rests on, and in whose features it was taken."""

    name: str
    value: float
    low: float
    high: float
    count: int
    features: str

    def to_json(self) -> dict[str, Any]:
        """Without the name, which is the key."""
        return {key: value for key, value in asdict(self).items() if key != "name"}

    def better_than(self, other: Estimate) -> bool:
        """Whether this one is the better. Raises ValueError when they are figures of different kinds.

        A distance means nothing outside the features, and little away from the number of pictures, that it was taken
        with.
        """
        if (self.name, self.features, self.count) != (other.name, other.features, other.count):
            raise ValueError(
                f"{self.name} in features {self.features} of {self.count} pictures does not compare with "
                f"{other.name} in features {other.features} of {other.count}"
            )
        return self.value < other.value if self.name in LOWER_IS_BETTER else self.value > other.value


class Estimator:
    """Makes figures; `features` is the extractor's hash, and only Inception's distances are called FID and KID."""

    def __init__(self, features: str, *, inception: bool = False, seed: int = 0) -> None:
        self.features = features
        self.names = {"frechet": "fid", "kernel": "kid"} if inception else {"frechet": "fd", "kernel": "kd"}
        self.seed = seed

    def _figure(self, name: str, value: float, low: float, high: float, count: int) -> Estimate:
        return Estimate(name, value, low, high, count, self.features)

    def frechet(self, reference: Moments, features: Tensor) -> Estimate:
        """The Fréchet distance. Its interval is the bootstrap's spread about the value itself.

        Resampled pictures repeat, which adds a distance of its own: the middle of the resampled values is too high.
        """
        value = frechet(reference, moments_of(features))
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for _ in range(FRECHET_RESAMPLES):
            drawn = torch.randint(len(features), (len(features),), generator=generator)
            found.append(frechet(reference, moments_of(features, torch.bincount(drawn, minlength=len(features)))))
        spread = 1.96 * float(torch.tensor(found, dtype=torch.float64).std())
        return self._figure(self.names["frechet"], value, max(0.0, value - spread), value + spread, len(features))

    def kernel(self, reference: Tensor, features: Tensor) -> Estimate:
        """The kernel distance, of 100 subsets of 1,000 or half of what there is; unbiased, so it can fall below 0.

        Subsets of m of n pictures, drawn without repetition, overlap: their spread times √(m/(n-m)) is that of the
        whole (the delete-group jackknife, Shao and Wu 1989).
        """
        count = min(len(features), len(reference))
        size = max(2, min(KERNEL_SIZE, count // 2))
        found = kernel_distances(reference, features, size=size, seed=self.seed)
        value = float(found.mean())
        spread = 1.96 * float(found.std()) * (size / (count - size)) ** 0.5
        return self._figure(self.names["kernel"], value, value - spread, value + spread, len(features))

    def mean(self, name: str, contributions: Tensor) -> Estimate:
        """The mean of what each picture (N,) contributes."""
        return self._resampled(name, contributions, lambda rows: rows.mean(-1))

    def median(self, name: str, contributions: Tensor) -> Estimate:
        """Their median."""
        return self._resampled(name, contributions, lambda rows: rows.median(-1).values)

    def _resampled(self, name: str, contributions: Tensor, statistic: Callable[[Tensor], Tensor]) -> Estimate:
        generator = torch.Generator().manual_seed(self.seed)
        count = len(contributions)
        found = torch.stack(
            [statistic(contributions[torch.randint(count, (count,), generator=generator)]) for _ in range(RESAMPLES)]
        )
        low, high = torch.quantile(found.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return self._figure(name, float(statistic(contributions)), low, high, count)


def evenly_spaced(total: int, count: int) -> Tensor:
    """`count` evenly spaced indices of `total`, the first and the last among them; all where there are no more."""
    if count >= total:
        return torch.arange(total)
    return torch.linspace(0, total - 1, count, dtype=torch.float64).long()


@dataclass(frozen=True)
class FeatureSet:
    """Features (N, D) of some pictures, and their labels (N,) where they have any."""

    features: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def spread(self, count: int) -> FeatureSet:
        """`count` evenly spaced ones, or all."""
        chosen = evenly_spaced(len(self), count)
        return FeatureSet(self.features[chosen], None if self.labels is None else self.labels[chosen])


@dataclass(frozen=True)
class Comparison:
    """All figures of the generated pictures, the same of held-out ones, and the nearest of all training pictures."""

    metrics: dict[str, Estimate]
    floor: dict[str, Estimate]
    nearest_distances: Tensor
    nearest_indices: Tensor


def compare(
    reference: FeatureSet,
    held_out: FeatureSet | None,
    pool: Tensor,
    generated: FeatureSet,
    measure: Estimator,
    classes: int,
) -> Comparison:
    """Hold generated pictures, and held-out ones as the floor, against the reference pictures.

    `pool` are the features (P, D) of all pictures that the model may have seen: copies are searched for there.
    """
    moments = moments_of(reference.features)
    judge = None
    if classes and reference.labels is not None:
        judge = Discriminant(reference.features, reference.labels, classes)
    figures, distances = _figures(reference, moments, generated, measure, judge)
    floor: dict[str, Estimate] = {}
    if held_out is not None:
        floor, of_held_out = _figures(reference, moments, held_out, measure, judge)
        near = torch.quantile(of_held_out, 0.01)
        for found, values in ((figures, distances), (floor, of_held_out)):
            found["copied"] = measure.mean("copied", (values < near).double())
    return Comparison(figures, floor, *nearest(generated.features, pool))


def _figures(
    reference: FeatureSet, moments: Moments, sample: FeatureSet, measure: Estimator, judge: Discriminant | None
) -> tuple[dict[str, Estimate], Tensor]:
    # As many real pictures as generated ones: a recall of 50,000 by 1,000 would be low for a perfect model.
    real = reference.spread(len(sample))
    found = neighbourhoods(real.features, sample.features)
    distances, _ = nearest(sample.features, reference.features)
    figures = [
        measure.frechet(moments, sample.features),
        measure.kernel(reference.features, sample.features),
        measure.mean("precision", found.precision),
        measure.mean("recall", found.recall),
        measure.mean("density", found.density),
        measure.mean("coverage", found.coverage),
    ]
    if judge is not None and sample.labels is not None:
        figures.append(measure.mean("accuracy", judge.correct(sample.features, sample.labels)))
    figures.append(measure.median("nearest", distances))
    return {figure.name: figure for figure in figures}, distances
