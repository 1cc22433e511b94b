"""Pictures → tokens → pictures: an autoencoder with finite scalar quantisation and a likelihood of pixels.

Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505) has no codebook that could collapse: each of a few
channels is bounded and rounded to a few levels. The encoder sees of the picture a token's own patch alone, so that
what is not in a hole keeps its tokens whatever is in the hole; it is the decoder that looks around.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pixel_unshuffle, silu, softplus

from imggen.models.muon import inner_weights
from imggen.models.transformer.config import TransformerConfig

HALF_BYTE = 1 / 255  # half a grey level, in [-1, 1]
RARE = 2**-10  # of a count: as good as never
NARROWEST, WIDEST = -7.0, 2.0  # of the logarithm of the logistic's scale


class Quantiser(nn.Module):
    """Channels (…, d) → levels (…, d) of each, equally wide in tanh; and back, to (-1, 1)."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels

    def _counts(self, like: Tensor) -> Tensor:
        return counts_on(self.levels, like.device)

    def indices(self, latents: Tensor) -> Tensor:
        """Latents (…, d), any real numbers → levels (…, d), int64, from 0 on. In fp32: bf16 would lose levels."""
        counts = self._counts(latents)
        places = torch.tanh(latents.float()).add(1).div(2).mul(counts).floor()
        return torch.minimum(places.nan_to_num().clamp(min=0), counts - 1).long()

    def values(self, indices: Tensor) -> Tensor:
        """Levels (…, d) → the middles of their intervals in (-1, 1), fp32."""
        return (indices.float() + 0.5) / self._counts(indices) * 2 - 1

    def forward(self, latents: Tensor) -> Tensor:
        """Latents → values with the gradient of the unrounded ones (straight-through)."""
        bounded = torch.tanh(latents.float())
        return bounded + (self.values(self.indices(latents)) - bounded).detach()

    def join(self, indices: Tensor) -> Tensor:
        """Levels (…, d) → code numbers (…), the last channel fastest."""
        code = torch.zeros_like(indices[..., 0])
        for channel, count in enumerate(self.levels):
            code = code * count + indices[..., channel]
        return code

    def split(self, codes: Tensor) -> Tensor:
        """The inverse of `join`."""
        parts = []
        for count in reversed(self.levels):
            parts.append(codes % count)
            codes = codes // count
        return torch.stack(parts[::-1], -1)


@lru_cache(maxsize=16)
def counts_on(levels: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers of levels (d,), fp32, sent to the device once."""
    with torch.inference_mode(mode=False):
        return torch.tensor(levels, dtype=torch.float32, device=device)


class Residual(nn.Module):
    """x + convolution(SiLU(convolution(SiLU(x)))); the second starts at zero, so that depth costs nothing at first."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        total: Tensor = x + self.second(silu(self.first(silu(x))))
        return total


class Tokenizer(nn.Module):
    """Pictures (B, C, H, W) in [-1, 1] ↔ tokens (B, side², d), row by row; `frequencies` are those of the codes.

    Both halves have a way past their layers, as deep-compression autoencoders have (Chen et al. 2024, arXiv
    2410.10733): a token's first channels start as its patch's colour, and the picture as the tokens' colours.
    """

    frequencies: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.patch, self.side, self.channels = config.patch, config.side, config.channels
        self.quantiser = Quantiser(config.levels)
        depth, width = len(config.levels), config.tokenizer_width
        hidden = 4 * width
        self.encoder = nn.Sequential(
            nn.Conv2d(config.channels * self.patch**2, hidden, 1),
            *(Residual(hidden, 1) for _ in range(3)),
            nn.SiLU(),
            nn.Conv2d(hidden, depth, 1),
        )
        stages = self.patch.bit_length() - 1
        widths = [width * min(4, 2 ** (stages - 1 - stage)) for stage in range(stages)]
        layers: list[nn.Module] = [nn.Conv2d(depth, widths[0], 3, padding=1)]
        for stage, wide in enumerate(widths):
            layers += [Residual(wide, 3), Residual(wide, 3), nn.SiLU()]
            after = widths[stage + 1] if stage + 1 < stages else 2 * config.channels
            layers += [nn.Conv2d(wide, 4 * after, 3, padding=1), nn.PixelShuffle(2)]
        self.decoder = nn.Sequential(*layers)
        for last in (self.encoder[-1], layers[-2]):
            assert isinstance(last, nn.Conv2d)
            nn.init.normal_(last.weight, 0.0, 1e-3)
        self.register_buffer("frequencies", torch.zeros(math.prod(config.levels)))

    def hidden(self) -> list[Tensor]:
        """The weights between hidden layers: neither of what looks at pixels or latents nor of what gives them."""
        return inner_weights(self, (self.encoder[0], self.encoder[-1], self.decoder[0], self.decoder[-2]))

    def latents(self, images: Tensor) -> Tensor:
        """Pictures (B, C, H, W) → what is to be quantised, (B, side², d), fp32."""
        patches = pixel_unshuffle(images, self.patch)
        colours = avg_pool2d(images, self.patch)
        found = self.encoder(patches).float()
        places = [channel % self.channels for channel in range(found.shape[1])]
        # A hundredth apart where two channels begin with one colour: the same twice would teach them the same.
        spread = torch.linspace(1.2, 0.8, len(places), device=images.device).view(-1, 1, 1)
        latents: Tensor = found + colours[:, places].float() * spread
        return latents.flatten(2).transpose(1, 2)

    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, C, H, W) → tokens (B, side², d), int64."""
        return self.quantiser.indices(self.latents(images))

    def parameters_of(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Quantised values (B, side², d) → location and logarithm of the scale of each byte, (B, C, H, W), fp32."""
        grid = values.transpose(1, 2).reshape(len(values), -1, self.side, self.side)
        grid = grid.contiguous(memory_format=torch.channels_last)
        location, scale = self.decoder(grid).float().chunk(2, 1)
        shown = [min(channel, values.shape[2] - 1) for channel in range(self.channels)]
        # One by one: a list of places would have to be sent to the device first.
        colours = torch.stack([grid[:, channel] for channel in shown], 1)
        colours = colours.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return location + colours, (scale - 2).clamp(NARROWEST, WIDEST)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, side², d) → the mean picture (B, C, H, W), in [-1, 1]."""
        return mean_picture(*self.parameters_of(self.quantiser.values(tokens)))

    def log_likelihood(self, images: Tensor, tokens: Tensor) -> Tensor:
        """log p(picture | tokens) in nats, (B,), of the picture as bytes."""
        found = log_probability(images, *self.parameters_of(self.quantiser.values(tokens)))
        return found.flatten(1).sum(1)

    @torch.no_grad()
    def count(self, tokens: Tensor, forget: float) -> None:
        """Count the codes of tokens (B, side², d); what was counted before is worth `forget` of itself."""
        codes = self.quantiser.join(tokens).flatten()
        self.frequencies.mul_(forget).add_(torch.bincount(codes, minlength=len(self.frequencies)))

    @property
    def usage(self) -> Tensor:
        """The share of all codes that came up in the last fifty thousand pictures or so of the training; a number."""
        return (self.frequencies > RARE).float().mean()


def log_probability(images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Of each byte (B, C, H, W) under a logistic that is cut into 256 bins, the outer ones open (arXiv 1701.05517)."""
    centred, narrow = images.float() - location, torch.exp(-log_scale)
    above, below = (centred + HALF_BYTE) * narrow, (centred - HALF_BYTE) * narrow
    # log(σ(above) - σ(below)), in a form that loses nothing to cancellation.
    middle = above + torch.log(-torch.expm1(-2 * HALF_BYTE * narrow)) - softplus(above) - softplus(below)
    lowest, highest = -softplus(-above), -softplus(below)
    inner = torch.where(images > 1 - HALF_BYTE, highest, middle)
    return torch.where(images < -1 + HALF_BYTE, lowest, inner)


def mean_picture(location: Tensor, log_scale: Tensor) -> Tensor:
    """The mean (B, C, H, W) of that logistic where all that lies beyond black and white is black and white."""
    scale = torch.exp(log_scale)
    mean = scale * (softplus((location + 1) / scale) - softplus((location - 1) / scale)) - 1
    return mean.clamp(-1, 1)


def edge_loss(drawn: Tensor, images: Tensor) -> Tensor:
    """Mean absolute difference of the steps between neighbouring pixels, at three scales; a number."""
    total = drawn.new_zeros(())
    for scale in range(3):
        if scale:
            drawn, images = avg_pool2d(drawn, 2), avg_pool2d(images, 2)
        difference = drawn - images
        total = total + difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return total


def tokenizer_loss(tokenizer: Tokenizer, images: Tensor, edges: float) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The loss, its parts and the tokens (B, side², d) of pictures (B, C, H, W); see `reconstruction_loss`."""
    latents = tokenizer.latents(images)
    loss, parts = reconstruction_loss(images, *tokenizer.parameters_of(tokenizer.quantiser(latents)), edges)
    return loss, parts, tokenizer.quantiser.indices(latents.detach())


def reconstruction_loss(
    images: Tensor, location: Tensor, log_scale: Tensor, edges: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its parts: nats a byte, the edges' term, and the mean squared error in units of the full range.

    Each byte's likelihood counts by its scale (Seitzer et al. 2022, arXiv 2203.09168).
    """
    drawn = mean_picture(location, log_scale)
    each = -log_probability(images, location, log_scale)
    nats = each.mean()
    # Times its scale, which is left out of the gradient: else flat areas, where the scale is small, drown the rest.
    balanced = (each * log_scale.detach().exp()).mean()
    difference = edge_loss(drawn, images)
    parts = {"nats": nats, "edges": difference, "error": (drawn - images).square().mean() / 4}
    return balanced + edges * difference, {name: part.detach() for name, part in parts.items()}
