"""Distances between two sets of images, computed from their features (N, D) alone.

Long sums are computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BLOCK_ROWS = 1024
MAX_BLOCK_DISTANCES = 1 << 24  # 128 MB in float64


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and unbiased covariance (D, D) of `count` feature vectors."""

    count: int
    mean: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root (D, D) of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


class MomentSum:
    """Accumulates the moments of features batch by batch; only two sums are stored.

    `origin` (D,) is a point near the mean, for example the first vector: sums about it lose no digits to rounding,
    as sums about zero would.
    """

    def __init__(self, origin: Tensor) -> None:
        self.origin = origin.double()
        self.count = 0
        self.total = torch.zeros_like(self.origin)
        self.products = torch.zeros(len(origin), len(origin), dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add a batch (B, D)."""
        x = features.double() - self.origin
        self.count += len(x)
        self.total += x.sum(0)
        self.products += x.T @ x

    def moments(self) -> Moments:
        """The moments of all vectors added. Raises ValueError for fewer than two."""
        if self.count < 2:
            raise ValueError("moments need at least two images")
        mean = self.total / self.count
        covariance = (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return Moments(self.count, mean + self.origin, covariance)


def moments_of(features: Tensor, weights: Tensor | None = None) -> Moments:
    """Moments of features (N, D); `weights` (N,) are how often each row counts, as in a bootstrap resample."""
    if weights is None:
        total = MomentSum(features[0])
        for part in torch.split(features, 8 * BLOCK_ROWS):
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

    The trace of the root equals that of (Σ₁^½ Σ₂ Σ₁^½)^½, which is symmetric, so that eigenvalues suffice. It is called
    FID only in Inception's features.
    """
    cross = torch.linalg.eigvalsh(one.root @ two.covariance @ one.root).clamp(min=0).sqrt().sum()
    means = (one.mean - two.mean).square().sum()
    return max(0.0, float(means + one.covariance.trace() + two.covariance.trace() - 2 * cross))


def kernel_distances(one: Tensor, two: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Tensor:
    """Unbiased squared MMD with the kernel (x·y/D + 1)³ of random subsets of `size` images: (subsets,), float64.

    In Inception's features, its mean is the KID (Bińkowski et al. 2018, arXiv 1801.01401). Raises ValueError for fewer
    than two images.
    """
    size = min(size, len(one), len(two))
    if size < 2:
        raise ValueError("the kernel distance needs at least two images")
    generator = torch.Generator().manual_seed(seed)
    distances = torch.empty(subsets, dtype=torch.float64)
    for index in range(subsets):
        x = one[torch.randperm(len(one), generator=generator)[:size]].double()
        y = two[torch.randperm(len(two), generator=generator)[:size]].double()
        distances[index] = mmd(x, y)
    return distances


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of features (M, D) and (M, D) with the kernel (x·y/D + 1)³."""
    count, width = x.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / width + 1) ** 3

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (count * (count - 1))
    return within - 2 * xy.mean()


def distance_rows(one: Tensor, two: Tensor) -> Iterator[Tensor]:
    """Euclidean distances of features (N, D) to features (M, D), in blocks of rows (≤ N, M) of at most 128 MB."""
    # In float64, because the fast formula subtracts large squares and would be inexact for near neighbors.
    other = two.double()
    for part in torch.split(one, max(1, min(BLOCK_ROWS, MAX_BLOCK_DISTANCES // len(two)))):
        yield torch.cdist(part.double(), other)


def radii(features: Tensor, k: int) -> Tensor:
    """The distance (N,) of each vector to its k-th nearest other one. Raises ValueError for N ≤ k."""
    if len(features) <= k:
        raise ValueError(f"neighbors of order {k} need more than {k} images")
    # The nearest of all is the image itself, at distance 0.
    return torch.cat([rows.kthvalue(k + 1, dim=1).values for rows in distance_rows(features, features)])


@dataclass(frozen=True)
class Neighborhoods:
    """The contributions of each generated (G,) or real (R,) image to four metrics, which are their means.

    precision (G,) and density (G,) are of generated images, recall (R,) and coverage (R,) of real ones.
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def neighborhoods(real: Tensor, generated: Tensor, *, k: int = 3, k_density: int = 5) -> Neighborhoods:
    """Precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020,
    arXiv 2002.09797).

    The ball of an image reaches to its k-th nearest neighbor in its own set; `k` is that of the first two metrics,
    `k_density` that of the others. Precision: whether a generated image lies in any real ball. Recall: whether a real
    image lies in any generated ball. Density: the number of real balls that a generated image lies in, over k.
    Coverage: whether a real ball contains any generated image.
    """
    real_radii, real_radii_density, generated_radii = radii(real, k), radii(real, k_density), radii(generated, k)
    precision, density, recall = [], [], torch.zeros(len(real), dtype=torch.bool)
    nearest = torch.full((len(real),), torch.inf, dtype=torch.float64)
    start = 0
    for rows in distance_rows(generated, real):
        precision.append((rows <= real_radii).any(1))
        density.append((rows < real_radii_density).sum(1).double() / k_density)
        recall |= (rows <= generated_radii[start : start + len(rows), None]).any(0)
        nearest = torch.minimum(nearest, rows.min(0).values)
        start += len(rows)
    return Neighborhoods(
        torch.cat(precision).double(), recall.double(), torch.cat(density), (nearest < real_radii_density).double()
    )


def nearest(features: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """The distance (N,) of each vector to the nearest in `among` (M, D), and the index (N,) of that one."""
    minima = [rows.min(1) for rows in distance_rows(features, among)]
    return torch.cat([part.values for part in minima]), torch.cat([part.indices for part in minima])


class Discriminant:
    """Linear discriminant analysis (Fisher 1936): classifies features, with one covariance for all classes."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        x = features.double()
        one_hot = torch.nn.functional.one_hot(labels, classes).double()
        counts = one_hot.sum(0).clamp(min=1)
        means = one_hot.T @ x / counts[:, None]
        centered = x - means[labels]
        width = x.shape[1]
        covariance = centered.T @ centered / max(1, len(x) - classes)
        # With few images the covariance is singular: add a little of the mean variance to its diagonal.
        covariance += torch.eye(width, dtype=torch.float64) * (1e-3 * covariance.trace() / width + 1e-12)
        self.weights = torch.linalg.solve(covariance, means.T)
        self.bias = (counts / counts.sum()).log() - (means.T * self.weights).sum(0) / 2

    def correct(self, features: Tensor, labels: Tensor) -> Tensor:
        """Whether each vector (N, D) is classified as its label (N,): (N,) of 0.0 or 1.0, float64."""
        return ((features.double() @ self.weights + self.bias).argmax(1) == labels).double()
