"""The options that all mappers have: the network, its training, and the augmentation of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imggen.models.config import ModelConfig
from imggen.option import option

MIN_SCALE, MAX_SCALE = 1e-3, 1e3


@dataclass(frozen=True, kw_only=True)
class MapperConfig(ModelConfig):
    """A U-Net and its training; `scale` is by how much the images of the training were resized."""

    width: int = option(16, "Channels at the image's own size", low=4, high=1024)
    halvings: int = option(3, "How often the image is halved", low=1, high=7)
    blocks: int = option(1, "Residual blocks per resolution", low=1, high=16)
    learning_rate: float = option(2e-3, "Initial learning rate of AdamW and Muon", low=1e-8, high=1.0)
    weight_decay: float = option(0.01, "Weight decay of AdamW and Muon", low=0.0, high=10.0)
    geometry: float = option(1.0, "Strength of shifts, turns and scaling; 0: none", low=0.0, high=4.0)
    color: float = option(1.0, "Strength of changes of color; 0: none", low=0.0, high=4.0)
    ema_images: int = option(10_000, "EMA half-life in images; 0: none", low=0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        self.check(MIN_SCALE <= self.scale <= MAX_SCALE, "its scale is impossible")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each resolution: doubled at each halving, to at most eight times `width`."""
        return tuple(self.width * min(8, 1 << level) for level in range(self.halvings + 1))

    @property
    def cpu_batch(self) -> int | None:
        """Batch size on a CPU: small, because short runs are limited by their steps; None leaves it to the engine."""
        return 8 if self.preset == "tiny" else None


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"preset": "tiny"},
    "base": {"preset": "base", "width": 48, "halvings": 4, "blocks": 2, "ema_images": 100_000, "learning_rate": 1e-3},
    "large": {"preset": "large", "width": 96, "halvings": 5, "blocks": 3, "ema_images": 400_000, "learning_rate": 5e-4},
}
DESCRIPTIONS = {
    "tiny": "two CPU cores, minutes",
    "base": "wider and deeper: one GPU, an hour",
    "large": "for thousands of large images: one GPU, a day",
}
