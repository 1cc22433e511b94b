"""The sampler as steps without memory of their own, for programs that have no cache: slower, and the same images.

A step runs the whole prior; `sampling.py` runs only what is new. Both sample the same tokens from the same noise, but
where rounding moves one over the edge of its interval.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imggen.models.transformer.any_order_prior import AnyOrderPrior
from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.generation_order import group_indices
from imggen.models.transformer.layers import mix_with_uniform
from imggen.models.transformer.sampling import inverse_cdf


class SamplingStep(nn.Module):
    """Step number `index`, tokens (B, side², d), noise (B, d, side, side), labels (B,) → tokens with its group sampled.

    The tokens of later groups are not looked at. Only of an any-order prior.
    """

    groups: Tensor  # (1, side²), int64: in which step each token is sampled

    def __init__(self, backend: TransformerBackend) -> None:
        super().__init__()
        assert isinstance(backend.prior, AnyOrderPrior)
        self.backend, self.prior = backend, backend.prior
        plan = self.prior.plan()
        self.count = len(plan)
        self.register_buffer("groups", group_indices(plan, self.prior.length)[None])

    def forward(self, index: Tensor, tokens: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """One step; the distributions are float32, and so is the uniform noise."""
        if labels is None:
            labels = torch.full_like(tokens[:, 0, 0], self.prior.classes)
        hidden = self.prior.states(tokens, labels, self.groups)
        uniform = (1 + torch.erf(noise.flatten(2).transpose(1, 2) / 2**0.5)) / 2
        channels: list[Tensor] = []
        for channel in range(len(self.prior.factors)):
            sampled = torch.stack([*channels, *[tokens[..., 0]] * (len(self.prior.factors) - channel)], -1)
            distribution = mix_with_uniform(self.prior.head.logits(hidden, channel, sampled).softmax(-1))
            channels.append(inverse_cdf(distribution, uniform[..., channel], all_positive=True))
        return torch.where((self.groups == index)[..., None], torch.stack(channels, -1), tokens)
