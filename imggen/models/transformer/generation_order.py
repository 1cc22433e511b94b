"""In which order, and how many at a time, tokens are drawn; and the orders that the prior is trained with."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

RASTER, HALTON, BOX = 0.15, 0.15, 0.3  # shares of the training's orders; the rest are random ones
PREFIX = 0.5  # share of them that begin with a large group, as filling a hole does


def _radical_inverse(index: int, base: int) -> float:
    value, unit = 0.0, 1.0
    while index:
        unit /= base
        index, digit = divmod(index, base)
        value += digit * unit
    return value


@lru_cache(maxsize=16)
def halton(side: int) -> tuple[int, ...]:
    """All places of a side x side grid, row by row, in an order in which neighbours in time are far apart in space.

    Halton's sequence (bases 2 and 3), each place where it comes first (Besnier et al. 2025, arXiv 2503.17076).
    """
    found: dict[int, None] = {}
    index = 1
    while len(found) < side * side:
        row, column = int(_radical_inverse(index, 2) * side), int(_radical_inverse(index, 3) * side)
        found.setdefault(row * side + column)
        index += 1
    return tuple(found)


def sizes(count: int, steps: int) -> list[int]:
    """`count` tokens in at most `steps` groups, small ones first: while little is known, little is drawn at once."""
    steps = max(1, min(steps, count))
    ends = [round(count * (1 - math.cos(math.pi / 2 * step / steps))) for step in range(steps + 1)]
    for step in range(1, steps + 1):
        # Every group has a token, and leaves one for each of those that follow.
        ends[step] = min(max(ends[step], ends[step - 1] + 1), count - (steps - step))
    return [after - before for before, after in itertools.pairwise(ends)] if count else []


def schedule(order: tuple[int, ...], steps: int) -> list[list[int]]:
    """The places of `order` in the groups that they are drawn in."""
    groups, start = [], 0
    for size in sizes(len(order), steps):
        groups.append(list(order[start : start + size]))
        start += size
    return groups


def groups_of(plan: list[list[int]], length: int, device: torch.device | None = None) -> Tensor:
    """The number of each place's group, (length,), int64."""
    found = [0] * length
    for number, places in enumerate(plan):
        for place in places:
            found[place] = number
    return torch.tensor(found, device=device)


def training_groups(count: int, side: int, device: torch.device) -> Tensor:
    """Random orders and random group sizes, (count, side²), int64: each place's group, from 0 on.

    Mostly random orders, some raster and Halton ones (Pang et al. 2024, arXiv 2412.01827, mix orders too), and some
    that leave a rectangle for the end, as a hole does. Half of the rows begin with a group of any size.
    """
    length = side * side
    row, column = torch.arange(side, device=device).repeat_interleave(side), torch.arange(side, device=device)
    column = column.repeat(side)
    random = torch.rand(count, length, device=device)
    corners = (torch.rand(count, 4, device=device) * (side + 1)).floor().view(count, 2, 2).sort(1).values
    corners[:, 0].clamp_(max=side - 1)
    corners[:, 1] = torch.maximum(corners[:, 1], corners[:, 0] + 1)
    inside = (row >= corners[:, 0, :1]) & (row < corners[:, 1, :1])
    inside &= (column >= corners[:, 0, 1:]) & (column < corners[:, 1, 1:])
    places = torch.empty(length, device=device)
    places[torch.tensor(halton(side), device=device)] = torch.arange(length, device=device, dtype=torch.float32)
    kind = torch.rand(count, 1, device=device)
    key = torch.where(kind < RASTER, torch.arange(length, device=device, dtype=torch.float32), random)
    key = torch.where((kind >= RASTER) & (kind < RASTER + HALTON), places, key)
    boxed = (kind >= RASTER + HALTON) & (kind < RASTER + HALTON + BOX)
    key = torch.where(boxed, random + inside, key)
    rank = key.argsort(1).argsort(1)
    # A box's order begins with all that lies around it; the others' with as many as chance says.
    prefix = (torch.rand(count, 1, device=device) * length).floor()
    prefix = torch.where(boxed, length - inside.sum(1, keepdim=True), prefix)
    prefix = torch.where(torch.rand(count, 1, device=device) < PREFIX, prefix, torch.zeros_like(prefix))
    # From two steps on: what the first group of few steps is, that of many steps teaches.
    steps = (2 * torch.exp(torch.rand(count, 1, device=device) * math.log(length))).floor()
    share = ((rank - prefix + 0.5) / (length - prefix).clamp(min=1)).clamp(0, 1)
    later = (steps * torch.arccos(1 - share) / (math.pi / 2)).floor().clamp(max=length)
    return torch.where(rank < prefix, torch.zeros_like(later), later + (prefix > 0)).long()
