"""Finite scalar quantization (Mentzer et al. 2023, arXiv 2309.15505)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn


class Quantizer(nn.Module):
    """Rounds each of d channels to a few levels of equal width in tanh; it has no codebook that could collapse.

    A token is its levels (…, d), int64, counted from 0; a code is the token as one number (…).
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels

    def quantize(self, latents: Tensor) -> Tensor:
        """Latents (…, d), any real numbers → tokens (…, d). Computed in float32: bfloat16 would lose levels."""
        counts = level_counts(self.levels, latents.device)
        levels = torch.tanh(latents.float()).add(1).div(2).mul(counts).floor()
        return torch.minimum(levels.nan_to_num().clamp(min=0), counts - 1).long()

    def dequantize(self, tokens: Tensor) -> Tensor:
        """Tokens (…, d) → the centers of their levels, in (-1, 1), float32."""
        return (tokens.float() + 0.5) / level_counts(self.levels, tokens.device) * 2 - 1

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (…, d) → dequantized values, with the gradient of the unrounded ones (straight-through)."""
        bounded = torch.tanh(latents.float())
        return bounded + (self.dequantize(self.quantize(latents)) - bounded).detach()

    def to_codes(self, tokens: Tensor) -> Tensor:
        """Tokens (…, d) → codes (…) in mixed radix, the last channel fastest."""
        code = torch.zeros_like(tokens[..., 0])
        for channel, count in enumerate(self.levels):
            code = code * count + tokens[..., channel]
        return code

    def from_codes(self, codes: Tensor) -> Tensor:
        """Codes (…) → tokens (…, d): the inverse of `to_codes`."""
        channels = []
        for count in reversed(self.levels):
            channels.append(codes % count)
            codes = codes // count
        return torch.stack(channels[::-1], -1)


@lru_cache(maxsize=16)
def level_counts(levels: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers of levels as a float32 tensor (d,), copied to each device only once."""
    with torch.inference_mode(mode=False):
        return torch.tensor(levels, dtype=torch.float32, device=device)
