"""Distances between two sets of pictures, worked out from their features alone.

Features are (N, D) tensors; everything is computed in float64 where sums are long. Nothing here knows of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ROWS = 1024
DISTANCES = 1 << 24


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D), over N - 1, of some features."""

    count: int
    mean: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root (D, D) of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        return root


class MomentSum:
    """Moments of features that come batch by batch: nothing is kept but two sums."""

    def __init__(self, origin: Tensor) -> None:
        # Sums about a point near the mean lose no digits, as sums about zero would.
        self.origin = origin.double()
        self.count = 0
        self.total = torch.zeros_like(self.origin)
        self.products = torch.zeros(len(origin), len(origin), dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Take in a batch (B, D)."""
        x = features.double() - self.origin
        self.count += len(x)
        self.total += x.sum(0)
        self.products += x.T @ x

    def moments(self) -> Moments:
        """Of all that was added. Raises ValueError for fewer than two."""
        if self.count < 2:
            raise ValueError("moments need at least two pictures")
        mean = self.total / self.count
        covariance = (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return Moments(self.count, mean + self.origin, covariance)


def moments_of(features: Tensor, weights: Tensor | None = None) -> Moments:
    """Moments of features (N, D); `weights` (N,) count rows more than once, as a bootstrap does."""
    if weights is None:
        total = MomentSum(features[0])
        for part in torch.split(features, 8 * ROWS):
            total.add(part)
        return total.moments()
    kept = weights > 0
    x, w = features[kept].double(), weights[kept].double()
    count = w.sum()
    mean = (w @ x) / count
    x -= mean
    return Moments(int(count), mean, (x * w[:, None]).T @ x / (count - 1))


def frechet(one: Moments, two: Moments) -> float:
    """‖μ₁-μ₂‖² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½), the Fréchet distance of two Gaussians (Heusel et al. 2017, arXiv 1706.08500).

    The trace of the root is that of (Σ₁^½ Σ₂ Σ₁^½)^½, which is symmetric: eigenvalues suffice. Called FID only in
    Inception's features.
    """
    cross = torch.linalg.eigvalsh(one.root @ two.covariance @ one.root).clamp(min=0).sqrt().sum()
    means = (one.mean - two.mean).square().sum()
    return max(0.0, float(means + one.covariance.trace() + two.covariance.trace() - 2 * cross))


def kernel_distances(one: Tensor, two: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Tensor:
    """Unbiased squared MMD with the kernel (x·y/D + 1)³ on random subsets: (subsets,); its mean is the KID.

    Bińkowski et al. 2018, arXiv 1801.01401. Raises ValueError for fewer than two pictures.
    """
    size = min(size, len(one), len(two))
    if size < 2:
        raise ValueError("the kernel distance needs at least two pictures")
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty(subsets, dtype=torch.float64)
    for index in range(subsets):
        x = one[torch.randperm(len(one), generator=generator)[:size]].double()
        y = two[torch.randperm(len(two), generator=generator)[:size]].double()
        found[index] = mmd(x, y)
    return found


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared MMD of features (M, D) and (M, D) with the cubic kernel."""
    count, width = x.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / width + 1) ** 3

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (count * (count - 1))
    return within - 2 * xy.mean()


def distance_rows(one: Tensor, two: Tensor) -> Iterator[Tensor]:
    """Euclidean distances of (N, D) to (M, D), some rows of N at a time: at most 128 MB of them."""
    # In float64: the difference of large squares that the fast formula takes would lose near neighbours.
    other = two.double()
    for part in torch.split(one, max(1, min(ROWS, DISTANCES // len(two)))):
        yield torch.cdist(part.double(), other)


def radii(features: Tensor, k: int) -> Tensor:
    """The distance (N,) of each to its k-th nearest other. Raises ValueError when there are not that many."""
    if len(features) <= k:
        raise ValueError(f"neighbours of order {k} need more than {k} pictures")
    # The nearest of all is the picture itself, at 0.
    return torch.cat([rows.kthvalue(k + 1, dim=1).values for rows in distance_rows(features, features)])


@dataclass(frozen=True)
class Neighbourhoods:
    """What each generated (G,) or real (R,) picture contributes; the figures are the means."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def neighbourhoods(real: Tensor, generated: Tensor, *, k: int = 3, k_density: int = 5) -> Neighbourhoods:
    """Precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020,
    arXiv 2002.09797).

    precision: is a generated picture within some real picture's ball? recall: the other way round. density: in how
    many real balls, over k. coverage: has a real picture's ball a generated one in it? Balls reach the k-th
    neighbour: k of 3 for the first two, of 5 for the others.
    """
    reach, reach_density, reach_generated = radii(real, k), radii(real, k_density), radii(generated, k)
    precision, density, recall = [], [], torch.zeros(len(real), dtype=torch.bool)
    nearest = torch.full((len(real),), torch.inf, dtype=torch.float64)
    start = 0
    for rows in distance_rows(generated, real):
        precision.append((rows <= reach).any(1))
        density.append((rows < reach_density).sum(1).double() / k_density)
        recall |= (rows <= reach_generated[start : start + len(rows), None]).any(0)
        nearest = torch.minimum(nearest, rows.min(0).values)
        start += len(rows)
    return Neighbourhoods(
        torch.cat(precision).double(), recall.double(), torch.cat(density), (nearest < reach_density).double()
    )


def nearest(features: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """The distance (N,) of each to its nearest of `among` (M, D), and which that is (N,)."""
    found = [rows.min(1) for rows in distance_rows(features, among)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


class Discriminant:
    """Linear discriminant analysis (Fisher 1936): which class do features look like, with one covariance for all."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        x = features.double()
        one_hot = torch.nn.functional.one_hot(labels, classes).double()
        counts = one_hot.sum(0).clamp(min=1)
        means = one_hot.T @ x / counts[:, None]
        centred = x - means[labels]
        width = x.shape[1]
        covariance = centred.T @ centred / max(1, len(x) - classes)
        # A little of the mean variance on the diagonal: with few pictures the covariance has no inverse.
        covariance += torch.eye(width, dtype=torch.float64) * (1e-3 * covariance.trace() / width + 1e-12)
        self.weights = torch.linalg.solve(covariance, means.T)
        self.bias = (counts / counts.sum()).log() - (means.T * self.weights).sum(0) / 2

    def correct(self, features: Tensor, labels: Tensor) -> Tensor:
        """Whether each (N,) is taken for its own class, as 0.0 or 1.0."""
        right: Tensor = ((features.double() @ self.weights + self.bias).argmax(1) == labels).double()
        return right
