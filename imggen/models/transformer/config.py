"""The transformer's options and presets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from imggen.errors import UsageError
from imggen.models.config import ModelConfig
from imggen.option import option

# Levels of the tokenizer's channels by the number of codes (Mentzer et al. 2023, arXiv 2309.15505, section 4.1).
LEVELS = {
    512: (8, 8, 8),
    1000: (8, 5, 5, 5),
    4375: (7, 5, 5, 5, 5),
    15360: (8, 8, 8, 6, 5),
    262144: (8, 8, 8, 8, 8, 8),  # for few tokens of large patches, such as 8x8 of a 64-pixel image
}
SMALL_DATASET, MIN_DROPOUT_SMALL_DATASET = 20_000, 0.1  # images
MAX_TOKENS_PER_SIDE = 16  # larger images get larger patches
LARGE_SIZE = 64  # pixels: see `for_size`


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """A tokenizer and a prior over its tokens; `classic` differs in the prior only."""

    family: ClassVar[str] = "transformer"
    training: ClassVar[tuple[str, ...]] = (
        "tokenizer_fraction", "keep_tokens", "edges", "dropout", "drop_label", "learning_rate", "prior_rate", "muon",
        "weight_decay", "ema_images",
    )  # fmt: skip

    # Doubled until an image has at most MAX_TOKENS_PER_SIDE tokens along a side.
    factor: int = option(4, "Minimum side of a token, px", low=2, high=32)
    # By image size and channels if 0: see `levels`.
    codes: int = option(0, "Codes of a token; 0: automatic", low=0)
    # At half resolution; up to 4 times as many below.
    tokenizer_width: int = option(32, "Base channels of the tokenizer", low=4, high=1024)
    # The rest of the budget trains the prior. With `keep_tokens` also 0 (the prior alone) and 1 (the decoder alone).
    tokenizer_fraction: float = option(0.25, "Fraction for the tokenizer", low=0.0, high=1.0)
    # Without it, the tokenizer's loss is the likelihood only.
    # For a decoder that is trained on, and a prior that is then still right.
    keep_tokens: bool = option(False, "Freeze the encoder of --init-from")
    edges: float = option(1.0, "Weight of the tokenizer's edge loss; 0: none", low=0.0, high=100.0)
    # 1 to 4 for sharper images, at the end of the tokenizer's training; lowers PSNR and likelihood.
    adversarial: float = option(0.0, "Weight of the tokenizer's GAN loss; 0: none", low=0.0, high=10.0)
    raster: bool = option(False, "Causal prior in raster order, token by token")
    width: int = option(160, "Width, a multiple of 4 x heads", low=8, high=8192)
    # Without `raster`, half of the layers process the tokens and half predict.
    depth: int = option(6, "Layers of the prior, an even number", low=2, high=128)
    heads: int = option(5, "Attention heads of the prior", low=1, high=128)
    # By default at least 0.1 for fewer than 20,000 images: see `for_dataset_size`.
    dropout: float = option(0.0, "Dropout of the prior", low=0.0, high=0.9)
    # Classifier-free guidance (arXiv 2207.12598) needs it.
    drop_label: float = option(0.1, "Fraction of labels dropped, for --guidance", low=0.0, high=0.9)
    learning_rate: float = option(4e-3, "Tokenizer's peak learning rate", low=1e-8, high=1.0)
    # In units of `learning_rate`; use 0.5 with --no-muon.
    prior_rate: float = option(1.5, "Prior's learning rate / tokenizer's", low=1e-3, high=1e3)
    # The tokenizer's hidden matrices are trained with Muon in any case.
    muon: bool = option(True, "Muon for the prior's hidden matrices, else AdamW")
    weight_decay: float = option(0.05, "Weight decay of the prior", low=0.0, high=1.0)
    ema_images: int = option(10_000, "EMA half-life in images; 0: none", low=0)

    def __post_init__(self) -> None:
        """Raise UsageError for a size that is not a whole number of patches, unknown codes, or unsuitable layers."""
        super().__post_init__()
        self.check(
            self.keep_tokens or 0.01 <= self.tokenizer_fraction <= 0.99,
            "--tokenizer-fraction must be from 0.01 to 0.99, unless --keep-tokens is given",
        )
        self.check(self.factor & (self.factor - 1) == 0, "--factor must be a power of two, such as 4")
        self.check(self.codes == 0 or self.codes in LEVELS, f"codes must be one of {', '.join(map(str, LEVELS))}")
        size_fits = 8 <= self.size <= 512 and self.size % self.patch == 0
        self.check(size_fits, f"size must be between 8 and 512 and a multiple of {self.patch}, not {self.size}")
        # Rotary embeddings need two pairs of elements in each head: one for the row, one for the column.
        width_fits = self.width % (4 * self.heads) == 0
        self.check(width_fits, f"width must be a multiple of 4 times heads, {4 * self.heads}, not {self.width}")
        self.check(self.adversarial == 0 or self.size >= 16, "--adversarial needs a size of at least 16")
        self.check(self.raster or self.depth % 2 == 0, "--depth must be even, unless --raster is given")

    def check_start(self, begun: ModelConfig | None) -> None:
        """Raise UsageError if the encoder is to be frozen, and the model to begin from has no such encoder."""
        if not self.keep_tokens:
            return
        if begun is None:
            raise UsageError("--keep-tokens needs a trained encoder", "add --init-from with a transformer")
        assert isinstance(begun, TransformerConfig)
        for name, wanted, there in (
            ("channels", self.channels, begun.channels),
            ("pixels along a side of a token", self.patch, begun.patch),
            ("codes", math.prod(self.levels), math.prod(begun.levels)),
            ("base channels of the tokenizer", self.tokenizer_width, begun.tokenizer_width),
        ):
            if wanted != there:
                raise UsageError(
                    f"--keep-tokens needs the encoder of the model to begin from: it has {there:,} {name}, not"
                    f" {wanted:,}",
                    "leave --keep-tokens out",
                )

    @property
    def cpu_batch(self) -> int | None:
        """Images per step on a CPU: `classic` has the tokenizer of `tiny`, so the same batch."""
        return 32 if self.preset == "classic" else super().cpu_batch

    def for_dataset_size(self, count: int) -> dict[str, Any]:
        """More dropout for a small data set, which the prior would memorize."""
        if count >= SMALL_DATASET or self.dropout >= MIN_DROPOUT_SMALL_DATASET:
            return {}
        return {"dropout": MIN_DROPOUT_SMALL_DATASET}

    def for_size(self, size: int) -> dict[str, Any]:
        """For `tiny`, few tokens of many codes: a step takes a third of the time, and the images are better."""
        if self.preset != "tiny" or size < LARGE_SIZE:
            return {}
        return {"factor": 8, "codes": 262144, "tokenizer_fraction": 0.3}

    @property
    def patch(self) -> int:
        """Side in pixels of a token's patch."""
        patch = self.factor
        while patch * MAX_TOKENS_PER_SIDE < self.size:
            patch *= 2
        return patch

    @property
    def side(self) -> int:
        """Tokens along one side of an image."""
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
    "tiny": "tokens in any order, several at a time; forty minutes on two CPU cores",
    "base": "wider, with smaller patches; an evening on one GPU",
    "large": "wider and deeper than base; several GPUs",
    "classic": "the textbook's causal transformer (arXiv 1706.03762) over the tokens of tiny",
}
