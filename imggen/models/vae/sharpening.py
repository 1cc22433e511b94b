"""The stage of a training in which a `Sharpener` learns from its critic, the ladder being frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from imggen.models.critic import RATE, Apply, Judge, falling
from imggen.models.layers import Average
from imggen.models.vae.config import Config
from imggen.models.vae.likelihoods import Likelihood
from imggen.models.vae.sharpen import Sharpener, sharpener_loss

Outputs = tuple[Tensor, Tensor]


class Sharpening(Judge):
    """The sharpener, its critic, their Adams, and the averaged sharpener, which is the one that is shown."""

    def __init__(self, config: Config, likelihood: Likelihood) -> None:
        self.likelihood = likelihood
        self.network = Sharpener(config, likelihood.outputs)
        super().__init__(config.channels, config.size, config.width)
        self.average = Average(self.network, config.ema_images)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=RATE, betas=(0.0, 0.99), fused=True)

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
        """The ladder learns on: its means are given back as they are; what was learnt of them begins anew later."""
        self.steps = 0
        for network in (self.network, self.shown):
            network.restart()
        for optimiser in self.optimisers.values():
            optimiser.state.clear()

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
        for group in self.adam.param_groups:
            group["lr"] = falling(progress)
        kept: list[tuple[float, Tensor, Outputs]] = []

        def softened() -> Iterator[tuple[float, Tensor, tuple[Tensor, ...]]]:
            for share, real, outputs in batches():
                kept[:] = [(share, real, outputs)] if share == 1 else []
                with torch.no_grad(), autocast(real):
                    soft = self._sharp(outputs[0]), self._sharp(outputs[1])
                yield share, real, soft

        seen_before = self.steps * images
        losses = self.learn(softened(), progress, apply, autocast)
        losses["sharper"] = self.network.ready.new_zeros(())
        for share, real, outputs in kept or batches():
            means = (self.likelihood.mean(outputs[0]), self.likelihood.mean(outputs[1]))
            with autocast(real):
                seen, drawn = self._sharp(outputs[0]), self._sharp(outputs[1])
                loss = sharpener_loss(self.critic, real, seen, drawn, means) * share
            torch.autograd.backward(loss)
            losses["sharper"] += loss.detach()
        apply(self.adam, losses["sharper"])
        self.average.update(self.network, images, seen_before)
        return losses

    def _sharp(self, output: Tensor) -> Tensor:
        found: Tensor = self.network(self.likelihood.mean(output), output)
        return found.float()
