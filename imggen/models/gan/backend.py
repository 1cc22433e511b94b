"""Noise → picture with a generator alone; picture → noise by optimisation."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from imggen.models.base import Backend as BaseBackend
from imggen.models.gan.config import Config
from imggen.models.gan.networks import Generator, Overlap, Spread

STEPS = 200


class Backend(BaseBackend):
    """A generator and the two searches that run it backwards."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.generator = Generator(config)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(z_dim,)."""
        return (self.config.z_dim,)

    def generate(self, noise: Tensor, labels: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """See the contract. `temperature` scales z towards its mean: truncation, variety for typicality."""
        labels = self.checked_labels(labels, len(noise))
        picture: Tensor = self.generator(noise * temperature, labels)
        return picture

    def invert(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pictures → z by Adam on the squared error, from the mean of the prior, kept near the prior's shell."""
        start = torch.zeros(len(images), *self.noise_shape, device=images.device)
        return self._search(images, torch.ones_like(images[:, :1]), start, labels)

    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """Fill with the picture whose known part fits best, searched from `noise`: other noise, other fill."""
        found = self._search(images, 1 - mask, noise * temperature, labels)
        with torch.no_grad():
            drawn = self.generate(found, labels)
        return images * (1 - mask) + drawn * mask

    def _search(self, images: Tensor, known: Tensor, start: Tensor, labels: Tensor | None) -> Tensor:
        was_training = self.training
        self.eval()
        z = start.clone().requires_grad_(True)
        adam = torch.optim.Adam([z], lr=0.1)
        with torch.enable_grad():
            for step in range(STEPS):
                adam.param_groups[0]["lr"] = 0.1 * (1 - step / STEPS)
                error = (self.generate(z, labels) - images).square() * known
                # Summed over pictures, so that a picture's answer does not depend on its neighbours.
                prior = 1e-3 * (z.square().mean(1) - 1).relu().square()
                loss = (error.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1) + prior).sum()
                (z.grad,) = torch.autograd.grad(loss, z)
                adam.step()
        self.train(was_training)
        return z.detach()

    def fused(self) -> Backend:
        """A copy with every BatchNorm folded into the convolution before it (equal up to rounding).

        On a CPU the first and the last layer become matrix products too: they are half of its time otherwise.
        """
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
