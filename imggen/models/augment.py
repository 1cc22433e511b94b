"""Chance changes to a batch: a plain mirror, and the differentiable set that keeps a discriminator honest.

The set is that of StyleGAN2-ADA (Karras et al. 2020, arXiv 2006.06676), drawn anew for every picture. A change that
happens with a probability below one can be undone in distribution, so that a generator trained through it still
draws unchanged pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

COLOUR, CUTOUT = 0.5, 1.0
REFLECTION = 2


@dataclass(frozen=True)
class Changes:
    """One change for each of B pictures: where a pixel is taken from, what becomes of colours, what is cut out."""

    grid: Tensor  # (B, H, W, 2), in grid_sample's coordinates
    colour: Tensor  # (B, C, C + 1), the last column is added
    keep: Tensor  # (B, 1, H, W), 0 where something is cut out

    def __call__(self, images: Tensor) -> Tensor:
        """Change pictures (B, C, H, W) in [-1, 1]; differentiable twice, linear in the pictures up to a constant."""
        images = _Resample.apply(images, self.grid)
        colour = self.colour.to(images.dtype)
        mixed = torch.baddbmm(colour[:, :, -1:], colour[:, :, :-1], images.flatten(2)).view_as(images)
        return (mixed * self.keep.to(images.dtype)).contiguous(memory_format=torch.channels_last)


def draw_changes(shape: torch.Size | tuple[int, ...], strength: float, device: torch.device) -> Changes:
    """One change a picture for a batch of `shape` (B, C, H, W), H = W; each part happens with its share of `strength`.

    Draws from torch's global generator of the CPU, so that every device draws the same.
    """
    count, channels, height, width = shape
    draw = _Draw(count, strength)
    # A few numbers a picture are sent; what is as large as pictures is worked out where they are.
    grid = affine_grid(_geometry(draw, width)[:, :2].to(device), [count, 1, height, width], align_corners=False)
    return Changes(grid, _colour(draw, channels).to(device), _keep(draw, height, width, device))


class _Draw:
    """Numbers that are at rest (0) save for the pictures, each with a probability, that a change happens to."""

    def __init__(self, count: int, strength: float) -> None:
        self.count, self.strength = count, strength

    def happens(self, share: float = 1.0) -> Tensor:
        return torch.rand(self.count) < min(1.0, self.strength * share)

    def normal(self, deviation: float, share: float = 1.0) -> Tensor:
        return torch.where(self.happens(share), torch.randn(self.count) * deviation, 0.0)

    def uniform(self, low: float, high: float, share: float = 1.0) -> Tensor:
        return torch.where(self.happens(share), low + (high - low) * torch.rand(self.count), 0.0)

    def choice(self, count: int, share: float = 1.0) -> Tensor:
        return torch.where(self.happens(share), torch.randint(count, (self.count,)), 0)


def _matrix(rows: list[list[Any]], like: Tensor) -> Tensor:
    """(B, n, n) from numbers and (B,) tensors."""
    return torch.stack([torch.stack([torch.zeros_like(like) + entry for entry in row], 1) for row in rows], 1)


def _scale(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]], x)


def _shift(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[1, 0, x], [0, 1, y], [0, 0, 1]], x)


def _turn(angle: Tensor) -> Tensor:
    cos, sin = torch.cos(angle), torch.sin(angle)
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], angle)


def _geometry(draw: _Draw, size: int) -> Tensor:
    """(B, 3, 3), from where a pixel is shown to where it is taken, in coordinates from -1 to 1."""
    one = torch.ones(draw.count)
    matrix = _scale(1.0 - 2.0 * draw.choice(2), one)
    # Rounded, so that flips, quarter turns and whole-pixel shifts take pixels as they are.
    matrix = matrix @ _turn(draw.choice(4) * (math.pi / 2)).round()
    whole = [torch.round(draw.uniform(-0.125, 0.125) * size) * (2 / size) for _ in range(2)]
    matrix = matrix @ _shift(*whole)
    scale = torch.exp2(draw.normal(0.2))
    matrix = matrix @ _scale(scale, scale)
    # Two rotations, before and after the change of aspect, that together happen with the strength's probability.
    share = (1 - math.sqrt(max(0.0, 1 - draw.strength))) / draw.strength if draw.strength > 0 else 0.0
    matrix = matrix @ _turn(draw.uniform(-math.pi, math.pi, share))
    aspect = torch.exp2(draw.normal(0.2))
    matrix = matrix @ _scale(aspect, 1 / aspect)
    matrix = matrix @ _turn(draw.uniform(-math.pi, math.pi, share))
    # In coordinates of width 2, a deviation of an eighth of the picture.
    return matrix @ _shift(draw.normal(0.25), draw.normal(0.25))


def _colour(draw: _Draw, channels: int) -> Tensor:
    """(B, C, C + 1): brightness, contrast, inversion of lightness, hue, saturation; alpha stays as it is."""
    brightness, contrast = draw.normal(0.2, COLOUR), torch.exp2(draw.normal(0.5, COLOUR))
    inverted = 1.0 - 2.0 * draw.choice(2, COLOUR)
    if channels == 1:
        return torch.stack([contrast * inverted, brightness * contrast * inverted], 1)[:, None]
    axis = torch.full((3, 1), 1 / math.sqrt(3))
    along, unit = axis @ axis.T, torch.eye(3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    angle = draw.uniform(-math.pi, math.pi, COLOUR)[:, None, None]
    saturation = torch.exp2(draw.normal(1.0, COLOUR))[:, None, None]
    hue = along + torch.cos(angle) * (unit - along) + torch.sin(angle) * cross
    # Along the grey axis lies lightness, across it colour.
    lightness = along * (contrast * inverted)[:, None, None]
    mixed = (lightness + (unit - along) * contrast[:, None, None] * saturation) @ hue
    change = torch.zeros(draw.count, channels, channels + 1)
    change[:, :3, :3] = mixed
    change[:, :3, -1] = (brightness * contrast * inverted)[:, None]
    if channels == 4:
        change[:, 3, 3] = 1
    return change


def _keep(draw: _Draw, height: int, width: int, device: torch.device) -> Tensor:
    """(B, 1, H, W): 0 in a square of half the picture's side, anywhere, where it happens."""
    happens = draw.happens(CUTOUT).to(device)
    x, y = (torch.arange(size, device=device).add(0.5).div(size) for size in (width, height))
    left, top = torch.rand(draw.count, 1).to(device), torch.rand(draw.count, 1).to(device)
    across, down = (x - left).abs() < 0.25, (y - top).abs() < 0.25
    hole = happens[:, None, None] & down[:, :, None] & across[:, None, :]
    return (~hole).float()[:, None]


class _Resample(torch.autograd.Function):
    """grid_sample with derivatives of every order in the pictures: it is linear in them, and so is its adjoint."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        return grid_sample(images, grid.to(images.dtype), "bilinear", "reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Spread.apply(gradients[0], grid), None


class _Spread(torch.autograd.Function):
    """The adjoint of `_Resample`: what a pixel gave away comes back to it."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        # The pictures themselves do not enter; their shape does, and it is the gradient's. Apple's GPUs have had this
        # only of late: it is worked out on the CPU there.
        there = torch.device("cpu") if gradient.device.type == "mps" else gradient.device
        given = gradient.to(there).contiguous()
        found: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            given, given, grid.to(given), 0, REFLECTION, False, [True, False]
        )[0]
        return found.to(gradient.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Resample.apply(gradients[0], grid), None


class Steering:
    """The strength of the changes: raised while the discriminator tells real pictures too surely, else lowered.

    ADA's sign heuristic (arXiv 2006.06676, section 3): the mean sign of its answers to real pictures is held near
    `target`. From 0 to 1 the strength takes `images` pictures.
    """

    def __init__(self, limit: float, images: int, target: float = 0.6) -> None:
        self.limit, self.images, self.target = limit, images, target
        self.strength = 0.0
        self.signs = target

    def update(self, signs: float, images: int) -> None:
        """The mean sign, in [-1, 1], found since `images` pictures."""
        self.signs += 0.2 * (signs - self.signs)
        step = images / self.images * (1 if self.signs > self.target else -1)
        self.strength = min(self.limit, max(0.0, self.strength + step))
