"""Noise → picture with a generator alone; picture → noise by optimisation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from imggen.models.base import PLAIN, Backend, Inversion
from imggen.models.config import SamplingOptions
from imggen.models.gan import dcgan as networks
from imggen.models.gan import r3gan as residual
from imggen.models.gan.config import GanConfig
from imggen.models.gan.fused import Overlap, Spread
from imggen.models.gan.inversion import GPU, TWO_CORES, Effort, Found, polish, search


class GanBackend(Backend):
    """A generator and the two searches that run it backwards."""

    config: GanConfig

    def __init__(self, config: GanConfig) -> None:
        super().__init__(config)
        self.generator = (residual if config.blocks else networks).Generator(config)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(z_dim,)."""
        return (self.config.z_dim,)

    def generate(self, noise: Tensor, labels: Tensor | None = None, options: SamplingOptions = PLAIN) -> Tensor:
        """Generate images from z scaled by the temperature (truncation towards the mean of z)."""
        labels = self._check_labels(labels, len(noise))
        picture: Tensor = self.generator(noise * options.temperature, labels)
        return picture.clamp(-1, 1)

    def invert(self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = PLAIN) -> Inversion:
        """Search for z, and for the class where none is given: the one in which the search comes nearest."""
        everything = torch.ones_like(images[:, :1])
        found = self._search(images, everything, self._pool(len(images), images.device), labels)
        return Inversion(found.z, found.labels)

    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        options: SamplingOptions = PLAIN,
    ) -> Tensor:
        """Fill with the picture whose known part fits best, searched from around `noise`: other noise, other fill."""
        known = 1 - mask
        pool = (self._pool(len(images), images.device) + noise[:, None]) * (options.temperature / 2**0.5)
        with self._evaluating():
            found = self._search(images, known, pool, labels)
            drawn = polish(self.generator, images, known, found, self.effort.steps)
        return images * known + drawn.clamp(-1, 1) * mask

    @property
    def effort(self) -> Effort:
        """What a search may cost with networks of this size."""
        return Effort.for_cost(self.config.multiplications, TWO_CORES if self.device.type == "cpu" else GPU)

    def _pool(self, count: int, device: torch.device) -> Tensor:
        """(count, draws, z_dim): the same normal draws for every picture."""
        drawn = torch.randn(self.effort.draws, *self.noise_shape, generator=torch.Generator().manual_seed(0))
        return drawn.to(device).expand(count, -1, -1)

    def _search(self, images: Tensor, known: Tensor, pool: Tensor, labels: Tensor | None) -> Found:
        if labels is not None:
            labels = self._check_labels(labels, len(images))
        with self._evaluating():
            return search(self.generator, images, known, pool, labels, len(self.classes), self.effort)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def for_inference(self) -> GanBackend:
        """A copy with every BatchNorm folded into the convolution before it (equal up to rounding).

        On a CPU the first and the last layer become matrix products too: they are half of its time otherwise.
        """
        if self.config.blocks:
            return self
        fast = copy.deepcopy(self).eval().requires_grad_(False)
        layers: list[nn.Module] = []
        for layer in fast.generator.layers:
            if isinstance(layer, nn.BatchNorm2d) and isinstance(layers[-1], nn.ConvTranspose2d):
                layers[-1] = fuse_conv_bn_eval(layers[-1], layer, transpose=True)
            else:
                layers.append(layer)
        if layers[0].weight.device.type == "cpu":
            first, last = layers[0], layers[-2]
            assert isinstance(first, nn.ConvTranspose2d) and isinstance(last, nn.ConvTranspose2d)
            layers[0], layers[-2] = Spread(first), Overlap(last)
        fast.generator.layers = nn.Sequential(*layers)
        return fast
