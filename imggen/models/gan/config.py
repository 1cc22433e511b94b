"""The GAN's options and presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from imggen.models.config import ModelConfig
from imggen.option import option


@dataclass(frozen=True, kw_only=True)
class GanConfig(ModelConfig):
    """Architecture (DCGAN, or R3GAN where `blocks` > 0) and training of a GAN."""

    family: ClassVar[str] = "gan"
    training: ClassVar[tuple[str, ...]] = (
        "slim", "learning_rate", "cosine", "relativistic", "gamma", "penalty_every", "augment", "blend", "normalize",
        "ema_images", "encoder_fraction",
    )  # fmt: skip

    z_dim: int = option(100, "Length of the latent vector z", low=1, high=4096)
    # Channels of the layer at half of the image's size.
    width: int = option(64, "DCGAN: base channels, doubled at each lower size", low=4, high=1024)
    max_width: int = option(256, "Maximum channels of a layer", low=4, high=4096)
    blocks: int = option(0, "R3GAN: blocks per resolution; 0: DCGAN", low=0, high=16)
    group_width: int = option(16, "R3GAN: channels per group of the 3x3 convolutions", low=1, high=4096)
    slim: bool = option(False, "Leave the discriminator out of files")
    learning_rate: float = option(2e-4, "Initial learning rate of Adam", low=1e-8, high=1.0)
    cosine: bool = option(False, "Decay the learning rate to a tenth along a cosine")
    relativistic: bool = option(False, "Relativistic loss, else non-saturating")
    # Relative to the rule of `penalty_weight`. R2 belongs to the relativistic loss.
    gamma: float = option(0.0, "R1/R2 penalty, scaled by size and batch; 0: none", low=0.0, high=1e4)
    # Lazy regularization (arXiv 1912.04958): the penalty's weight is multiplied by the number of steps.
    penalty_every: int = option(8, "Steps between gradient penalties", low=1, high=1000)
    # Adaptive discriminator augmentation (arXiv 2006.06676); the limit is lower for large data sets.
    augment: float = option(0.0, "Maximum strength of ADA; 0: none", low=0.0, high=0.8)
    blend: bool = option(False, "Composite RGBA on white for the discriminator")
    # Forced weight normalization (arXiv 2312.02696): see `dcgan.normalize_filters`.
    normalize: bool = option(False, "DCGAN: keep the initial norm of each filter")
    ema_images: int = option(0, "EMA half-life in images; 0: none", low=0)
    # The last part of the training; 1 leaves the generator as it is.
    encoder_fraction: float = option(0.0, "Fraction of training for the encoder; 0: none", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        """Check that the size can be reached from `first_side` by doubling, and options that exclude one another."""
        super().__post_init__()
        self.check(
            16 <= self.size <= 512 and self.first_side << self.doublings == self.size,
            "size must be from 16 to 512, and 4, 5, 6 or 7 times a power of two for a gan, such as 32, 48 or 64,"
            f" not {self.size}",
        )
        self.check(not (self.normalize and self.blocks), "--normalize is for DCGAN: leave it out, or use --blocks 0")
        for width in self.widths if self.blocks else ():
            self.check(2 * width % min(self.group_width, 2 * width) == 0, "--group-width must divide 2 x channels")

    def to_begin_from(self, preset: Self | None) -> Self:
        """Without a training of the encoder alone, which would leave the generator as it is."""
        begun = super().to_begin_from(preset)
        return begun if begun.encoder_fraction < 1 else replace(begun, encoder_fraction=0.0)

    @property
    def doublings(self) -> int:
        """How often the generator doubles the side of its first map."""
        return self.size.bit_length() - 3

    @property
    def first_side(self) -> int:
        """Side of the generator's first map, 4 to 7."""
        return self.size >> self.doublings

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at `first_side`, twice that, …, up to half the image's size (DCGAN) or the whole size (R3GAN)."""
        if self.blocks:
            sizes = range(2, self.size.bit_length())
            return tuple(max(4, self.max_width >> max(0, size - 5)) for size in sizes)
        return tuple(min(self.width * 2**k, self.max_width) for k in reversed(range(self.doublings)))

    @property
    def multiplications(self) -> float:
        """Approximate number of multiplications to generate one image."""
        total, side = 0.0, self.first_side
        for before, after in zip(self.widths, (*self.widths[1:], self.channels), strict=True):
            if self.blocks:
                inner = 2 * before
                block = 2 * before * inner + 9 * inner * min(self.group_width, inner)
                total += side * side * (self.blocks * block + before * after)
            else:
                total += 16 * side * side * before * after
            side *= 2
        return total

    def penalty_weight(self, batch: int, progress: float) -> float:
        """gamma / 2, the factor of the squared gradient norm, for a step of `batch` images.

        The rule: gamma is 0.1 for 32x32 and a batch of 64, grows with the cube of the size, and falls with the square
        root of the batch. For R3GAN a factor falls along a cosine from sqrt(10) to 1 / sqrt(10). R3GAN's published
        values (arXiv 2501.05441) lie within a factor of two. For a DCGAN of 64 pixels and more the factor rises from 1
        to 4: with 4 from the start, 7,500 images of people give a Fréchet distance of 65 in place of 36; with 1 to the
        end, the discriminator memorizes 13,000 images in 40 epochs.
        """
        rule = 0.1 * (self.size / 32) ** 3 * math.sqrt(64 / batch)
        dcgan_factor = 4.0**progress if self.size >= 64 else 1.0
        factor = 10 ** (0.5 * math.cos(math.pi * progress)) if self.blocks else dcgan_factor
        return self.gamma * rule * factor / 2


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
    encoder_fraction=0.05,
)
PRESETS = {
    "tiny": GanConfig(
        preset="tiny",
        learning_rate=6e-4,
        cosine=True,
        gamma=1.0,
        augment=0.5,
        blend=True,
        ema_images=10_000,
        encoder_fraction=0.05,
    ),
    "base": BASE,
    "large": BASE.with_overrides(preset="large", max_width=768, ema_images=500_000),
    "dcgan": GanConfig(preset="dcgan", max_width=512),
}
DESCRIPTIONS = {
    "tiny": "DCGAN with EMA, R1 penalty and adaptive augmentation: two CPU cores, half an hour",
    "base": "R3GAN, 384 channels: one GPU, an evening",
    "large": "R3GAN as published (arXiv 2501.05441), 768 channels: several GPUs, days",
    "dcgan": "the textbook DCGAN (arXiv 1511.06434)",
}
