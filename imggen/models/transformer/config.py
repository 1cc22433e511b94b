"""The transformer's options and presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from imggen.models.config import ModelConfig, option

# Levels of the tokenizer's channels by the number of codes (Mentzer et al. 2023, arXiv 2309.15505, section 4.1).
LEVELS = {512: (8, 8, 8), 1000: (8, 5, 5, 5), 4375: (7, 5, 5, 5, 5), 15360: (8, 8, 8, 6, 5)}
SMALL, SMALL_DROPOUT = 20_000, 0.1  # pictures of a small folder, and the least dropout there
LONGEST_SIDE = 16  # tokens; larger pictures get larger patches


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """A tokenizer and a prior over its tokens; `classic` differs in the prior alone."""

    family: ClassVar[str] = "transformer"

    factor: int = option(
        4, "side in pixels of the patch of a token; more where a picture would have over 16 on a side", low=2, high=32
    )
    codes: int = option(0, f"codes of the tokenizer: {', '.join(map(str, LEVELS))}; 0 chooses by the picture", low=0)
    tokenizer_width: int = option(32, "channels of the tokenizer's decoder at half size", low=4, high=1024)
    tokenizer_share: float = option(0.25, "share of the budget that trains the tokenizer", low=0.01, high=0.99)
    edges: float = option(1.0, "weight of the edges in the tokenizer's loss; 0: likelihood alone", low=0.0, high=100.0)
    adversarial: float = option(
        0.0,
        "weight of a critic in the tokenizer's last part, 1 to 4: sharper pictures, fewer dB, more bits; 0: none",
        low=0.0,
        high=10.0,
    )
    raster: bool = option(False, "the textbook's prior: raster order, one token at a time")
    width: int = option(160, "width of the prior", low=8, high=8192)
    depth: int = option(6, "layers of the prior; unless raster, half of them for the queries", low=2, high=128)
    heads: int = option(5, "attention heads", low=1, high=128)
    dropout: float = option(0.0, "dropout of the prior; chosen, at least 0.1 below 20,000 pictures", low=0.0, high=0.9)
    drop_label: float = option(0.1, "share of pictures learnt without their class, for --guidance", low=0.0, high=0.9)
    learning_rate: float = option(4e-3, "the tokenizer's learning rate after the warm-up", low=1e-8, high=1.0)
    prior_rate: float = option(
        1.5, "the prior's, in units of --learning-rate; 0.5 goes with --no-muon", low=1e-3, high=1e3
    )
    muon: bool = option(True, "the prior's matrices learn by Muon, as the tokenizer's do; else by AdamW")
    weight_decay: float = option(0.05, "weight decay in the prior", low=0.0, high=1.0)
    ema_images: int = option(10_000, "half-life of the averaged weights in pictures; 0 shows the raw weights", low=0)

    def __post_init__(self) -> None:
        """Only whole patches, a known number of codes, and heads that can be rotated about two axes."""
        super().__post_init__()
        self.check(self.factor & (self.factor - 1) == 0, "factor must be a power of two")
        self.check(self.codes == 0 or self.codes in LEVELS, f"codes must be one of {', '.join(map(str, LEVELS))}")
        good = 8 <= self.size <= 512 and self.size % self.patch == 0
        self.check(good, f"transformer draws sizes from 8 to 512 that {self.patch} divides, not {self.size}")
        split = self.width % (4 * self.heads) == 0
        self.check(split, f"width must be a multiple of 4 times heads: {self.width} is none of {4 * self.heads}")
        self.check(self.adversarial == 0 or self.size >= 16, "adversarial needs 16 pixels and more")
        self.check(self.raster or self.depth % 2 == 0, "depth must be even: half of the layers are for the queries")

    @property
    def cpu_batch(self) -> int | None:
        """The textbook's model has the tiny one's tokenizer."""
        return 32 if self.preset == "classic" else super().cpu_batch

    def for_dataset_size(self, count: int) -> Self:
        """More dropout where there are few pictures: they would be learnt by heart."""
        return self.with_overrides(dropout=max(self.dropout, SMALL_DROPOUT)) if count < SMALL else self

    @property
    def patch(self) -> int:
        """Side in pixels of the patch that a token stands for."""
        patch = self.factor
        while patch * LONGEST_SIDE < self.size:
            patch *= 2
        return patch

    @property
    def side(self) -> int:
        """Tokens along one side of a picture."""
        return self.size // self.patch

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of each channel of a token; their product is the number of codes."""
        if self.codes:
            return LEVELS[self.codes]
        if self.size >= 128:
            return LEVELS[15360]
        if self.size >= 64:
            return LEVELS[4375]
        return LEVELS[{1: 512, 3: 1000, 4: 4375}[self.channels]]


PRESETS = {
    "tiny": TransformerConfig(preset="tiny"),
    "base": TransformerConfig(
        preset="base",
        factor=2,
        tokenizer_width=96,
        width=448,
        depth=12,
        heads=7,
        dropout=0.1,
        learning_rate=6e-4,
        prior_rate=3.0,
        ema_images=50_000,
    ),
    "large": TransformerConfig(
        preset="large",
        factor=2,
        tokenizer_width=128,
        width=768,
        depth=24,
        heads=12,
        dropout=0.1,
        learning_rate=4e-4,
        prior_rate=3.0,
        ema_images=100_000,
    ),
    "classic": TransformerConfig(
        preset="classic",
        raster=True,
        width=512,
        depth=6,
        heads=8,
        dropout=0.1,
        prior_rate=0.075,
        muon=False,
        weight_decay=0.0,
    ),
}
DESCRIPTIONS = {
    "tiny": "any order, some tokens at a time: two CPU cores, forty minutes",
    "base": "the same, wider and finer: one GPU, an evening",
    "large": "the same, wider and deeper still: several GPUs",
    "classic": "the textbook's causal transformer (arXiv 1706.03762) over the same tokens",
}
