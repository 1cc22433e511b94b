"""Holes to learn from: rectangles, brush strokes, halves, and all but a rectangle."""

from __future__ import annotations

import torch
from torch import Tensor

STROKES = 5


def random_masks(count: int, side: int, device: torch.device) -> Tensor:
    """Masks (count, 1, side, side), 1 in the hole, from torch's global generator; each of one of four kinds."""
    rows = (torch.arange(side, device=device) + 0.5).view(1, side, 1) / side
    columns = rows.view(1, 1, side)
    box = rectangles(count, rows, columns)
    kinds = torch.stack([box, strokes(count, rows, columns), halves(count, rows, columns), ~box], 1)
    chances = torch.tensor([0.35, 0.3, 0.25, 0.1], device=device)
    kind = torch.multinomial(chances, count, replacement=True)
    return kinds[torch.arange(count, device=device), kind].unsqueeze(1).float()


def _uniform(count: int, low: float, high: float, like: Tensor) -> Tensor:
    return torch.rand(count, 1, 1, device=like.device) * (high - low) + low


def rectangles(count: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Of a quarter to four fifths of the side, anywhere."""
    inside = None
    for places in (rows, columns):
        length = _uniform(count, 0.25, 0.8, rows)
        first = _uniform(count, 0, 1, rows) * (1 - length)
        here = (places >= first) & (places < first + length)
        inside = here if inside is None else inside & here
    assert inside is not None
    return inside


def strokes(count: int, rows: Tensor, columns: Tensor) -> Tensor:
    """A brush drawn along a few straight pieces, one beginning where the last one ended."""
    width = _uniform(count, 0.03, 0.14, rows)
    y, x = _uniform(count, 0, 1, rows), _uniform(count, 0, 1, rows)
    found = torch.zeros(count, rows.shape[1], columns.shape[2], dtype=torch.bool, device=rows.device)
    for _ in range(STROKES):
        down = (y + _uniform(count, -0.5, 0.5, rows)).clamp(0, 1) - y
        right = (x + _uniform(count, -0.5, 0.5, rows)).clamp(0, 1) - x
        length = (down.square() + right.square()).clamp(min=1e-9)
        along = (((rows - y) * down + (columns - x) * right) / length).clamp(0, 1)
        away = (rows - y - along * down).square() + (columns - x - along * right).square()
        found |= away < width.square()
        y, x = y + down, x + right
    return found


def halves(count: int, rows: Tensor, columns: Tensor) -> Tensor:
    """One side of a straight cut about the middle: left, right, top or bottom."""
    cut = _uniform(count, 0.35, 0.65, rows)
    upright = _uniform(count, 0, 1, rows) < 0.5
    first = _uniform(count, 0, 1, rows) < 0.5
    side = torch.where(upright, (columns < cut).expand(count, rows.shape[1], -1), rows < cut)
    return side == first
