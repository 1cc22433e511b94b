"""In which order, and how many at a time, tokens are sampled; and the random orders that the prior is trained with."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

from imggen.models import global_batch

# Fractions of the orders in training; all others are uniformly random.
RASTER_FRACTION, HALTON_FRACTION, BOX_FRACTION = 0.15, 0.15, 0.3
PREFIX_FRACTION = 0.5  # of the training orders begin with a large group, as inpainting does


def _radical_inverse(index: int, base: int) -> float:
    """The digits of `index` in a base, mirrored at the decimal point: in [0, 1)."""
    value, unit = 0.0, 1.0
    while index:
        unit /= base
        index, digit = divmod(index, base)
        value += digit * unit
    return value


@lru_cache(maxsize=16)
def halton(side: int) -> tuple[int, ...]:
    """All positions of a side x side grid in an order in which successive positions are far apart.

    Halton's sequence in bases 2 and 3, each position where it first occurs (Besnier et al. 2025, arXiv 2503.17076).
    """
    order: dict[int, None] = {}
    index = 1
    while len(order) < side * side:
        row, column = int(_radical_inverse(index, 2) * side), int(_radical_inverse(index, 3) * side)
        order.setdefault(row * side + column)
        index += 1
    return tuple(order)


def group_sizes(count: int, steps: int) -> list[int]:
    """Split `count` tokens into at most `steps` groups by a cosine schedule, small groups first.

    The first tokens are sampled with little context, so few of them are sampled independently of each other.
    """
    steps = max(1, min(steps, count))
    ends = [round(count * (1 - math.cos(math.pi / 2 * step / steps))) for step in range(steps + 1)]
    for step in range(1, steps + 1):
        # Every group has a token, and leaves one for each group that follows.
        ends[step] = min(max(ends[step], ends[step - 1] + 1), count - (steps - step))
    return [after - before for before, after in itertools.pairwise(ends)] if count else []


def schedule(order: tuple[int, ...], steps: int) -> list[list[int]]:
    """Split positions in their order into at most `steps` groups, see `group_sizes`."""
    groups, start = [], 0
    for size in group_sizes(len(order), steps):
        groups.append(list(order[start : start + size]))
        start += size
    return groups


def group_indices(plan: list[list[int]], length: int, device: torch.device | None = None) -> Tensor:
    """The index of each position's group in a plan, (length,), int64."""
    indices = [0] * length
    for index, positions in enumerate(plan):
        for position in positions:
            indices[position] = index
    return torch.tensor(indices, device=device)


def training_groups(count: int, side: int, device: torch.device) -> Tensor:
    """Random orders in groups of random sizes: the group of each position, (count, side²), int64, counted from 0.

    Most orders are random, some raster and Halton orders (as Pang et al. 2024, arXiv 2412.01827, mix orders), and some
    leave a rectangle for the end, as inpainting does. Half of the rows begin with a group of any size (a prefix).
    """
    length = side * side
    # Every position of every row gets a sort key; the kind of order decides which key counts.
    random_key = global_batch.rand(count, length, device=device)
    in_box = _random_boxes(count, side, device)
    kind = global_batch.rand(count, 1, device=device)
    raster = kind < RASTER_FRACTION
    near_halton = (kind >= RASTER_FRACTION) & (kind < RASTER_FRACTION + HALTON_FRACTION)
    boxed = (kind >= RASTER_FRACTION + HALTON_FRACTION) & (kind < RASTER_FRACTION + HALTON_FRACTION + BOX_FRACTION)
    key = torch.where(boxed, random_key + in_box, random_key)  # + 1 in the box: after everything around it
    key = torch.where(near_halton, _halton_key(side, device), key)
    key = torch.where(raster, _raster_key(length, device), key)
    rank = key.argsort(1).argsort(1)

    # The prefix is all that lies around a box, otherwise of a random length.
    prefix = (global_batch.rand(count, 1, device=device) * length).floor()
    prefix = torch.where(boxed, length - in_box.sum(1, keepdim=True), prefix)
    prefix = torch.where(global_batch.rand(count, 1, device=device) < PREFIX_FRACTION, prefix, torch.zeros_like(prefix))
    return _cosine_groups(rank, prefix, length)


def _raster_key(length: int, device: torch.device) -> Tensor:
    """Sort key (length,) of raster order."""
    return torch.arange(length, device=device, dtype=torch.float32)


def _halton_key(side: int, device: torch.device) -> Tensor:
    """Sort key (side²,) of Halton's order: each position's rank in it."""
    key = torch.empty(side * side, device=device, dtype=torch.float32)
    key[torch.tensor(halton(side), device=device)] = torch.arange(side * side, device=device, dtype=torch.float32)
    return key


def _random_boxes(count: int, side: int, device: torch.device) -> Tensor:
    """Which positions lie in a random rectangle of at least one row and column: (count, side²), bool."""
    row = torch.arange(side, device=device).repeat_interleave(side)
    column = torch.arange(side, device=device).repeat(side)
    # corners[:, 0] is (top, left), corners[:, 1] is (bottom, right), which is exclusive.
    corners = (global_batch.rand(count, 4, device=device) * (side + 1)).floor().view(count, 2, 2).sort(1).values
    corners[:, 0].clamp_(max=side - 1)
    corners[:, 1] = torch.maximum(corners[:, 1], corners[:, 0] + 1)
    in_rows = (row >= corners[:, 0, :1]) & (row < corners[:, 1, :1])
    return in_rows & (column >= corners[:, 0, 1:]) & (column < corners[:, 1, 1:])


def _cosine_groups(rank: Tensor, prefix: Tensor, length: int) -> Tensor:
    """Ranks (count, length) → groups: group 0 has the ranks below `prefix` (count, 1), then comes a cosine schedule.

    The number of steps s is log-uniform from 2 to twice the length: a single step needs no training of its own, since
    it is also the first group of many steps. After t steps of the cosine schedule the fraction 1 - cos(π/2 · t/s) of
    the tokens is sampled; a token with the fraction f before it is therefore in group s · arccos(1 - f) / (π/2).
    """
    steps = (2 * torch.exp(global_batch.rand(len(rank), 1, device=rank.device) * math.log(length))).floor()
    fraction = ((rank - prefix + 0.5) / (length - prefix).clamp(min=1)).clamp(0, 1)
    group = (steps * torch.arccos(1 - fraction) / (math.pi / 2)).floor().clamp(max=length)
    return torch.where(rank < prefix, torch.zeros_like(group), group + (prefix > 0)).long()
