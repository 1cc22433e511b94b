"""The textbook VAE (Kingma and Welling 2013, arXiv 1312.6114): two dense layers each way, one layer of latents.

pixels -> hidden -> mean and scale of z; z -> hidden -> pixels. The class is given to both sides as a one-hot vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import Core, Normal, TopDownLayer
from imggen.models.vae.likelihoods import positive_scale


class DenseLayer(TopDownLayer):
    """The only layer of latents: z is the noise itself, and the state above it is the class."""

    name = "z"

    def __init__(self, z: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.shape = (z,)
        self.linear = nn.Linear(z + classes, hidden)

    def condition(self, x: Tensor) -> Tensor:
        """The posterior depends on the class as it is, (B, classes)."""
        return x

    def update(self, x: Tensor, hidden: Tensor, noise: Tensor) -> Tensor:
        """z (B, z) and class -> hidden units (B, hidden)."""
        return relu(self.linear(torch.cat([noise.to(x), x], 1)))


class Dense(Core):
    """Encoder and decoder with one hidden layer each."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.image_shape = config.image_shape
        self.classes = len(config.classes)
        pixels = math.prod(self.image_shape)
        self.encoder = nn.Linear(pixels, config.hidden)
        self.moments = nn.Linear(config.hidden + self.classes, 2 * config.z)
        self.layer = DenseLayer(config.z, self.classes, config.hidden)
        self.head = nn.Linear(config.hidden, self.likelihood.outputs * pixels // config.channels)
        with torch.no_grad():
            self.head.bias.add_(self.likelihood.initial_bias().repeat_interleave(pixels // config.channels))

    @property
    def layers(self) -> tuple[TopDownLayer]:
        """One layer."""
        return (self.layer,)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """One tensor (B, hidden)."""
        return (relu(self.encoder(images.flatten(1))),)

    def posterior(self, index: int, hidden: Tensor, encoded: tuple[Tensor, ...]) -> Normal:
        """Mean and scale of z, from the encoder's hidden units and the class."""
        mean, raw_scale = self.moments(torch.cat([encoded[0], hidden.to(encoded[0])], 1)).float().chunk(2, 1)
        return Normal(mean, positive_scale(raw_scale))

    def initial_state(self, count: int, labels: Tensor | None) -> Tensor:
        """The class as one-hot vectors (B, classes); without classes (B, 0)."""
        weight = self.layer.linear.weight
        if labels is None:
            return weight.new_zeros(count, 0)
        return labels.to(weight) if labels.is_floating_point() else one_hot(labels, self.classes).to(weight)

    def output(self, x: Tensor) -> Tensor:
        """Hidden units -> the likelihood's parameters (B, parameters, H, W)."""
        return self.head(x).view(len(x), -1, *self.image_shape[1:])
