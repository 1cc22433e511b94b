"""A posterior that sees a part of the picture, trained to say what the whole picture's posterior says.

Harvey et al. 2022 (IPA, arXiv 2102.12037); posterior matching, Strauss and Oliva 2022 (arXiv 2201.13414).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imggen.models.vae.config import Config
from imggen.models.vae.networks import Encoder, Hierarchy, build_posteriors, posterior_of
from imggen.models.vae.passes import Look, between


class Partial(nn.Module):
    """An encoder of the known pixels and the mask, and a posterior for each layer.

    `ready` is 1 once it has begun to learn: a checkpoint may be older than that.
    """

    ready: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = Encoder(config, config.channels + 1)
        self.posteriors = build_posteriors(config)
        self.stage_of = [index for index, stage in enumerate(config.stages) for _ in range(stage.decoder)]
        self.register_buffer("ready", torch.zeros(()))

    @torch.no_grad()
    def begin_as(self, core: Hierarchy) -> None:
        """Take over the whole picture's encoder and posteriors; the mask is not looked at yet."""
        self.posteriors.load_state_dict(core.posteriors.state_dict())
        whole = core.encoder.state_dict()
        stem = torch.zeros_like(self.encoder.stem.weight)
        stem[:, : whole["stem.weight"].shape[1]] = whole["stem.weight"]
        self.encoder.load_state_dict({**whole, "stem.weight": stem})
        self.ready.fill_(1)

    def look_at(self, images: Tensor, known: Tensor) -> Look:
        """Pictures (B, C, H, W) where `known` (B, 1, H, W) is 1; what is elsewhere is not looked at."""
        encoded = self.encoder(torch.cat([images * known, known], 1))
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
            found.append(between(whole, look(index, state)))
            return whole.mean + whole.scale * torch.randn_like(whole.mean)

        core.top_down(len(images), labels, choose)
        return found
