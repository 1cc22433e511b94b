"""One way down the ladder with a posterior, and the divergences along it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from imggen.models.vae.config import VaeConfig
from imggen.models.vae.likelihoods import build_likelihood


class Normal(NamedTuple):
    """Independent normal distributions: means and standard deviations of one shape, float32."""

    mean: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Latents:
    """One layer of latents: its name for people, and its shape for one picture."""

    name: str
    shape: tuple[int, ...]


Choose = Callable[[int, Tensor], Tensor]


class Core(nn.Module, ABC):
    """What a VAE is made of: layers of latents, each a function of the layers above and of standard normal noise.

    A posterior is one of that noise: how the latents follow from it is the prior's affair (the residual normal
    distributions of NVAE, arXiv 2007.03898, taken to their end), so its divergence is that from a standard normal,
    however narrow a prior may be.
    """

    layers: tuple[Latents, ...]

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.likelihood = build_likelihood(config)

    @abstractmethod
    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Pictures (B, C, H, W) → what the posteriors look at, a tensor a stage."""

    @abstractmethod
    def posterior(self, index: int, state: Tensor, encoded: tuple[Tensor, ...]) -> Normal:
        """Of layer `index`'s noise, given the decoder's `state` above it and what `encode` gave."""

    @abstractmethod
    def top_down(self, count: int, labels: Tensor | None, choose: Choose) -> Tensor:
        """Decode `count` pictures → the likelihood's input (B, outputs, H, W).

        `choose(index, state)` gives the noise (B, *shape) of each layer in turn.
        """


@dataclass(frozen=True)
class TopDownPass:
    """The likelihood's input (B, outputs, H, W), and for each layer the posterior of its noise, and its noise."""

    output: Tensor
    posteriors: list[Normal]
    noise: list[Tensor]

    @property
    def divergences(self) -> list[Tensor]:
        """KL of each layer's posterior from its prior, in nats a picture (B,)."""
        return [
            sum_except_batch((mean.square() + scale.square() - 1) / 2 - scale.log()) for mean, scale in self.posteriors
        ]

    @property
    def divergence(self) -> Tensor:
        """Their sum (B,)."""
        return torch.stack(self.divergences).sum(0)

    @property
    def log_ratio(self) -> Tensor:
        """log p(noise) - log q(noise) of the noise that was taken (B,)."""
        parts = [
            sum_except_batch((((noise - mean) / scale).square() - noise.square()) / 2 + scale.log())
            for noise, (mean, scale) in zip(self.noise, self.posteriors, strict=True)
        ]
        return torch.stack(parts).sum(0)


Look = Callable[[int, Tensor], Normal]
Take = Callable[[int, Normal], Tensor]


def sum_except_batch(values: Tensor) -> Tensor:
    """Over all but the rows."""
    return values.flatten(1).sum(1)


def draw(index: int, posterior: Normal) -> Tensor:
    """Noise from the posterior, by torch's global generator."""
    return posterior.mean + posterior.scale * torch.randn_like(posterior.mean)


def mean(index: int, posterior: Normal) -> Tensor:
    """The posterior's mean."""
    return posterior.mean


def top_down_pass(core: Core, count: int, labels: Tensor | None, look: Look, take: Take = draw) -> TopDownPass:
    """Decode with each layer's noise taken from its posterior: `look(index, state)`, `take(index, posterior)`."""
    posteriors: list[Normal] = []
    noise: list[Tensor] = []

    def choose(index: int, state: Tensor) -> Tensor:
        posteriors.append(look(index, state))
        noise.append(take(index, posteriors[-1]))
        return noise[-1]

    output = core.top_down(count, labels, choose)
    return TopDownPass(output, posteriors, noise)


def look_at(core: Core, images: Tensor) -> Look:
    """The model's own posterior of pictures (B, C, H, W)."""
    encoded = core.encode(images)
    return lambda index, state: core.posterior(index, state, encoded)


def kl_divergence(one: Normal, other: Normal) -> Tensor:
    """KL of `one` from `other`, in nats a picture (B,)."""
    ratio = one.scale / other.scale
    distance = (one.mean - other.mean) / other.scale
    return sum_except_batch((ratio.square() + distance.square() - 1) / 2 - ratio.log())
