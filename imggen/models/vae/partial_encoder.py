"""A posterior given a part of the image, trained to match the posterior given the whole image.

IPA, Harvey et al. 2022 (arXiv 2102.12037); posterior matching, Strauss and Oliva 2022 (arXiv 2201.13414).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import Normal, PosteriorFunction, encoder_posterior, kl_divergence, top_down_pass
from imggen.models.vae.hierarchy import Encoder, Hierarchy, Posterior, Posteriors, residual_blocks, zero_init


class ContextPath(nn.Module):
    """Top-down path: propagates context from coarse to fine feature maps.

    A fine map's receptive field is a few pixels, which deep in a masked region contain no unmasked pixel; and the
    decoder's state above is only a sample, which hardly determines colors.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        stages, widths = config.stages, config.widths
        scale = (len(stages) * config.context_blocks) ** -0.5
        self.change_width = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for coarse, fine in pairwise(widths))
        self.blocks = nn.ModuleList(
            residual_blocks(config.context_blocks, width, stage.side, config, scale)
            for stage, width in zip(stages, widths, strict=True)
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps of `Encoder`, coarsest first -> maps of the same shapes."""
        with_context: list[Tensor] = []
        for index, x in enumerate(maps):
            if index:
                x = x + interpolate(self.change_width[index - 1](with_context[-1]), size=x.shape[-2:])
            with_context.append(self.blocks[index](x))
        return tuple(with_context)


class PartialEncoder(nn.Module):
    """An encoder of the unmasked pixels and the mask, and a posterior for each layer.

    `trained` is 1 once its training has begun, 0 in checkpoints written before.
    """

    trained: Tensor

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config, config.channels + 1)
        self.context_path = ContextPath(config) if config.context_blocks else None
        self.posteriors = Posteriors(config)
        self.register_buffer("trained", torch.zeros(()))

    @torch.no_grad()
    def initialize_from(self, core: Hierarchy) -> None:
        """Copy the full encoder and its posteriors, and zero the last layers, so that each posterior is the prior.

        Posteriors copied as they are would be certain of wrong values in every masked region: KL divergences of
        millions of nats, from which training does not recover. The weights of the mask channel start at 0.
        """
        self.posteriors.load_state_dict(core.posteriors.state_dict())
        for posterior in self.posteriors:
            assert isinstance(posterior, Posterior)
            zero_init(posterior.block.conv_out)
        full_state = core.encoder.state_dict()
        stem = torch.zeros_like(self.encoder.stem.weight)
        stem[:, : full_state["stem.weight"].shape[1]] = full_state["stem.weight"]
        self.encoder.load_state_dict({**full_state, "stem.weight": stem})
        self.trained.fill_(1)

    def posterior(self, images: Tensor, unmasked: Tensor) -> PosteriorFunction:
        """q(noise | unmasked pixels): images (B, C, H, W) where `unmasked` (B, 1, H, W) is 1."""
        encoded = self.encoder(torch.cat([images * unmasked, unmasked], 1))
        if self.context_path is not None:
            encoded = self.context_path(encoded)
        # Many fills of the same images are compared, and this part of each layer is equal for all of them.
        projected: dict[int, Tensor] = {}

        def posterior(index: int, hidden: Tensor) -> Normal:
            if index not in projected:
                projected[index] = self.posteriors.project(index, encoded)
            return self.posteriors.from_projected(index, hidden, projected[index])

        return posterior

    def matching_losses(self, core: Hierarchy, images: Tensor, unmasked: Tensor, labels: Tensor | None) -> list[Tensor]:
        """KL (B,) of the full posterior from this one in each layer, with the noise sampled from the full posterior.

        Only this network gets gradients, provided that the core's weights do not require any.
        """
        with torch.no_grad():
            full = encoder_posterior(core, images)
        partial = self.posterior(images, unmasked)
        losses: list[Tensor] = []

        def compare(index: int, hidden: Tensor) -> Normal:
            with torch.no_grad():
                q = full(index, hidden)
            losses.append(kl_divergence(q, partial(index, hidden)))
            return q

        top_down_pass(core, len(images), labels, compare)
        return losses
