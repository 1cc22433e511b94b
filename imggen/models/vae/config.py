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
    training: ClassVar[tuple[str, ...]] = (
        "learning_rate", "muon_rate", "weight_decay", "cosine", "warm_up", "free_nats", "skip_threshold", "ema_images",
    )  # fmt: skip

    # VDVAE's notation (architecture.py). Encoder: blocks from fine to coarse, 16x2 is two at 16 px, 16d2 downsamples by
    # 2. Decoder: layers of latents from coarse to fine, 8x2 is two at 8 px, 16m8 upsamples from 8 to 16.
    encoder: str = option(TINY[0], "VDVAE encoder string, such as 16x2,16d2,8x2")
    decoder: str = option(TINY[1], "VDVAE decoder string, such as 8x2,16m8,16x2")
    # At least one block is kept per stage.
    depth: float = option(1.0, "Multiplier of the number of blocks per stage", low=0.01, high=4.0)
    # One element of the finest feature map covers patch x patch pixels.
    patch: int = option(2, "Patch size of the first layer in pixels", low=1, high=8)
    width: int = option(64, "Base channels, doubled per downsampling", low=4, high=4096)
    max_width: int = option(128, "Maximum channels of a layer", low=4, high=4096)
    bottleneck: float = option(0.5, "Bottleneck ratio: inner/outer channels", low=0.05, high=1.0)
    convolutions: int = option(1, "3x3 convolutions per block", low=1, high=4)
    # For the textbook VAE: the dimension of its only latent vector.
    z: int = option(8, "Latent channels per layer", low=1, high=1024)
    hidden: int = option(0, "Hidden units of the dense VAE; 0: hierarchical VAE", low=0, high=65536)
    # dmol is the discretized mixture of logistics (arXiv 1701.05517); bernoulli binarizes the images.
    likelihood: str = option("dmol", "Pixel likelihood: dmol, bernoulli or gaussian")
    mixtures: int = option(5, "Mixture components of the dmol likelihood", low=1, high=100)
    learning_rate: float = option(3e-3, "Peak learning rate of Adam", low=1e-8, high=1.0)
    # Muon trains the matrices of hidden layers, Adam the other parameters.
    muon_rate: float = option(2.0, "Muon rate as multiple of Adam's; 0: no Muon", low=0.0, high=1e3)
    weight_decay: float = option(0.1, "Weight decay", low=0.0, high=1.0)
    cosine: bool = option(True, "Decay the learning rate along a cosine")
    # The weight of the KL term rises from 0 to 1.
    warm_up: float = option(0.05, "KL warm-up as a fraction of the training", low=0.0, high=1.0)
    # Nats per layer without KL cost; they fall to 0 at half of the training.
    free_nats: float = option(4.0, "Free bits at the start, in nats per layer", low=0.0)
    # The usual norm is a running quantile (gradient_guard.py).
    skip_threshold: float = option(3.0, "Skip steps of gradient norm > N x usual; 0: none", low=0.0, high=1e6)
    ema_images: int = option(10_000, "EMA half-life in images; 0: none", low=0)
    # The last part of the training: only the partial encoder is trained.
    inpaint_fraction: float = option(0.15, "Fraction of training for inpainting; 0: none", low=0.0, high=0.9)
    context_blocks: int = option(1, "Partial encoder: top-down blocks per stage; 0: none", low=0, high=16)
    # Before the partial encoder's part. The refiner sharpens images of 64 px and more, and is trained adversarially;
    # such a model has no bits per dimension.
    sharpen: float = option(0.0, "Fraction of training for a GAN refiner; 0: none", low=0.0, high=0.9)

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
            self.check(self.size % self.patch == 0, f"--patch must divide the size {self.size}: --patch 1 does")
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
