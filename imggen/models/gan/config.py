"""The GAN's options and presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from imggen.models.config import FamilyConfig, option


@dataclass(frozen=True, kw_only=True)
class Config(FamilyConfig):
    """DCGAN-shaped networks; what the presets differ in is how they are trained."""

    family: ClassVar[str] = "gan"

    z_dim: int = option(100, "length of the latent vector z", low=1, high=4096)
    width: int = option(64, "channels of the widest picture-side layer; doubles towards 4x4", low=4, high=1024)
    max_width: int = option(256, "no layer is wider than this", low=4, high=4096)
    learning_rate: float = option(2e-4, "Adam's learning rate at the start", low=1e-8, high=1.0)
    cosine: bool = option(False, "let the learning rate fall to a tenth along a cosine")
    gamma: float = option(0.0, "weight of the R1 gradient penalty; 0 is none", low=0.0, high=1e4)
    penalty_every: int = option(8, "take the penalty every this many steps, that much stronger", low=1, high=1000)
    ema_images: int = option(0, "half-life of the averaged weights in pictures; 0 shows the raw weights", low=0)

    def __post_init__(self) -> None:
        """Only powers of two from 16 to 256 can be halved down to 4x4."""
        super().__post_init__()
        good = 16 <= self.size <= 256 and self.size & (self.size - 1) == 0
        self.check(good, f"gan draws sizes 16, 32, 64, 128 and 256, not {self.size}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at 4x4, 8x8, … up to half the picture's size."""
        stages = self.size.bit_length() - 3
        return tuple(min(self.width * 2**k, self.max_width) for k in reversed(range(stages)))


PRESETS = {
    "tiny": Config(preset="tiny", learning_rate=6e-4, cosine=True, gamma=0.1, ema_images=10_000),
    "base": Config(
        preset="base", width=96, max_width=768, learning_rate=4e-4, cosine=True, gamma=0.1, ema_images=50_000
    ),
    "dcgan": Config(preset="dcgan", max_width=512),
}
DESCRIPTIONS = {
    "tiny": "the textbook shape, averaged, annealed and regularised: two CPU cores, half an hour",
    "base": "the same, wider: one GPU, an evening",
    "dcgan": "the textbook DCGAN (arXiv 1511.06434), as it is written",
}
