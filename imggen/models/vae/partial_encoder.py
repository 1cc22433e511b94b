"""A posterior that sees a part of the picture, trained to say what the whole picture's posterior says.

Harvey et al. 2022 (IPA, arXiv 2102.12037); posterior matching, Strauss and Oliva 2022 (arXiv 2201.13414).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import Look, kl_divergence
from imggen.models.vae.hierarchy import (
    Block,
    Encoder,
    Hierarchy,
    Posterior,
    build_posteriors,
    modules_of,
    posterior_of,
    silence,
)


class Around(nn.Module):
    """Carries what the coarse maps of an encoder have seen of the known pixels down into the fine maps.

    A fine map has seen nothing of what is more than a few pixels away, which deep in a hole is nothing at all; and what
    the decoder brings from above is drawn, and says little of colours.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        stages, widths = config.stages, config.widths
        self.mixes = nn.ModuleList(nn.Conv2d(before, after, 1) for before, after in pairwise(widths))
        self.blocks = nn.ModuleList()
        scale = (len(stages) * config.around) ** -0.5
        for stage, width in zip(stages, widths, strict=True):
            blocks = (Block(width, width, stage.side, config, scale) for _ in range(config.around))
            self.blocks.append(nn.ModuleList(blocks))

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of `Encoder`, and as many of the same shapes."""
        found: list[Tensor] = []
        for index, (x, blocks) in enumerate(zip(maps, self.blocks, strict=True)):
            if index:
                x = x + interpolate(self.mixes[index - 1](found[-1]), size=x.shape[-2:])
            for block in modules_of(blocks):
                x = x + block(silu(x))
            found.append(x)
        return tuple(found)


class PartialEncoder(nn.Module):
    """An encoder of the known pixels and the mask, and a posterior for each layer.

    `ready` is 1 once it has begun to learn: a checkpoint may be older than that.
    """

    ready: Tensor

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config, config.channels + 1)
        self.around = Around(config) if config.around else None
        self.posteriors = build_posteriors(config)
        self.stage_of = [index for index, stage in enumerate(config.stages) for _ in range(stage.decoder)]
        self.register_buffer("ready", torch.zeros(()))

    @torch.no_grad()
    def begin(self, core: Hierarchy) -> None:
        """Take over what the whole picture's encoder and posteriors see, and say of all of it what the prior says.

        Were it to begin with what those say, it would be sure of what is wrong in every hole: divergences of millions
        of nats, which training does not come down from. The mask is not looked at yet.
        """
        self.posteriors.load_state_dict(core.posteriors.state_dict())
        for posterior in modules_of(self.posteriors):
            assert isinstance(posterior, Posterior)
            silence(posterior.block.leave)
        whole = core.encoder.state_dict()
        stem = torch.zeros_like(self.encoder.stem.weight)
        stem[:, : whole["stem.weight"].shape[1]] = whole["stem.weight"]
        self.encoder.load_state_dict({**whole, "stem.weight": stem})
        self.ready.fill_(1)

    def look_at(self, images: Tensor, known: Tensor) -> Look:
        """Pictures (B, C, H, W) where `known` (B, 1, H, W) is 1; what is elsewhere is not looked at."""
        encoded = self.encoder(torch.cat([images * known, known], 1))
        if self.around is not None:
            encoded = self.around(encoded)
        return lambda index, state: posterior_of(self.posteriors[index], state, encoded[self.stage_of[index]])

    def gaps(self, core: Hierarchy, images: Tensor, known: Tensor, labels: Tensor | None) -> list[Tensor]:
        """KL (B,) of the whole picture's posterior from this one, layer by layer, along a draw of the former.

        Gradients reach this network alone, as long as the core's weights want none.
        """
        with torch.no_grad():
            encoded = core.encode(images)
        look = self.look_at(images, known)
        found: list[Tensor] = []

        def choose(index: int, state: Tensor) -> Tensor:
            with torch.no_grad():
                whole = core.posterior(index, state, encoded)
            found.append(kl_divergence(whole, look(index, state)))
            return whole.mean + whole.scale * torch.randn_like(whole.mean)

        core.top_down(len(images), labels, choose)
        return found
