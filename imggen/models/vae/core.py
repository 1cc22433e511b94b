"""The top-down pass of a VAE with layers of latents (VDVAE, arXiv 2011.10650), and the divergences along it.

Every layer is written in terms of standard normal noise: the prior turns the noise into latents (by a mean and a scale
that depend on the layers above), and a posterior is a Gaussian of the noise. This is the residual parameterization of
NVAE (arXiv 2007.03898): the KL divergence of a layer is that from a standard normal, however narrow its prior is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from imggen.models import global_batch
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.likelihoods import build_likelihood


class Normal(NamedTuple):
    """A Gaussian with diagonal covariance: means and standard deviations of one shape, float32."""

    mean: Tensor
    scale: Tensor


# The prior of every layer's noise; broadcasts. The device is explicit, because checkpoints are loaded (and this module
# perhaps first imported) under `with torch.device("meta")`; scalars on the CPU go with tensors of any device.
STANDARD = Normal(torch.zeros((), device="cpu"), torch.ones((), device="cpu"))

# (index of the layer, the hidden state that `condition` gave) -> the distribution of the layer's noise.
PosteriorFunction = Callable[[int, Tensor], Normal]
# (index of the layer, the posterior of its noise) -> noise (B, *shape of the layer).
SampleFunction = Callable[[int, Normal], Tensor]


class TopDownLayer(nn.Module, ABC):
    """One layer of latents of the decoder, called `name`; its noise is (B, *shape)."""

    name: str
    shape: tuple[int, ...]

    @abstractmethod
    def condition(self, x: Tensor) -> Tensor:
        """The state above the layer -> the hidden state that its prior and its posterior depend on."""

    @abstractmethod
    def update(self, x: Tensor, hidden: Tensor, noise: Tensor) -> Tensor:
        """The state above, its `condition` and the noise (B, *shape) -> the state below the layer."""


class Core(nn.Module, ABC):
    """Encoder, layers of latents (coarsest first) and likelihood of a VAE.

    Labels are int64 (B,), or float weights of all classes (B, classes), whose embeddings are then mixed.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.likelihood = build_likelihood(config)

    @property
    @abstractmethod
    def layers(self) -> Sequence[TopDownLayer]:
        """The layers of latents in the order of generation, coarsest first."""

    @abstractmethod
    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) -> feature maps for the posteriors, one for each resolution."""

    @abstractmethod
    def posterior(self, index: int, hidden: Tensor, encoded: tuple[Tensor, ...]) -> Normal:
        """The distribution of layer `index`'s noise, given the layers above it and what `encode` returned."""

    @abstractmethod
    def initial_state(self, count: int, labels: Tensor | None) -> Tensor:
        """The state above the first layer, for `count` images."""

    def upsample(self, index: int, x: Tensor, labels: Tensor | None) -> Tensor:
        """Bring the state to the resolution of layer `index`; most layers have that of the layer above."""
        return x

    @abstractmethod
    def output(self, x: Tensor) -> Tensor:
        """The state below the last layer -> the parameters of the likelihood (B, parameters, H, W)."""


@dataclass(frozen=True)
class TopDownPass:
    """The likelihood's parameters (B, parameters, H, W), and the posterior and the sampled noise of each layer."""

    output: Tensor
    posteriors: list[Normal]
    noise: list[Tensor]

    @property
    def layer_kl(self) -> list[Tensor]:
        """KL divergence (B,) of each layer's posterior from its prior, in nats per image."""
        return [kl_divergence(posterior) for posterior in self.posteriors]

    @property
    def kl(self) -> Tensor:
        """The sum of `layer_kl`, (B,) in nats per image."""
        return torch.stack(self.layer_kl).sum(0)

    @property
    def log_ratio(self) -> Tensor:
        """log p(noise) - log q(noise) of the noise that was sampled, (B,)."""
        ratios = [
            log_density_ratio(noise, (noise - q.mean) / q.scale, q)
            for noise, q in zip(self.noise, self.posteriors, strict=True)
        ]
        return torch.stack(ratios).sum(0)


def sample_posterior(index: int, posterior: Normal) -> Tensor:
    """Noise from the posterior, by torch's global generator (the reparameterization trick)."""
    return posterior.mean + posterior.scale * global_batch.randn_like(posterior.mean)


def posterior_mean(index: int, posterior: Normal) -> Tensor:
    """The mean of the posterior in place of a sample."""
    return posterior.mean


def top_down_pass(
    core: Core,
    count: int,
    labels: Tensor | None,
    posterior: PosteriorFunction,
    sample: SampleFunction = sample_posterior,
) -> TopDownPass:
    """Decode `count` images, with each layer's noise sampled from its posterior given the layers above."""
    posteriors: list[Normal] = []
    noise: list[Tensor] = []
    x = core.initial_state(count, labels)
    for index, layer in enumerate(core.layers):
        x = core.upsample(index, x, labels)
        hidden = layer.condition(x)
        posteriors.append(posterior(index, hidden))
        noise.append(sample(index, posteriors[-1]))
        x = layer.update(x, hidden, noise[-1])
    return TopDownPass(core.output(x), posteriors, noise)


def posterior_means(core: Core, encoded: tuple[Tensor, ...], labels: Tensor | None, count: int) -> list[Tensor]:
    """The posterior's means (B, *shape) of the first `count` layers, each given those above and encoded images."""
    means: list[Tensor] = []
    x = core.initial_state(encoded[0].shape[0], labels)
    for index, layer in enumerate(core.layers[:count]):
        x = core.upsample(index, x, labels)
        hidden = layer.condition(x)
        means.append(core.posterior(index, hidden, encoded).mean)
        x = layer.update(x, hidden, means[-1])
    return means


def encoder_posterior(core: Core, images: Tensor) -> PosteriorFunction:
    """The model's own posterior q(noise | images), for images (B, C, H, W)."""
    encoded = core.encode(images)
    return lambda index, hidden: core.posterior(index, hidden, encoded)


def decode(core: Core, noise: Sequence[Tensor], labels: Tensor | None) -> Tensor:
    """Generate from given noise, one tensor (B, *shape) for each layer -> the likelihood's parameters."""

    def prior(index: int, hidden: Tensor) -> Normal:
        return STANDARD

    return top_down_pass(core, noise[0].shape[0], labels, prior, lambda index, _: noise[index]).output


def sum_except_batch(values: Tensor) -> Tensor:
    """Sum over all dimensions but the first."""
    return values.flatten(1).sum(1)


def kl_divergence(q: Normal, p: Normal = STANDARD) -> Tensor:
    """KL(q || p) in nats per image (B,)."""
    ratio = q.scale / p.scale
    distance = (q.mean - p.mean) / p.scale
    return sum_except_batch((distance.square() + ratio.square() - 1) / 2 - ratio.log())


def log_density_ratio(noise: Tensor, standardized: Tensor, q: Normal) -> Tensor:
    """log N(noise; 0, 1) - log q(noise), summed over a layer (B,).

    `standardized` is (noise - mean of q) / scale of q. If the noise was sampled at another temperature than 1, it is
    what was sampled from the standard normal: the ratio is then correct up to a constant.
    """
    return sum_except_batch((standardized.square() - noise.square()) / 2 + q.scale.log())
