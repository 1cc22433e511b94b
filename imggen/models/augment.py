"""Differentiable augmentation of the discriminator's input images, and the rule that adapts its strength.

The transformations are those of StyleGAN2-ADA (Karras et al. 2020, arXiv 2006.06676), sampled anew for every image.
A transformation that happens with a probability below 1 is invertible in distribution: a generator that is trained
through it still generates images without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from imggen.models import global_batch

# Probabilities of each color transformation and of cutout, as a fraction of the strength.
COLOR_FRACTION, CUTOUT_FRACTION = 0.5, 1.0
REFLECTION_PADDING = 2  # grid_sample's padding_mode="reflection", as the backward operator numbers it


@dataclass(frozen=True)
class Augmentation:
    """One transformation for each of B images: geometric, then of colors, then cutout."""

    grid: Tensor  # (B, H, W, 2): where each pixel is sampled from, in grid_sample's coordinates
    color: Tensor  # (B, C, C + 1): a matrix on channels; the last column is added
    keep: Tensor  # (B, 1, H, W): 0 where a square is cut out, else 1

    def __call__(self, images: Tensor) -> Tensor:
        """Transform images (B, C, H, W) in [-1, 1]; affine in the images, and twice differentiable."""
        images = _GridSample.apply(images, self.grid)
        color = self.color.to(images.dtype)
        mixed = torch.baddbmm(color[:, :, -1:], color[:, :, :-1], images.flatten(2)).view_as(images)
        return (mixed * self.keep.to(images.dtype)).contiguous(memory_format=torch.channels_last)


def random_augmentation(shape: torch.Size | tuple[int, ...], strength: float, device: torch.device) -> Augmentation:
    """Sample a transformation for each image of a batch of `shape` (B, C, H, W), H = W.

    `strength` in [0, 1] is the probability of each transformation (that of colors is half of it). Random numbers come
    from torch's global CPU generator, so that every device samples the same.
    """
    count, channels, height, width = shape
    parameters = _RandomParameters(count, strength)
    # A few numbers for each image are copied to the device; tensors as large as images are computed there.
    geometry = _random_geometry(parameters, width)[:, :2].to(device)
    grid = affine_grid(geometry, [count, 1, height, width], align_corners=False)
    color = _random_color(parameters, channels).to(device)
    return Augmentation(grid, color, _random_cutout(parameters, height, width, device))


def mild_augmentation(
    shape: torch.Size | tuple[int, ...], geometry: float, color: float, cutout: float, device: torch.device
) -> Augmentation:
    """Sample a small change for each image of a batch of `shape` (B, C, H, W), H = W, that keeps what it shows.

    Turned by up to 12 degrees, sheared and scaled by up to a sixth, shifted by up to a tenth of the side, all times
    `geometry`; brightness, contrast and saturation times `color`; `cutout` is the probability of a square cut out.
    Random numbers come from torch's global CPU generator.
    """
    count, channels, height, width = shape
    parameters = _RandomParameters(count, 1.0)

    def spread(limit: float) -> Tensor:
        return parameters.uniform(-limit * geometry, limit * geometry)

    zero, one = torch.zeros(count), torch.ones(count)
    matrix = _translation(spread(0.2), spread(0.2)) @ _rotation(spread(math.radians(12)))  # coordinates span 2
    matrix = matrix @ _matrix([[one, spread(1 / 6), zero], [zero, one, zero], [zero, zero, one]], zero)
    matrix = matrix @ _scaling(spread(1 / 6).exp(), spread(1 / 6).exp())
    grid = affine_grid(matrix[:, :2].to(device), [count, 1, height, width], align_corners=False)
    brightness, contrast, saturation = (parameters.uniform(-0.3 * color, 0.3 * color) for _ in range(3))
    colors = color_matrix(channels, brightness, contrast.exp(), one, zero, saturation.exp()).to(device)
    keep = _random_cutout(_RandomParameters(count, cutout), height, width, device)
    return Augmentation(grid, colors, keep)


class _RandomParameters:
    """Samples a transformation's parameter for every image (B,): 0, the identity, where it does not happen.

    A transformation happens with probability `fraction` times `strength`.
    """

    def __init__(self, count: int, strength: float) -> None:
        self.count, self.strength = count, strength

    def happens(self, fraction: float = 1.0) -> Tensor:
        return global_batch.rand(self.count) < min(1.0, self.strength * fraction)

    def normal(self, deviation: float, fraction: float = 1.0) -> Tensor:
        return torch.where(self.happens(fraction), global_batch.randn(self.count) * deviation, 0.0)

    def uniform(self, low: float, high: float, fraction: float = 1.0) -> Tensor:
        return torch.where(self.happens(fraction), low + (high - low) * global_batch.rand(self.count), 0.0)

    def choice(self, count: int, fraction: float = 1.0) -> Tensor:
        return torch.where(self.happens(fraction), global_batch.randint(count, self.count), 0)


def _matrix(rows: list[list[Any]], like: Tensor) -> Tensor:
    """(B, n, n) from numbers and (B,) tensors."""
    return torch.stack([torch.stack([torch.zeros_like(like) + entry for entry in row], 1) for row in rows], 1)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]], x)


def _translation(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[1, 0, x], [0, 1, y], [0, 0, 1]], x)


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = torch.cos(angle), torch.sin(angle)
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], angle)


def _random_geometry(parameters: _RandomParameters, size: int) -> Tensor:
    """Affine matrices (B, 3, 3) from output to input positions, both in coordinates from -1 to 1."""
    one = torch.ones(parameters.count)
    # Horizontal flip.
    matrix = _scaling(1.0 - 2.0 * parameters.choice(2), one)
    # Quarter turns and translation by whole pixels: rounded, so that no pixel is interpolated.
    matrix = matrix @ _rotation(parameters.choice(4) * (math.pi / 2)).round()
    whole = [torch.round(parameters.uniform(-0.125, 0.125) * size) * (2 / size) for _ in range(2)]
    matrix = matrix @ _translation(*whole)
    # Isotropic scaling.
    scale = torch.exp2(parameters.normal(0.2))
    matrix = matrix @ _scaling(scale, scale)
    # Rotation before and after anisotropic scaling: one of the two happens with probability `strength`.
    strength = parameters.strength
    fraction = (1 - math.sqrt(max(0.0, 1 - strength))) / strength if strength > 0 else 0.0
    matrix = matrix @ _rotation(parameters.uniform(-math.pi, math.pi, fraction))
    aspect = torch.exp2(parameters.normal(0.2))
    matrix = matrix @ _scaling(aspect, 1 / aspect)
    matrix = matrix @ _rotation(parameters.uniform(-math.pi, math.pi, fraction))
    # Translation by a fraction of a pixel; coordinates span 2, so the standard deviation is an eighth of the image.
    return matrix @ _translation(parameters.normal(0.25), parameters.normal(0.25))


def _random_color(parameters: _RandomParameters, channels: int) -> Tensor:
    """(B, C, C + 1): brightness, contrast, inversion of lightness, hue, saturation; alpha is unchanged."""
    brightness, contrast = parameters.normal(0.2, COLOR_FRACTION), torch.exp2(parameters.normal(0.5, COLOR_FRACTION))
    inversion = 1.0 - 2.0 * parameters.choice(2, COLOR_FRACTION)
    if channels == 1:
        return color_matrix(channels, brightness, contrast, inversion, inversion, inversion)
    angle = parameters.uniform(-math.pi, math.pi, COLOR_FRACTION)
    saturation = torch.exp2(parameters.normal(1.0, COLOR_FRACTION))
    return color_matrix(channels, brightness, contrast, inversion, angle, saturation)


def color_matrix(
    channels: int, brightness: Tensor, contrast: Tensor, inversion: Tensor, angle: Tensor, saturation: Tensor
) -> Tensor:
    """(B, C, C + 1) from (B,) each: brightness is added, the others multiply or (`angle`, in radians) turn the hue.

    Gray images have neither hue nor saturation; alpha is unchanged.
    """
    if channels == 1:
        return torch.stack([contrast * inversion, brightness * contrast * inversion], 1)[:, None]
    # Lightness lies along the gray axis, hue and saturation across it; `cross` turns around that axis.
    axis = torch.full((3, 1), 1 / math.sqrt(3))
    along, unit = axis @ axis.T, torch.eye(3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn, saturated = angle[:, None, None], saturation[:, None, None]
    hue = along + torch.cos(turn) * (unit - along) + torch.sin(turn) * cross
    lightness = along * (contrast * inversion)[:, None, None]
    mixed = (lightness + (unit - along) * contrast[:, None, None] * saturated) @ hue
    # Into the rows of the color channels.
    color = torch.zeros(len(brightness), channels, channels + 1)
    color[:, :3, :3] = mixed
    color[:, :3, -1] = (brightness * contrast * inversion)[:, None]
    if channels == 4:
        color[:, 3, 3] = 1
    return color


def _random_cutout(parameters: _RandomParameters, height: int, width: int, device: torch.device) -> Tensor:
    """(B, 1, H, W): 0 in a square of half the image's side at a random position, else 1."""
    happens = parameters.happens(CUTOUT_FRACTION).to(device)
    x, y = (torch.arange(size, device=device).add(0.5).div(size) for size in (width, height))
    center_x, center_y = (global_batch.rand(parameters.count, 1).to(device) for _ in range(2))
    columns, rows = (x - center_x).abs() < 0.25, (y - center_y).abs() < 0.25
    cut_out = happens[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return (~cut_out).float()[:, None]


class _GridSample(torch.autograd.Function):
    """grid_sample with derivatives of every order in the images; torch's own has only the first.

    It is linear in the images, so its backward is its adjoint, and that one's backward is grid_sample again.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        return grid_sample(images, grid.to(images.dtype), "bilinear", "reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _GridSampleAdjoint.apply(gradients[0], grid), None


class _GridSampleAdjoint(torch.autograd.Function):
    """The gradient of grid_sample with respect to the images."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        # Apple's GPUs have had this operator only since recent versions of torch: computed on the CPU there.
        device = torch.device("cpu") if gradient.device.type == "mps" else gradient.device
        gradient_there = gradient.to(device).contiguous()
        # The second argument, the images, gives only the shape.
        image_gradient: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            gradient_there, gradient_there, grid.to(gradient_there), 0, REFLECTION_PADDING, False, [True, False]
        )[0]
        return image_gradient.to(gradient.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _GridSample.apply(gradients[0], grid), None


class AdaptiveStrength:
    """Adaptive discriminator augmentation (ADA): raises the strength while the discriminator overfits, else lowers it.

    ADA's heuristic (arXiv 2006.06676, section 3): overfitting is measured as r_t, the mean sign of the discriminator's
    logits for real images, and the strength is changed so that r_t stays near `target`. From 0 to 1 the strength takes
    `ramp_images` images; it is never above `limit`.
    """

    def __init__(self, limit: float, ramp_images: int, target: float = 0.6) -> None:
        self.limit, self.ramp_images, self.target = limit, ramp_images, target
        self.strength = 0.0
        self.mean_sign = target

    def update(self, mean_sign: float, images: int) -> None:
        """Change the strength for the mean sign, in [-1, 1], measured over the last `images` images."""
        self.mean_sign += 0.2 * (mean_sign - self.mean_sign)
        step = images / self.ramp_images * (1 if self.mean_sign > self.target else -1)
        self.strength = min(self.limit, max(0.0, self.strength + step))
