"""The GAN's options and presets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from imggen.models.config import ModelConfig
from imggen.option import option


@dataclass(frozen=True, kw_only=True)
class GanConfig(ModelConfig):
    """Two shapes of networks, the textbook's and R3GAN's, and how they are trained."""

    family: ClassVar[str] = "gan"

    z_dim: int = option(100, "length of the latent vector z", low=1, high=4096)
    width: int = option(64, "channels of the textbook's picture-side layer; doubles towards 4x4", low=4, high=1024)
    max_width: int = option(256, "no layer is wider than this", low=4, high=4096)
    blocks: int = option(0, "R3GAN's residual blocks at every size; 0 is the textbook's plain stack", low=0, high=16)
    group_width: int = option(16, "channels of a group in the residual blocks' 3x3 convolutions", low=1, high=4096)
    learning_rate: float = option(2e-4, "Adam's learning rate at the start", low=1e-8, high=1.0)
    cosine: bool = option(False, "let the learning rate fall to a tenth along a cosine")
    relativistic: bool = option(False, "compare each real picture with a drawn one, in place of judging each alone")
    gamma: float = option(0.0, "strength of the gradient penalty, 1 is the rule's; 0 is none", low=0.0, high=1e4)
    penalty_every: int = option(8, "take the penalty every this many steps, that much stronger", low=1, high=1000)
    augment: float = option(
        0.0,
        "how much the discriminator's pictures may be changed: all of it of 300, less of more; 0 never",
        low=0.0,
        high=0.8,
    )
    blend: bool = option(False, "show the discriminator colours as they look on white, where pictures have alpha")
    normalise: bool = option(False, "hold every filter of the textbook's networks at the length it starts with")
    ema_images: int = option(0, "half-life of the averaged weights in pictures; 0 shows the raw weights", low=0)

    def __post_init__(self) -> None:
        """Only powers of two from 16 to 512 can be halved down to 4x4."""
        super().__post_init__()
        good = 16 <= self.size <= 512 and self.size & (self.size - 1) == 0
        self.check(good, f"gan draws sizes 16, 32, 64, 128, 256 and 512, not {self.size}")
        self.check(not (self.normalise and self.blocks), "normalise is for networks without residual blocks")
        for width in self.widths if self.blocks else ():
            self.check(2 * width % min(self.group_width, 2 * width) == 0, "group-width must divide the blocks' width")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at 4x4, 8x8, …: up to half the picture's size (textbook), or all of it (residual blocks)."""
        if self.blocks:
            sizes = range(2, self.size.bit_length())
            return tuple(max(4, self.max_width >> max(0, size - 5)) for size in sizes)
        stages = self.size.bit_length() - 3
        return tuple(min(self.width * 2**k, self.max_width) for k in reversed(range(stages)))

    @property
    def multiplications(self) -> float:
        """About how many the generator needs for one picture."""
        total, side = 0.0, 4
        for before, after in zip(self.widths, (*self.widths[1:], self.channels), strict=True):
            if self.blocks:
                inner = 2 * before
                each = 2 * before * inner + 9 * inner * min(self.group_width, inner)
                total += side * side * (self.blocks * each + before * after)
            else:
                total += 16 * side * side * before * after
            side *= 2
        return total

    def penalty_weight(self, batch: int, progress: float) -> float:
        """Half of what the squared gradient norm is multiplied with, for a step of `batch` pictures.

        0.1 at 32 px and 64 pictures, with the cube of the size, falling with the root of the batch; from three times
        to three tenths of that along a cosine. R3GAN's published values (arXiv 2501.05441) lie within a factor of two.
        """
        rule = 0.1 * (self.size / 32) ** 3 * math.sqrt(64 / batch)
        anneal = 10 ** (0.5 * math.cos(math.pi * progress)) if self.blocks else 1.0
        return self.gamma * rule * anneal / 2


BASE = GanConfig(
    preset="base",
    z_dim=64,
    max_width=384,
    blocks=2,
    relativistic=True,
    cosine=True,
    gamma=1.0,
    penalty_every=4,
    augment=0.5,
    blend=True,
    ema_images=100_000,
)
PRESETS = {
    "tiny": GanConfig(
        preset="tiny", learning_rate=6e-4, cosine=True, gamma=1.0, augment=0.5, blend=True, ema_images=10_000
    ),
    "base": BASE,
    "large": BASE.with_overrides(preset="large", max_width=768, ema_images=500_000),
    "dcgan": GanConfig(preset="dcgan", max_width=512),
}
DESCRIPTIONS = {
    "tiny": "the textbook's shape, averaged, annealed, regularised, augmented: two CPU cores, half an hour",
    "base": "R3GAN's residual blocks, 384 wide: one GPU, an evening",
    "large": "R3GAN as published (arXiv 2501.05441), 768 wide: several GPUs, days",
    "dcgan": "the textbook DCGAN (arXiv 1511.06434), as it is written",
}
