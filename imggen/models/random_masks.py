"""Random masks to train inpainting with: rectangles, brush strokes, halves, and all but a rectangle."""

from __future__ import annotations

import torch
from torch import Tensor

from imggen.models import global_batch

STROKE_SEGMENTS = 5
# Probabilities of a rectangle, a brush stroke, a half, and all but a rectangle.
KIND_PROBABILITIES = (0.35, 0.3, 0.25, 0.1)


def random_masks(count: int, side: int, device: torch.device) -> Tensor:
    """Masks (count, 1, side, side), 1 where masked, each of a random kind; samples from torch's global generator."""
    # Pixel centers in (0, 1).
    rows = (torch.arange(side, device=device) + 0.5).view(1, side, 1) / side
    columns = rows.view(1, 1, side)
    rectangle = rectangles(count, rows, columns)
    kinds = torch.stack([rectangle, strokes(count, rows, columns), halves(count, rows, columns), ~rectangle], 1)
    kind = global_batch.multinomial(torch.tensor(KIND_PROBABILITIES, device=device), count)
    return kinds[torch.arange(count, device=device), kind].unsqueeze(1).float()


def _uniform(count: int, low: float, high: float, device: torch.device) -> Tensor:
    return global_batch.rand(count, 1, 1, device=device) * (high - low) + low


def rectangles(count: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Rectangles (count, H, W), bool, at random positions, with sides from 0.25 to 0.8 of the image's."""

    def intervals(positions: Tensor) -> Tensor:
        length = _uniform(count, 0.25, 0.8, rows.device)
        start = _uniform(count, 0, 1, rows.device) * (1 - length)
        return (positions >= start) & (positions < start + length)

    in_rows = intervals(rows)
    return in_rows & intervals(columns)


def strokes(count: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Brush strokes (count, H, W), bool: STROKE_SEGMENTS straight segments, each starting where the last one ended."""
    device = rows.device
    radius = _uniform(count, 0.03, 0.14, device)
    y, x = _uniform(count, 0, 1, device), _uniform(count, 0, 1, device)
    painted = torch.zeros(count, rows.shape[1], columns.shape[2], dtype=torch.bool, device=device)
    for _ in range(STROKE_SEGMENTS):
        dy = (y + _uniform(count, -0.5, 0.5, device)).clamp(0, 1) - y
        dx = (x + _uniform(count, -0.5, 0.5, device)).clamp(0, 1) - x
        # Squared distance of every pixel from the nearest point of the segment, at fraction t of it.
        squared_length = (dy.square() + dx.square()).clamp(min=1e-9)
        t = (((rows - y) * dy + (columns - x) * dx) / squared_length).clamp(0, 1)
        squared_distance = (rows - y - t * dy).square() + (columns - x - t * dx).square()
        painted |= squared_distance < radius.square()
        y, x = y + dy, x + dx
    return painted


def halves(count: int, rows: Tensor, columns: Tensor) -> Tensor:
    """One side of a straight cut near the middle (count, H, W), bool: left, right, top or bottom."""
    device = rows.device
    cut = _uniform(count, 0.35, 0.65, device)
    vertical_cut = _uniform(count, 0, 1, device) < 0.5
    first_side = _uniform(count, 0, 1, device) < 0.5
    before_cut = torch.where(vertical_cut, (columns < cut).expand(count, rows.shape[1], -1), rows < cut)
    return before_cut == first_side
