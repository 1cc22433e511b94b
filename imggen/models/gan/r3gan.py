"""R3GAN's mirrored generator and discriminator (Huang et al. 2024, arXiv 2501.05441): no normalisation, no style."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, leaky_relu

from imggen.models.gan.config import GanConfig

CLASS_WIDTH = 64
SLOPE = 0.2
# He's gain for a leaky rectifier.
GAIN = (2 / (1 + SLOPE**2)) ** 0.5


def scaled_init(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    """Normal weights of variance gain²/inputs, no bias."""
    nn.init.normal_(layer.weight, 0.0, gain / layer.weight[0].numel() ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Block(nn.Module):
    """1x1 to twice the width, grouped 3x3, 1x1 back, added to the input; starts as the identity.

    `depth` is the number of blocks in the network: Fixup's scale (arXiv 1901.09321) keeps the sum's variance.
    """

    def __init__(self, width: int, group_width: int, depth: int) -> None:
        super().__init__()
        inner = 2 * width
        self.widen = nn.Conv2d(width, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=max(1, inner // group_width))
        self.narrow = nn.Conv2d(inner, width, 1, bias=False)
        for layer in (self.widen, self.mix):
            scaled_init(layer, GAIN * depth**-0.25)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) → the same shape."""
        y = leaky_relu(self.widen(x), SLOPE)
        y = leaky_relu(self.mix(y), SLOPE)
        total: Tensor = x + self.narrow(y)
        return total


def stage(config: GanConfig, width: int) -> nn.Sequential:
    """The blocks at one size."""
    depth = config.blocks * len(config.widths)
    return nn.Sequential(*[Block(width, config.group_width, depth) for _ in range(config.blocks)])


def resize_layer(before: int, after: int) -> nn.Module:
    """A 1x1 convolution where the width changes, else nothing."""
    if before == after:
        return nn.Identity()
    layer = nn.Conv2d(before, after, 1, bias=False)
    scaled_init(layer, 1.0)
    return layer


def halve(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C, H/2, W/2), smoothed with [1, 2, 1] first."""
    # Worked out where the pictures are: numbers sent there would make a GPU wait, every time.
    kernel = 0.5 - 0.25 * torch.arange(-1, 2, device=x.device, dtype=x.dtype).abs()
    kernel = (kernel[:, None] * kernel).expand(x.shape[1], 1, 3, 3)
    return avg_pool2d(conv2d(x, kernel, padding=1, groups=x.shape[1]), 2)


def double(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C, 2H, 2W), linear in between."""
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Generator(nn.Module):
    """z (B, z_dim), labels (B,) → pictures (B, C, H, W), not yet held within [-1, 1]; the class stands beside z."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        widths = config.widths
        self.embed = nn.Embedding(len(config.classes), CLASS_WIDTH) if config.classes else None
        self.basis = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.spread = nn.Linear(config.z_dim + (CLASS_WIDTH if config.classes else 0), widths[0], bias=False)
        scaled_init(self.spread, 1.0)
        self.resize = nn.ModuleList([resize_layer(a, b) for a, b in pairwise(widths)])
        self.stages = nn.ModuleList([stage(config, width) for width in widths])
        self.paint = nn.Conv2d(widths[-1], config.channels, 1)
        scaled_init(self.paint, 1.0)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw."""
        return self.finish(self.start(z, labels))

    def start(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The first map (B, C', 4, 4)."""
        if self.embed is not None and labels is not None:
            z = torch.cat([z, self.embed(labels)], dim=1)
        first: Tensor = self.basis * self.spread(z)[:, :, None, None]
        return first

    def finish(self, first: Tensor) -> Tensor:
        """Pictures from the first map."""
        x = self.stages[0](first)
        for resize, blocks in zip(self.resize, self.stages[1:], strict=True):
            x = blocks(double(resize(x)))
        picture: Tensor = self.paint(x)
        return picture


class Discriminator(nn.Module):
    """Pictures (B, C, H, W), labels (B,) → logits (B,): the generator's mirror image; the class by projection."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.look = nn.Conv2d(config.channels, widths[0], 1)
        scaled_init(self.look, 1.0)
        self.stages = nn.ModuleList([stage(config, width) for width in widths])
        self.resize = nn.ModuleList([resize_layer(a, b) for a, b in pairwise(widths)])
        self.gather = nn.Conv2d(widths[-1], widths[-1], 4, groups=widths[-1], bias=False)
        scaled_init(self.gather, 1.0)
        self.logit = nn.Linear(widths[-1], 1, bias=False)
        scaled_init(self.logit, 1.0)
        self.embed = nn.Embedding(len(config.classes), widths[-1]) if config.classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Score: higher is more real."""
        x = self.look(images)
        # The last stage, at 4x4, is not followed by halving.
        for blocks, resize in zip(self.stages, self.resize, strict=False):
            x = resize(halve(blocks(x)))
        features = self.gather(self.stages[-1](x)).flatten(1)
        logits: Tensor = self.logit(features).flatten()
        if self.embed is not None and labels is not None:
            logits = logits + (self.embed(labels) * features).sum(1) / features.shape[1] ** 0.5
        return logits
