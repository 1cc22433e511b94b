"""Candidate fills from permutations of one noise vector, and the choice of one among them.

Everything here is a function of the noise, so that a seed gives one fill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

MAX_CANDIDATES, MIN_CANDIDATES_ON_CPU = 32, 4
# Weights times pixels (in units of 32x32 px) of all candidates on a CPU: about two seconds per image.
CPU_BUDGET = 110e6
MIN_NOISE_PER_GUMBEL = 4  # elements of the noise that are summed to one Gumbel variable
MIN_PROBABILITY = 1e-6  # keeps Gumbel variables finite


class Candidate(NamedTuple):
    """One fill for each image of a batch (B, C, H, W), and the log of its importance weight (B,), unnormalized."""

    images: Tensor
    log_weight: Tensor


def resample(candidates: Iterable[Candidate], gumbel: Tensor, default: Tensor) -> Tensor:
    """Self-normalized importance resampling: choose a candidate with probability proportional to its weight.

    By the Gumbel-max trick, the largest of log weight + Gumbel noise is such a choice; `gumbel` (B, number of
    candidates) is that noise. A candidate with a NaN weight is never chosen; if all are NaN, `default` is returned.
    """
    chosen, best_score = default, torch.full_like(gumbel[:, 0], -torch.inf)
    for (images, log_weight), noise in zip(candidates, gumbel.unbind(1), strict=True):
        score = log_weight + noise
        better = score > best_score
        chosen = torch.where(better.view(-1, 1, 1, 1), images, chosen)
        best_score = torch.where(better, score, best_score)
    return chosen


def num_candidates(weights: int, size: int, device: torch.device, noise_size: int, classes: int = 0) -> int:
    """How many candidates to compare, for a core of `weights` parameters at `size` pixels.

    Fewer on a CPU for large models; scoring each of `classes` classes first takes as long as one candidate.
    `noise_size` is the number of elements of the noise.
    """
    count = MAX_CANDIDATES
    if device.type == "cpu":
        affordable = int(CPU_BUDGET / (weights * (size / 32) ** 2)) - classes
        count = max(MIN_CANDIDATES_ON_CPU, min(MAX_CANDIDATES, affordable))
    return max(1, min(count, noise_size // MIN_NOISE_PER_GUMBEL))


def permuted_noise(noise: Tensor, count: int) -> Iterator[Tensor]:
    """`noise` (B, N), then `count` - 1 rotations of it, each standard normal like a new sample."""
    step = max(1, noise.shape[1] // count)
    for index in range(count):
        yield noise.roll(index * step, 1)


def gumbel_noise(noise: Tensor, count: int) -> Tensor:
    """Gumbel variables (B, count) made from standard normal noise (B, N).

    Each is made from the sum of every `count`-th element, so that it is almost independent of any single one: if it
    were a latent itself, fills would be chosen by the value of that latent.
    """
    if count > noise.shape[1]:
        # More variables than elements: random linear combinations of all elements.
        mixing = torch.randn(noise.shape[1], count, generator=torch.Generator().manual_seed(0)).to(noise)
        normal = noise @ (mixing / mixing.norm(dim=0))
    else:
        parts = (noise[:, index::count] for index in range(count))
        normal = torch.stack([part.sum(1) / part.shape[1] ** 0.5 for part in parts], 1)
    uniform = torch.special.ndtr(normal).clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return -torch.log(-torch.log(uniform))


def unique_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the first of each set of equal rows (B, N), and for each row the position in them of its equal."""
    unique, inverse = torch.unique(rows, dim=0, return_inverse=True)
    indices = torch.arange(len(rows), device=rows.device)
    first = torch.full((len(unique),), len(rows), device=rows.device).scatter_reduce(0, inverse, indices, "amin")
    return first, inverse
