"""The GAN's backend: noise → image with the generator alone; image → noise by optimization (GAN inversion)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from imggen.models.adversarial import augment_alike
from imggen.models.base import DEFAULT_SAMPLING, Backend, Features, Inversion, Task
from imggen.models.config import SamplingOptions
from imggen.models.gan import dcgan, r3gan
from imggen.models.gan.config import GanConfig
from imggen.models.gan.encoder import Encoder
from imggen.models.gan.fused import DenseFromPixel, DenseUpsampling
from imggen.models.gan.inversion import (
    CPU_MULTIPLICATIONS_PER_SECOND,
    GPU_MULTIPLICATIONS_PER_SECOND,
    SearchBudget,
    SearchResult,
    refine_features,
    search_latents,
)
from imggen.models.heads import pool_grid


def build_discriminator(config: GanConfig) -> dcgan.Discriminator | r3gan.Discriminator:
    """The discriminator of a configuration, with new weights."""
    return (r3gan.Discriminator if config.blocks else dcgan.Discriminator)(config)


class GanBackend(Backend):
    """A generator, inverted by a search for z; its encoder; and the discriminator it was trained with, if kept."""

    config: GanConfig

    def __init__(self, config: GanConfig) -> None:
        super().__init__(config)
        self.generator = (r3gan.Generator if config.blocks else dcgan.Generator)(config)
        self.discriminator = None if config.slim else build_discriminator(config)
        self.encoder = Encoder(config) if config.encoder_fraction else None

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(z_dim,): the length of z."""
        return (self.config.z_dim,)

    def generate(
        self, noise: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Tensor:
        """Generate images from z scaled by the temperature (truncation towards the mean of z)."""
        labels = self._check_labels(labels, noise.shape[0])
        return self.generator(noise * options.temperature, labels).clamp(-1, 1)

    def limitation(self, task: Task) -> str:
        """Without discriminator and encoder a GAN has no features, without its encoder no class scores."""
        if task == "features" and self.discriminator is None and self._trained_encoder() is None:
            return "its file has no discriminator"
        if task == "classes" and self._trained_encoder() is None:
            return "it has no trained encoder"
        return ""

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """The maps of the discriminator, or of the encoder in a file without it; the vectors are the last, pooled."""
        encoder = self._trained_encoder()
        if self.discriminator is None and encoder is None:
            return super().features(images)
        with self._eval_mode():
            if self.discriminator is None:
                assert encoder is not None
                last = encoder.features(images, torch.ones_like(images[:, :1])).float()
                return Features(pool_grid(last), (last,))
            (seen,) = augment_alike(images, strength=0, on_white=self.config.blend)
            maps = tuple(each.float() for each in self.discriminator.maps(seen))
        return Features(pool_grid(maps[0]), maps)

    @torch.no_grad()
    def class_scores(self, images: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """By the encoder; None for a model that has none."""
        encoder = self._trained_encoder()
        if encoder is None or not self.classes:
            return None
        with self._eval_mode():
            unmasked = torch.ones_like(images[:, :1]) if mask is None else 1 - mask
            return encoder(images, unmasked).logits.log_softmax(1)

    def invert(
        self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Inversion:
        """Search for z, from the encoder's on if there is one; without labels, also for the class.

        That is the encoder's most likely one, or else the one with the smallest error.
        """
        generator = self.for_inference().generator
        result = self._search(generator, images, torch.ones_like(images[:, :1]), labels)
        return Inversion(result.z, result.labels)

    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        options: SamplingOptions = DEFAULT_SAMPLING,
    ) -> Tensor:
        """Fill from the generated image nearest to the unmasked pixels; `noise` moves where the search begins."""
        unmasked, generator = 1 - mask, self.for_inference().generator
        result = self._search(generator, images, unmasked, labels, noise, options.temperature)
        with self._eval_mode():
            generated = refine_features(generator, images, unmasked, result, self.search_budget.steps)
        return images * unmasked + generated.clamp(-1, 1) * mask

    @property
    def search_budget(self) -> SearchBudget:
        """What a search may cost with a generator of this size on this device."""
        on_cpu = self.device.type == "cpu"
        rate = CPU_MULTIPLICATIONS_PER_SECOND if on_cpu else GPU_MULTIPLICATIONS_PER_SECOND
        return SearchBudget.for_cost(self.config.multiplications, rate)

    def _candidates(self, count: int, device: torch.device) -> Tensor:
        """(count, candidates, z_dim): the same normal samples for every image."""
        generator = torch.Generator().manual_seed(0)
        candidates = torch.randn(self.search_budget.candidates, *self.noise_shape, generator=generator)
        return candidates.to(device).expand(count, -1, -1)

    def _search(
        self,
        generator: dcgan.Generator | r3gan.Generator,
        images: Tensor,
        unmasked: Tensor,
        labels: Tensor | None,
        noise: Tensor | None = None,
        temperature: float = 1.0,
    ) -> SearchResult:
        """z, and the class if `labels` are None; `noise` moves where the search begins."""
        if labels is not None:
            labels = self._check_labels(labels, len(images))
        budget, encoder = self.search_budget, self._trained_encoder()
        candidates = self._candidates(len(images), images.device)
        if noise is not None:
            # The sum of two standard normal variables has variance 2.
            candidates = (candidates + noise[:, None]) * (temperature / 2**0.5)
        with self._eval_mode():
            if encoder is not None:
                budget = budget.from_encoder()
                with torch.no_grad():
                    z, scores = encoder(images, unmasked)
                # Half of them around z, farther from it the more of an image is masked: then less of z is known.
                near, far = candidates[:, : budget.candidates].tensor_split(2, dim=1)
                spread = (1 - unmasked).mean((2, 3)).sqrt()[:, None]
                candidates = torch.cat([z[:, None] + spread * near, far], 1)
                # Of a part of an image the encoder is less sure: there the search finds the class.
                if labels is None and self.classes and noise is None:
                    labels = scores.argmax(1)
            return search_latents(generator, images, unmasked, candidates, labels, len(self.classes), budget)

    def _trained_encoder(self) -> Encoder | None:
        """None, too, in a checkpoint written before its training began."""
        return self.encoder if self.encoder is not None and bool(self.encoder.trained > 0) else None

    @contextmanager
    def _eval_mode(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def for_inference(self) -> GanBackend:
        """A copy of a DCGAN that only generates, every BatchNorm folded into the convolution before it.

        It is equal up to rounding. On a CPU the first and last layers become matrix products: as convolutions they take
        half of the model's time.
        """
        if self.config.blocks:
            return self
        fast = copy.copy(self)
        fast._modules = dict(self._modules)  # which a shallow copy would share
        fast.discriminator = fast.encoder = None
        generator = fast.generator = copy.deepcopy(self.generator)
        fast.eval().requires_grad_(False)
        assert isinstance(generator, dcgan.Generator)
        layers: list[nn.Module] = []
        for layer in generator.layers:
            if isinstance(layer, nn.BatchNorm2d) and isinstance(layers[-1], nn.ConvTranspose2d):
                layers[-1] = fuse_conv_bn_eval(layers[-1], layer, transpose=True)
            else:
                layers.append(layer)
        if self.device.type == "cpu":
            first, last = layers[0], layers[-2]
            assert isinstance(first, nn.ConvTranspose2d) and isinstance(last, nn.ConvTranspose2d)
            layers[0], layers[-2] = DenseFromPixel(first), DenseUpsampling(last)
        generator.layers = nn.Sequential(*layers)
        return fast
