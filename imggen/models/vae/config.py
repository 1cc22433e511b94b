"""The VAE's options and presets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from imggen.models.config import ModelConfig, option
from imggen.models.vae.architecture import Stage, fit, parse

LIKELIHOODS = ("dmol", "bernoulli", "gaussian")
SMALLEST_WIDTH = 16

TINY = ("16x1,16d2,8x2,8d2,4x1,4d4,1x1", "1x1,4m1,4x1,8m4,8x2,16m8,16x2")
BASE = (
    "32x6,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3",
    "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x10",
)
LARGE = (
    "32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3",
    "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21",
)


@dataclass(frozen=True, kw_only=True)
class VaeConfig(ModelConfig):
    """A ladder of latents by an architecture string, or, with `hidden`, the textbook's two dense layers."""

    family: ClassVar[str] = "vae"

    encoder: str = option(TINY[0], "blocks from fine to coarse, such as 16x2,16d2,8x2,8d8,1x1")
    decoder: str = option(TINY[1], "layers of latents from coarse to fine, such as 1x1,8m1,8x2,16m8,16x3")
    depth: float = option(1.0, "share of the blocks that is kept, one at least in each stage", low=0.01, high=4.0)
    patch: int = option(2, "side of the squares of pixels that become one place of the finest map", low=1, high=8)
    width: int = option(64, "channels of the finest map; doubles towards 1x1", low=4, high=4096)
    max_width: int = option(128, "no map is wider than this", low=4, high=4096)
    bottleneck: float = option(0.5, "a block's inner channels as a share of its outer", low=0.05, high=1.0)
    convolutions: int = option(1, "3x3 convolutions in a block", low=1, high=4)
    z: int = option(8, "channels of a layer's latents; of a dense network all there are", low=1, high=1024)
    hidden: int = option(0, "units of the textbook's dense layers; 0 is a hierarchy", low=0, high=65536)
    likelihood: str = option("dmol", "of pixels: dmol (a mixture of logistics), bernoulli (binarised) or gaussian")
    mixtures: int = option(5, "logistics in a pixel's mixture", low=1, high=100)
    learning_rate: float = option(3e-3, "Adam's learning rate at its height", low=1e-8, high=1.0)
    muon_rate: float = option(
        2.0, "Muon's learning rate for a ladder's hidden layers, in units of Adam's; 0: Adam for all", low=0.0, high=1e3
    )
    weight_decay: float = option(0.1, "weight decay", low=0.0, high=1.0)
    cosine: bool = option(True, "let the learning rate fall along a cosine")
    warm_up: float = option(0.05, "share of the training in which the KL's weight rises to 1", low=0.0, high=1.0)
    free: float = option(
        4.0, "nats a picture that each layer may carry for nothing at first; none from half the training on", low=0.0
    )
    skip: float = option(3.0, "skip a step whose gradient is this much longer than most; 0 never", low=0.0, high=1e6)
    ema_images: int = option(10_000, "half-life of the averaged weights in pictures; 0 shows the raw weights", low=0)
    filling: float = option(
        0.15, "share of the training, its end, that learns to fill holes; 0 is none", low=0.0, high=0.9
    )
    around: int = option(
        1,
        "blocks a stage by which the encoder of pictures with holes carries what is known into them; 0 is none",
        low=0,
        high=16,
    )

    sharpen: float = option(
        0.0,
        "share of the training, before holes are learnt, that makes pictures sharper by a critic, for 64 px and more: "
        "no bits per dimension then; 0 is none",
        low=0.0,
        high=0.9,
    )

    def __post_init__(self) -> None:
        """Sizes from 16 to 256 that the patch divides; the architecture must fit them."""
        super().__post_init__()
        self.check(16 <= self.size <= 256, f"vae draws sizes from 16 to 256, not {self.size}")
        self.check(self.likelihood in LIKELIHOODS, f"likelihood must be one of {', '.join(LIKELIHOODS)}")
        self.check(self.sharpen + self.filling <= 0.95, "sharpen and filling leave no training for the model itself")
        self.check(not self.sharpen or self.size % 8 == 0, f"sharpen works on sizes that 8 divides, not {self.size}")
        self.check(
            not self.sharpen or self.likelihood != "bernoulli", "binarised pictures cannot be sharper: --sharpen 0"
        )
        if self.hidden:
            self.check(self.filling == 0, "filling needs a hierarchy: --filling 0 goes with --hidden")
        else:
            self.check(self.size % self.patch == 0, f"patch must divide {self.size}, as 1 does")
            self.check(bool(self.stages), "the architecture has no stages")

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Resolutions from the coarsest to the finest, for this size. Raises UsageError."""
        return fit(parse(self.encoder, self.decoder), self.size // self.patch, self.depth)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage: `width` at the string's finest, twice that at half the side, less where finer."""
        finest = parse(self.encoder, self.decoder)[-1].nominal
        found = []
        for stage in self.stages:
            fine = max(self.width * finest // stage.nominal, min(self.width, SMALLEST_WIDTH))
            found.append(min(fine, max(self.width, self.max_width)))
        return tuple(found)


PRESETS = {
    "tiny": VaeConfig(preset="tiny"),
    "base": VaeConfig(
        preset="base", encoder=BASE[0], decoder=BASE[1], patch=1, width=256, max_width=256, bottleneck=0.25,
        convolutions=2, z=16, mixtures=10, learning_rate=6e-4, muon_rate=0.0, weight_decay=0.01, ema_images=50_000,
    ),
    "large": VaeConfig(
        preset="large", encoder=LARGE[0], decoder=LARGE[1], patch=1, width=384, max_width=384, bottleneck=0.25,
        convolutions=2, z=16, mixtures=10, learning_rate=2e-4, muon_rate=0.0, weight_decay=0.01, cosine=False,
        warm_up=0.0, free=0.0, ema_images=220_000, filling=0.1,
    ),
    "dense": VaeConfig(
        preset="dense", hidden=128, z=32, likelihood="gaussian", learning_rate=1e-3, muon_rate=0.0, weight_decay=0.0,
        cosine=False, warm_up=0.0, free=0.0, skip=0.0, ema_images=0, filling=0.0,
    ),
}  # fmt: skip
DESCRIPTIONS = {
    "tiny": "a ladder of nine layers of latents on 2x2 patches: two CPU cores, half an hour",
    "base": "a ladder of 32 layers, every pixel its own place: one GPU, an evening",
    "large": "VDVAE's own for 32 px (arXiv 2011.10650), 43 layers: GPUs, days",
    "dense": "the textbook VAE (arXiv 1312.6114): two dense layers either way",
}
