"""What the priors are made of: rotated and normalised attention, gated layers, the head over a token's channels."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, rms_norm, scaled_dot_product_attention, silu

# Of each distribution so much is uniform, and no value has less: no interval of the noise is too narrow for fp32.
FLOOR, LEAST = 1e-4, 1e-7


class RMSNorm(nn.Module):
    """x / √(mean x²), times a gain (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape (…, width)."""
        return rms_norm(x, self.gain.shape, self.gain.to(x.dtype), 1e-6)


class Gated(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202), 8/3 times as wide inside, without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-8 * width // 96) * 32
        self.up = linear(width, 2 * hidden)
        self.down = linear(hidden, width, scale=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape (…, width)."""
        gate, value = self.up(x).chunk(2, -1)
        found: Tensor = self.down(silu(gate) * value)
        return found


def linear(inputs: int, outputs: int, *, scale: float = 1.0) -> nn.Linear:
    """A matrix without biases that keeps the variance, times `scale`."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, 0.0, scale * inputs**-0.5)
    return layer


def rotation(side: int, head: int, device: torch.device) -> Tensor:
    """Angles of a side x side grid, (side², head/2): a half turns with the row, a half with the column.

    Axial rotary positions (Heo et al. 2024, arXiv 2403.13298).
    """
    quarter = head // 4
    speeds = torch.pi * torch.logspace(0, -1, quarter, 10.0, device=device) / 2
    places = torch.arange(side, device=device, dtype=torch.float32)
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    angles = torch.cat([rows.reshape(-1, 1) * speeds, columns.reshape(-1, 1) * speeds], 1)
    return angles


def turns(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (…, T, 1, head/2) of angles (…, T, head/2), for `rotate`."""
    return angles.cos().unsqueeze(-2), angles.sin().unsqueeze(-2)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn (…, T, heads, head) by angles whose cosines and sines are given."""
    cosine, sine = turn[0].to(x.dtype), turn[1].to(x.dtype)
    one, two = x.chunk(2, -1)
    return torch.cat([one * cosine - two * sine, one * sine + two * cosine], -1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Queries (B, T, heads, head) on keys and values (B, heads, S, head) → (B, T, heads · head)."""
    found = scaled_dot_product_attention(queries.transpose(1, 2), keys, values, attn_mask=mask)
    return found.transpose(1, 2).flatten(2)


def mixed_in(logits: Tensor) -> Tensor:
    """Logits (…, L) → logarithms of probabilities of which a little is uniform, fp32."""
    return torch.log(with_floor(log_softmax(logits.float(), -1).exp()))


def with_floor(chances: Tensor) -> Tensor:
    """Probabilities (…, L) of which a little is uniform."""
    count = chances.shape[-1]
    uniform = max(FLOOR, LEAST * count)
    return chances * (1 - uniform) + uniform / count


class Head(nn.Module, ABC):
    """From what is known of a token, (…, width), to the probabilities of its channels of `factors` values each."""

    factors: tuple[int, ...]

    def last(self) -> list[nn.Linear]:
        """The matrices of all channels that give logits; of the head's they alone have a bias."""
        return [layer for layer in self.modules() if isinstance(layer, nn.Linear) and layer.bias is not None]

    @abstractmethod
    def logits(self, state: Tensor, channel: int, tokens: Tensor) -> Tensor:
        """Of one channel, (…, L); of tokens (…, d) only the channels before it are looked at."""

    def log_probabilities(self, state: Tensor, tokens: Tensor) -> Tensor:
        """Of the given tokens (…, d), channel by channel, (…, d), fp32."""
        found = []
        for channel in range(len(self.factors)):
            every = mixed_in(self.logits(state, channel, tokens))
            found.append(every.gather(-1, tokens[..., channel : channel + 1]))
        return torch.cat(found, -1)


def _nearly_uniform(width: int, count: int) -> nn.Linear:
    layer = nn.Linear(width, count)
    nn.init.normal_(layer.weight, 0.0, 0.3 * width**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


class Softmax(Head):
    """One channel: a matrix, and nothing else."""

    def __init__(self, width: int, codes: int) -> None:
        super().__init__()
        self.factors = (codes,)
        self.output = _nearly_uniform(width, codes)

    def logits(self, state: Tensor, channel: int, tokens: Tensor) -> Tensor:
        """See `Head`."""
        found: Tensor = self.output(state)
        return found


class Chained(Head):
    """Channel after channel, each seeing those before it; starts nearly uniform.

    Levels are ordered, so a small change of the noise is a near code.
    """

    def __init__(self, width: int, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = factors
        self.inputs = nn.ModuleList(linear(width, width) for _ in factors)
        self.outputs = nn.ModuleList(_nearly_uniform(width, count) for count in factors)
        # Of channel k, one table for each channel before it.
        self.earlier = nn.ModuleList(
            nn.ModuleList(nn.Embedding(before, width) for before in factors[:k]) for k in range(len(factors))
        )

    def first(self) -> list[nn.Linear]:
        """The matrices of all channels that a state is multiplied with."""
        return [matrix for matrix in self.inputs if isinstance(matrix, nn.Linear)]

    def before(self) -> list[list[nn.Embedding]]:
        """The tables of each channel."""
        return [
            [table for table in tables if isinstance(table, nn.Embedding)]
            for tables in self.earlier
            if isinstance(tables, nn.ModuleList)
        ]

    def logits(self, state: Tensor, channel: int, tokens: Tensor) -> Tensor:
        """See `Head`."""
        x = self.inputs[channel](state)
        tables = self.earlier[channel]
        assert isinstance(tables, nn.ModuleList)
        for before, table in enumerate(tables):
            x = x + table(tokens[..., before])
        found: Tensor = self.outputs[channel](silu(x))
        return found
