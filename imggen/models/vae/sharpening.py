"""The stage of a training in which a `Sharpener` learns from its critic, the ladder being frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from imggen.models.critic import EVERY, Critic, critic_loss, penalty
from imggen.models.layers import Average
from imggen.models.vae.config import Config
from imggen.models.vae.likelihoods import Likelihood
from imggen.models.vae.sharpen import Sharpener, sharpener_loss

RATE = 1e-3

Apply = Callable[..., None]
Outputs = tuple[Tensor, Tensor]


class Sharpening:
    """The sharpener, its critic, their Adams, and the averaged sharpener, which is the one that is shown."""

    def __init__(self, config: Config, likelihood: Likelihood) -> None:
        self.likelihood = likelihood
        self.network, self.critic = (
            Sharpener(config, likelihood.outputs),
            Critic(config.channels, config.size, config.width),
        )
        self.average = Average(self.network, config.ema_images)
        settings: dict[str, Any] = {"lr": RATE, "betas": (0.0, 0.99), "fused": True}
        self.adam = torch.optim.Adam(self.network.parameters(), **settings)
        self.adam_critic = torch.optim.Adam(self.critic.parameters(), **settings)
        self.steps = 0

    @property
    def shown(self) -> Sharpener:
        """The averaged one."""
        network = self.average.network
        assert isinstance(network, Sharpener)
        return network

    @property
    def networks(self) -> dict[str, nn.Module]:
        """sharpener, critic."""
        return {"sharpener": self.network, "critic": self.critic}

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """adam_sharpener, adam_critic."""
        return {"adam_sharpener": self.adam, "adam_critic": self.adam_critic}

    def forget(self) -> None:
        """The ladder learns on: what was learnt of its means is begun again later."""
        self.steps = 0
        for network in (self.network, self.shown):
            network.ready.zero_()

    def step(
        self,
        batches: Callable[[], Iterable[tuple[float, Tensor, Outputs]]],
        progress: float,
        images: int,
        apply: Apply,
        autocast: Callable[[Tensor], torch.autocast],
    ) -> dict[str, Tensor]:
        """The critic first, then the sharpener.

        A batch is its share of the step, real pictures, and the likelihood's input for those as the posterior sees
        them and for as many drawn ones; in several parts they are worked out twice, to bound the memory.
        `images` is what all processes see in the step; `apply` takes an optimiser's step, or raises NonFiniteError.
        """
        self.network.ready.fill_(1)
        for group in (*self.adam.param_groups, *self.adam_critic.param_groups):
            group["lr"] = RATE * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
        losses = {name: self.network.ready.new_zeros(()) for name in ("critic", "sharper", "penalty")}
        kept: list[tuple[float, Tensor, Outputs]] = []
        penalise = self.steps % EVERY == 0
        # A step that ran out of memory further down left it frozen.
        self.critic.requires_grad_(True)
        for batch in batches():
            share, real, outputs = batch
            kept = [batch] if share == 1 else []
            with torch.no_grad(), autocast(real):
                seen, drawn = self._sharp(outputs[0]), self._sharp(outputs[1])
            with autocast(real):
                loss = critic_loss(self.critic, real, seen, drawn) * share
            torch.autograd.backward(loss)
            losses["critic"] += loss.detach()
            if penalise:
                slope = penalty(self.critic, real, seen) * share
                torch.autograd.backward(slope)
                losses["penalty"] += slope.detach()
        apply(self.adam_critic, losses["critic"], losses["penalty"])
        self.critic.requires_grad_(False)
        for share, real, outputs in kept or batches():
            means = (self.likelihood.mean(outputs[0]), self.likelihood.mean(outputs[1]))
            with autocast(real):
                seen, drawn = self._sharp(outputs[0]), self._sharp(outputs[1])
                loss = sharpener_loss(self.critic, real, seen, drawn, means) * share
            torch.autograd.backward(loss)
            losses["sharper"] += loss.detach()
        self.critic.requires_grad_(True)
        apply(self.adam, losses["sharper"])
        self.average.update(self.network, images, self.steps * images)
        self.steps += 1
        return losses if penalise else {name: loss for name, loss in losses.items() if name != "penalty"}

    def _sharp(self, output: Tensor) -> Tensor:
        found: Tensor = self.network(self.likelihood.mean(output), output)
        return found.float()
