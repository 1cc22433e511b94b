"""The VAE's options and presets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from imggen.models.config import ModelConfig
from imggen.models.vae.architecture import Stage, fit_stages, parse_architecture
from imggen.option import option

LIKELIHOODS = ("dmol", "bernoulli", "gaussian")
MIN_SIZE, MAX_SIZE = 16, 256
MIN_FINE_WIDTH = 16  # channels of stages that are finer than the architecture string's
MAX_EXTRA_STAGES_FRACTION = 0.95  # of the training, for refiner and partial encoder together

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
    """A hierarchy of latents given by architecture strings or, with `hidden`, the textbook VAE of dense layers."""

    family: ClassVar[str] = "vae"

    encoder: str = option(
        TINY[0], "encoder blocks from fine to coarse: 16x2 is two blocks at 16 px, 16d2 downsamples by 2"
    )
    decoder: str = option(
        TINY[1], "layers of latents from coarse to fine: 8x2 is two layers at 8 px, 16m8 upsamples from 8 to 16"
    )
    depth: float = option(
        1.0, "fraction of the encoder's and decoder's blocks to keep, at least one per stage", low=0.01, high=4.0
    )
    patch: int = option(
        2, "side in pixels of the patches that the finest feature map has one element for", low=1, high=8
    )
    width: int = option(64, "channels of the finest feature map; doubles at each coarser resolution", low=4, high=4096)
    max_width: int = option(128, "most channels of a feature map", low=4, high=4096)
    bottleneck: float = option(0.5, "inner channels of a block as a fraction of its outer ones", low=0.05, high=1.0)
    convolutions: int = option(1, "3x3 convolutions per block", low=1, high=4)
    z: int = option(8, "latent channels per layer; of the textbook VAE its number of latents", low=1, high=1024)
    hidden: int = option(0, "hidden units of the textbook VAE's dense layers; 0 is a hierarchy", low=0, high=65536)
    likelihood: str = option(
        "dmol", "likelihood of pixels: dmol (discretized mixture of logistics), bernoulli (binarized) or gaussian"
    )
    mixtures: int = option(5, "logistics in the dmol likelihood's mixture", low=1, high=100)
    learning_rate: float = option(3e-3, "peak learning rate of Adam", low=1e-8, high=1.0)
    muon_rate: float = option(
        2.0, "learning rate of Muon, for hidden layers, as a multiple of Adam's; 0 uses Adam for all", low=0.0, high=1e3
    )
    weight_decay: float = option(0.1, "weight decay", low=0.0, high=1.0)
    cosine: bool = option(True, "decay the learning rate along a cosine")
    warm_up: float = option(
        0.05, "fraction of the training over which the weight of the KL term rises to 1", low=0.0, high=1.0
    )
    free_nats: float = option(
        4.0, "free bits: nats per layer without KL cost at first, falling to 0 at half of the training", low=0.0
    )
    skip_threshold: float = option(
        3.0, "skip steps whose gradient norm is this many times the usual one; 0 skips none", low=0.0, high=1e6
    )
    ema_images: int = option(10_000, "half-life of the weights' EMA in images; 0 uses the raw weights", low=0)
    inpaint_fraction: float = option(
        0.15, "last fraction of the training, spent on the partial encoder for inpainting; 0: none", low=0.0, high=0.9
    )
    context_blocks: int = option(
        1, "blocks per stage of the partial encoder's top-down path; 0: no such path", low=0, high=16
    )
    sharpen: float = option(
        0.0,
        "fraction of the training, before the partial encoder's, spent on an adversarial refiner that sharpens images, "
        "for 64 px and more; such a model has no bits per dimension; 0: none",
        low=0.0,
        high=0.9,
    )

    def __post_init__(self) -> None:
        """Check that sizes are from 16 to 256 and divisible by the patch, and that the architecture fits them."""
        super().__post_init__()
        self.check(MIN_SIZE <= self.size <= MAX_SIZE, f"vae has sizes from {MIN_SIZE} to {MAX_SIZE}, not {self.size}")
        self.check(self.likelihood in LIKELIHOODS, f"likelihood must be one of {', '.join(LIKELIHOODS)}")
        self.check(
            self.sharpen + self.inpaint_fraction <= MAX_EXTRA_STAGES_FRACTION,
            f"sharpen and inpaint-fraction together must be at most {MAX_EXTRA_STAGES_FRACTION}",
        )
        self.check(not self.sharpen or self.size % 8 == 0, f"sharpen needs a size divisible by 8, not {self.size}")
        self.check(
            not self.sharpen or self.likelihood != "bernoulli",
            "sharpen does not apply to binarized images: use --sharpen 0",
        )
        if self.hidden:
            self.check(self.inpaint_fraction == 0, "the textbook VAE has no partial encoder: use --inpaint-fraction 0")
        else:
            self.check(self.size % self.patch == 0, f"patch must divide {self.size}: --patch 1 does")
            self.check(bool(self.stages), "the architecture has no stages")

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Resolutions from the coarsest to the finest, for this size. Raises UsageError."""
        return fit_stages(parse_architecture(self.encoder, self.decoder), self.size // self.patch, self.depth)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage.

        That is `width` at the finest resolution of the architecture string, and twice as many at half of it; stages
        that were added because the image is larger have fewer.
        """
        finest = parse_architecture(self.encoder, self.decoder)[-1].nominal
        widths = []
        for stage in self.stages:
            uncapped = max(self.width * finest // stage.nominal, min(self.width, MIN_FINE_WIDTH))
            widths.append(min(uncapped, max(self.width, self.max_width)))
        return tuple(widths)


PRESETS = {
    "tiny": VaeConfig(preset="tiny"),
    "base": VaeConfig(
        preset="base", encoder=BASE[0], decoder=BASE[1], patch=1, width=256, max_width=256, bottleneck=0.25,
        convolutions=2, z=16, mixtures=10, learning_rate=6e-4, muon_rate=0.0, weight_decay=0.01, ema_images=50_000,
    ),
    "large": VaeConfig(
        preset="large", encoder=LARGE[0], decoder=LARGE[1], patch=1, width=384, max_width=384, bottleneck=0.25,
        convolutions=2, z=16, mixtures=10, learning_rate=2e-4, muon_rate=0.0, weight_decay=0.01, cosine=False,
        warm_up=0.0, free_nats=0.0, ema_images=220_000, inpaint_fraction=0.1,
    ),
    "dense": VaeConfig(
        preset="dense", hidden=128, z=32, likelihood="gaussian", learning_rate=1e-3, muon_rate=0.0, weight_decay=0.0,
        cosine=False, warm_up=0.0, free_nats=0.0, skip_threshold=0.0, ema_images=0, inpaint_fraction=0.0,
    ),
}  # fmt: skip
DESCRIPTIONS = {
    "tiny": "hierarchy of nine layers of latents on 2x2 patches: two CPU cores, half an hour",
    "base": "hierarchy of 32 layers of latents, without patches: one GPU, an evening",
    "large": "VDVAE's own configuration for 32 px (arXiv 2011.10650), 43 layers: GPUs, days",
    "dense": "the textbook VAE (arXiv 1312.6114): two dense layers each way",
}
