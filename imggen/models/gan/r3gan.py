"""The generator and discriminator of R3GAN (Huang et al. 2024, arXiv 2501.05441): no normalization, no style."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, leaky_relu

from imggen.models.gan.config import GanConfig
from imggen.models.hard_alpha import harden_alpha

CLASS_EMBEDDING_WIDTH = 64
LEAKY_SLOPE = 0.2
# Gain of He initialization for a leaky ReLU (arXiv 1502.01852).
HE_GAIN = (2 / (1 + LEAKY_SLOPE**2)) ** 0.5


def msr_init(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    """Initialize weights from a normal distribution of variance gain² / inputs, and the bias with zeros."""
    nn.init.normal_(layer.weight, 0.0, gain / layer.weight[0].numel() ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class ResidualBlock(nn.Module):
    """1x1 convolution to twice the width, grouped 3x3, 1x1 back, added to the input; the identity at initialization.

    `depth` is the number of blocks in the network: Fixup's scale (arXiv 1901.09321) keeps the variance of the sum.
    """

    def __init__(self, width: int, group_width: int, depth: int) -> None:
        super().__init__()
        inner = 2 * width
        self.widen = nn.Conv2d(width, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=max(1, inner // group_width))
        self.narrow = nn.Conv2d(inner, width, 1, bias=False)
        for layer in (self.widen, self.mix):
            msr_init(layer, HE_GAIN * depth**-0.25)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) → the same shape."""
        y = leaky_relu(self.widen(x), LEAKY_SLOPE)
        y = leaky_relu(self.mix(y), LEAKY_SLOPE)
        return x + self.narrow(y)


def residual_blocks(config: GanConfig, width: int) -> nn.Sequential:
    """The residual blocks at one resolution."""
    depth = config.blocks * len(config.widths)
    return nn.Sequential(*[ResidualBlock(width, config.group_width, depth) for _ in range(config.blocks)])


def change_width(before: int, after: int) -> nn.Module:
    """A 1x1 convolution if the number of channels changes, else the identity."""
    if before == after:
        return nn.Identity()
    layer = nn.Conv2d(before, after, 1, bias=False)
    msr_init(layer, 1.0)
    return layer


def downsample(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C, H/2, W/2), low-pass filtered with [1, 2, 1] first."""
    # Computed on the device: copying the kernel there would make a GPU synchronize at every call.
    kernel = 0.5 - 0.25 * torch.arange(-1, 2, device=x.device, dtype=x.dtype).abs()
    kernel = (kernel[:, None] * kernel).expand(x.shape[1], 1, 3, 3)
    return avg_pool2d(conv2d(x, kernel, padding=1, groups=x.shape[1]), 2)


def upsample(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C, 2H, 2W), bilinear."""
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Generator(nn.Module):
    """z (B, z_dim), labels (B,) → images (B, C, H, W), not clamped; the class embedding is concatenated to z."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        self.hard_alpha = config.hard_alpha
        widths = config.widths
        self.embed = nn.Embedding(len(config.classes), CLASS_EMBEDDING_WIDTH) if config.classes else None
        self.basis = nn.Parameter(torch.randn(1, widths[0], config.first_side, config.first_side))
        self.basis_scale = nn.Linear(
            config.z_dim + (CLASS_EMBEDDING_WIDTH if config.classes else 0), widths[0], bias=False
        )
        msr_init(self.basis_scale, 1.0)
        self.transitions = nn.ModuleList([change_width(a, b) for a, b in pairwise(widths)])
        self.stages = nn.ModuleList([residual_blocks(config, width) for width in widths])
        self.to_image = nn.Conv2d(widths[-1], config.channels, 1)
        msr_init(self.to_image, 1.0)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images."""
        return self.finish(self.start(z, labels), labels)

    def start(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Features (B, C', first_side, first_side): a learned basis, scaled by a linear function of z."""
        if self.embed is not None and labels is not None:
            z = torch.cat([z, self.embed(labels)], dim=1)
        return self.basis * self.basis_scale(z)[:, :, None, None]

    def finish(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images from the features of the first layer."""
        x = self.stages[0](features)
        for transition, stage in zip(self.transitions, self.stages[1:], strict=True):
            x = stage(upsample(transition(x)))
        images: Tensor = self.to_image(x)
        return harden_alpha(images) if self.hard_alpha else images


class Discriminator(nn.Module):
    """Images (B, C, H, W), labels (B,) → logits (B,); a projection discriminator (arXiv 1802.05637) with classes."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.from_image = nn.Conv2d(config.channels, widths[0], 1)
        msr_init(self.from_image, 1.0)
        self.stages = nn.ModuleList([residual_blocks(config, width) for width in widths])
        self.transitions = nn.ModuleList([change_width(a, b) for a, b in pairwise(widths)])
        self.basis = nn.Conv2d(widths[-1], widths[-1], config.first_side, groups=widths[-1], bias=False)
        msr_init(self.basis, 1.0)
        self.logit = nn.Linear(widths[-1], 1, bias=False)
        msr_init(self.logit, 1.0)
        self.embed = nn.Embedding(len(config.classes), widths[-1]) if config.classes else None

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The feature maps (B, C', h, w) of all stages, coarsest first."""
        x = self.stages[0](self.from_image(images))
        maps = [x]
        # The last stage, at 4x4 to 7x7, is not followed by downsampling.
        for stage, transition in zip(self.stages[1:], self.transitions, strict=True):
            x = stage(transition(downsample(x)))
            maps.append(x)
        return tuple(reversed(maps))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits: higher for real images."""
        features = self.basis(self.maps(images)[0]).flatten(1)
        logits = self.logit(features).flatten()
        if self.embed is not None and labels is not None:
            logits = logits + (self.embed(labels) * features).sum(1) / features.shape[1] ** 0.5
        return logits
