"""The textbook VAE (Kingma and Welling 2013, arXiv 1312.6114): two dense layers either way, one layer of latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import Choose, Core, Latents, Normal
from imggen.models.vae.likelihoods import scale_of


class Dense(Core):
    """Pixels → hidden → mean and scale of z; z → hidden → pixels. The class is given to both sides as a unit vector."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.shape = config.image_shape
        self.classes = len(config.classes)
        self.layers = (Latents("z", (config.z,)),)
        pixels = math.prod(self.shape)
        self.enter = nn.Linear(pixels, config.hidden)
        self.moments = nn.Linear(config.hidden + self.classes, 2 * config.z)
        self.latent = nn.Linear(config.z + self.classes, config.hidden)
        self.leave = nn.Linear(config.hidden, self.likelihood.outputs * pixels // config.channels)
        start = self.likelihood.start()
        with torch.no_grad():
            self.leave.bias.add_(start.repeat_interleave(pixels // config.channels))

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """One tensor (B, hidden)."""
        return (relu(self.enter(images.flatten(1))),)

    def posterior(self, index: int, state: Tensor, encoded: tuple[Tensor, ...]) -> Normal:
        """See `Core`; the state is the class."""
        mean, raw = self.moments(torch.cat([encoded[0], state.to(encoded[0])], 1)).float().chunk(2, 1)
        return Normal(mean, scale_of(raw))

    def top_down(self, count: int, labels: Tensor | None, choose: Choose) -> Tensor:
        """See `Core`; the latents are the noise."""
        weight = self.latent.weight
        state = weight.new_zeros(count, 0) if labels is None else one_hot(labels, self.classes).to(weight)
        latents = choose(0, state)
        hidden = relu(self.latent(torch.cat([latents.to(weight), state], 1)))
        out: Tensor = self.leave(hidden)
        return out.view(count, -1, *self.shape[1:])
