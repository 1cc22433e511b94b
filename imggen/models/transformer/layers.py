"""Building blocks of the priors: RMSNorm, SwiGLU, rotary embeddings, attention, and heads over a token's channels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, rms_norm, scaled_dot_product_attention, silu

# A uniform distribution is mixed into every predicted one, with at least the weight UNIFORM_WEIGHT and so that no value
# is less likely than MIN_PROBABILITY: float32 noise can then still tell the interval of every value apart.
UNIFORM_WEIGHT, MIN_PROBABILITY = 1e-4, 1e-7

Rotary = tuple[Tensor, Tensor]  # cosines and sines (…, T, 1, head width / 2), see `cos_sin`
Module = TypeVar("Module", bound=nn.Module)


def modules_of(modules: nn.Module, kind: type[Module]) -> list[Module]:
    """The children of a ModuleList, with their type."""
    return [module for module in modules.children() if isinstance(module, kind)]


class RMSNorm(nn.Module):
    """x / √(mean x²), times a learned gain (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → the same shape."""
        return rms_norm(x, self.gain.shape, self.gain.to(x.dtype), 1e-6)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020, arXiv 2002.05202): 8/3 times as wide inside, without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-8 * width // 96) * 32
        self.up = linear(width, 2 * hidden)
        self.down = linear(hidden, width, scale=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → the same shape."""
        gate, value = self.up(x).chunk(2, -1)
        return self.down(silu(gate) * value)


def linear(inputs: int, outputs: int, *, scale: float = 1.0) -> nn.Linear:
    """A linear layer without bias whose output starts with `scale` times the standard deviation of its input."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, 0.0, scale * inputs**-0.5)
    return layer


def rotary_angles(side: int, head_width: int, device: torch.device) -> Tensor:
    """Angles (side², head_width/2) of a 2-D rotary embedding: the first half is for the row, the other for the column.

    Axial RoPE (Heo et al. 2024, arXiv 2403.13298).
    """
    frequencies = torch.pi * torch.logspace(0, -1, head_width // 4, 10.0, device=device) / 2
    indices = torch.arange(side, device=device, dtype=torch.float32)
    rows, columns = torch.meshgrid(indices, indices, indexing="ij")
    return torch.cat([rows.reshape(-1, 1) * frequencies, columns.reshape(-1, 1) * frequencies], 1)


def cos_sin(angles: Tensor) -> Rotary:
    """Angles (…, T, head_width/2) → their cosines and sines (…, T, 1, head_width/2), for `apply_rotary`."""
    return angles.cos().unsqueeze(-2), angles.sin().unsqueeze(-2)


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate queries or keys (…, T, heads, head_width): element i is paired with element i + head_width/2."""
    cosine, sine = rotary[0].to(x.dtype), rotary[1].to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Queries (B, T, heads, head_width), keys and values (B, heads, S, head_width) → (B, T, heads · head_width)."""
    attended = scaled_dot_product_attention(queries.transpose(1, 2), keys, values, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)


def mix_with_uniform(probabilities: Tensor) -> Tensor:
    """Mix a little of the uniform distribution into probabilities (…, L); see `UNIFORM_WEIGHT`."""
    count = probabilities.shape[-1]
    weight = max(UNIFORM_WEIGHT, MIN_PROBABILITY * count)
    return probabilities * (1 - weight) + weight / count


def mixed_log_probabilities(logits: Tensor) -> Tensor:
    """Logits (…, L) → log-probabilities with a little of the uniform distribution mixed in, float32."""
    return torch.log(mix_with_uniform(log_softmax(logits.float(), -1).exp()))


class Head(nn.Module, ABC):
    """Maps the prior's hidden states (…, width) to distributions over the channels of a token.

    `factors` is the number of values of each channel.
    """

    factors: tuple[int, ...]

    def logit_layers(self) -> list[nn.Linear]:
        """The last layer of each channel, which gives its logits; no other layer of a head has a bias."""
        return [layer for layer in self.modules() if isinstance(layer, nn.Linear) and layer.bias is not None]

    @abstractmethod
    def logits(self, hidden: Tensor, channel: int, tokens: Tensor) -> Tensor:
        """Logits (…, L) of one channel; of the tokens (…, d) only the channels before it are used."""

    def log_probabilities(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Log-probability of each channel of the tokens (…, d), given the channels before it: (…, d), float32."""
        channels = []
        for channel in range(len(self.factors)):
            log_probabilities = mixed_log_probabilities(self.logits(hidden, channel, tokens))
            channels.append(log_probabilities.gather(-1, tokens[..., channel : channel + 1]))
        return torch.cat(channels, -1)


def _logit_layer(width: int, count: int) -> nn.Linear:
    """A linear layer whose logits start nearly equal."""
    layer = nn.Linear(width, count)
    nn.init.normal_(layer.weight, 0.0, 0.3 * width**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


class SoftmaxHead(Head):
    """One channel: a linear layer and a softmax over all codes."""

    def __init__(self, width: int, codes: int) -> None:
        super().__init__()
        self.factors = (codes,)
        self.output = _logit_layer(width, codes)

    def logits(self, hidden: Tensor, channel: int, tokens: Tensor) -> Tensor:
        """Logits (…, codes); there is one channel only, so the tokens are not used."""
        return self.output(hidden)


class AutoregressiveHead(Head):
    """Predicts the channels of a token one after another, each from the hidden state and the channels before it.

    A channel's values are ordered levels, so a small change of the noise gives a similar token.
    """

    def __init__(self, width: int, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = factors
        self.inputs = nn.ModuleList(linear(width, width) for _ in factors)
        self.outputs = nn.ModuleList(_logit_layer(width, count) for count in factors)
        # For each channel, an embedding of every channel before it.
        self.channel_embeddings = nn.ModuleList(
            nn.ModuleList(nn.Embedding(count, width) for count in factors[:channel]) for channel in range(len(factors))
        )

    def input_layers(self) -> list[nn.Linear]:
        """The first layer of each channel."""
        return modules_of(self.inputs, nn.Linear)

    def embeddings(self, channel: int) -> list[nn.Embedding]:
        """The embeddings of the channels before a channel."""
        return modules_of(self.channel_embeddings[channel], nn.Embedding)

    def logits(self, hidden: Tensor, channel: int, tokens: Tensor) -> Tensor:
        """Logits (…, factors[channel]): a two-layer MLP of the hidden state plus the embedded channels before it."""
        x = self.inputs[channel](hidden)
        for previous, embedding in enumerate(self.embeddings(channel)):
            x = x + embedding(tokens[..., previous])
        return self.outputs[channel](silu(x))
