"""Several fills from the noise of one, and the luck that chooses among them: all of it a function of the noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MOST, LEAST = 32, 4
ON_A_CPU = 110e6  # weights times pixels, in units of 32x32, for all candidates: two seconds a picture are enough
A_PART = 4  # numbers at least of which one piece of luck is made


def num_candidates(weights: int, size: int, device: torch.device, numbers: int, classes: int = 0) -> int:
    """Fills to choose from, by a core of so many weights, at `size` pixels, of noise of so many numbers.

    Each class that is tried first takes as long as a fill.
    """
    most = MOST
    if device.type == "cpu":
        most = max(LEAST, min(MOST, int(ON_A_CPU / (weights * (size / 32) ** 2)) - classes))
    return max(1, min(most, numbers // A_PART))


def permuted_noise(noise: Tensor, count: int) -> Iterator[Tensor]:
    """`noise` (B, N), and the same numbers in other places: as good as drawn anew."""
    step = max(1, noise.shape[1] // count)
    for index in range(count):
        yield noise.roll(index * step, 1)


def gumbel_noise(noise: Tensor, count: int) -> Tensor:
    """Gumbel variables (B, count): the largest of score plus luck is a draw by the scores.

    Each is made of a share of all the noise, so that it says next to nothing of any latent: luck that were a latent
    itself would choose by it.
    """
    if count > noise.shape[1]:
        # Fewer numbers than are wanted: sums of all of them, each with signs and weights of its own.
        ways = torch.randn(noise.shape[1], count, generator=torch.Generator().manual_seed(0)).to(noise)
        sums = noise @ (ways / ways.norm(dim=0))
    else:
        parts = (noise[:, index::count] for index in range(count))
        sums = torch.stack([part.sum(1) / part.shape[1] ** 0.5 for part in parts], 1)
    shares = torch.special.ndtr(sums).clamp(1e-6, 1 - 1e-6)
    return -torch.log(-torch.log(shares))


def unique_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows (B, N) are the first of their like, and for each row which of those is like it."""
    kinds, kind_of = torch.unique(rows, dim=0, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    first = torch.full((len(kinds),), len(rows), device=rows.device).scatter_reduce(0, kind_of, places, "amin")
    return first, kind_of
