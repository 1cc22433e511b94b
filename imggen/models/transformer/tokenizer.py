"""Images → tokens → images: an autoencoder with finite scalar quantization and a likelihood of pixels.

The encoder sees only a token's own patch, so that tokens without masked pixels do not depend on what is masked; the
decoder sees the neighboring tokens too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pixel_unshuffle, silu, softplus

from imggen.models import global_batch
from imggen.models.muon import inner_weights
from imggen.models.transformer.config import TransformerConfig
from imggen.models.transformer.quantizer import Quantizer

HALF_LEVEL = 1 / 255  # half of a gray level, for pixels in [-1, 1]
MIN_CODE_COUNT = 2**-10  # a code with a lower (decayed) count is not in use
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 2.0  # of the logistic distribution of a pixel


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))); the second convolution starts at zero, so that the block starts as identity."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) → the same shape."""
        return x + self.second(silu(self.first(silu(x))))


class Tokenizer(nn.Module):
    """Images (B, C, H, W) in [-1, 1] ↔ tokens (B, side², d), row by row. `frequencies` counts the codes in training.

    Encoder and decoder have a non-parametric shortcut, as deep-compression autoencoders do (Chen et al. 2024, arXiv
    2410.10733): the first channels of a token start as the mean color of its patch, the image as the tokens' colors.
    """

    frequencies: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.patch, self.side, self.channels = config.patch, config.side, config.channels
        self.quantizer = Quantizer(config.levels)
        depth, width = len(config.levels), config.tokenizer_width

        # Encoder: 1x1 convolutions over patches.
        hidden = 4 * width
        self.encoder = nn.Sequential(
            nn.Conv2d(config.channels * self.patch**2, hidden, 1),
            *(ResidualBlock(hidden, 1) for _ in range(3)),
            nn.SiLU(),
            nn.Conv2d(hidden, depth, 1),
        )

        # Decoder: each stage doubles the resolution; the last one gives location and scale of each pixel.
        stages = self.patch.bit_length() - 1
        widths = [width * min(4, 2 ** (stages - 1 - stage)) for stage in range(stages)]
        layers: list[nn.Module] = [nn.Conv2d(depth, widths[0], 3, padding=1)]
        for stage, stage_width in enumerate(widths):
            layers += [ResidualBlock(stage_width, 3), ResidualBlock(stage_width, 3), nn.SiLU()]
            next_width = widths[stage + 1] if stage + 1 < stages else 2 * config.channels
            layers += [nn.Conv2d(stage_width, 4 * next_width, 3, padding=1), nn.PixelShuffle(2)]
        self.decoder = nn.Sequential(*layers)

        # Both start close to their shortcuts.
        for last in (self.encoder[-1], layers[-2]):
            assert isinstance(last, nn.Conv2d)
            nn.init.normal_(last.weight, 0.0, 1e-3)
        self.register_buffer("frequencies", torch.zeros(math.prod(config.levels)))

    def hidden_weights(self) -> list[Tensor]:
        """The weights for Muon: all convolutions but the first and last ones of encoder and decoder."""
        return inner_weights(self, (self.encoder[0], self.encoder[-1], self.decoder[0], self.decoder[-2]))

    def latents(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) → latents to be quantized, (B, side², d), float32."""
        patches = pixel_unshuffle(images, self.patch)
        colors = avg_pool2d(images, self.patch)
        encoded = self.encoder(patches).float()
        shortcut = [channel % self.channels for channel in range(encoded.shape[1])]
        # Different scales where two channels start as the same color: identical channels would learn the same.
        scales = torch.linspace(1.2, 0.8, len(shortcut), device=images.device).view(-1, 1, 1)
        latents: Tensor = encoded + colors[:, shortcut].float() * scales
        return latents.flatten(2).transpose(1, 2)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) → tokens (B, side², d), int64."""
        return self.quantizer.quantize(self.latents(images))

    def pixel_parameters(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Dequantized values (B, side², d) → location and log-scale of each pixel, (B, C, H, W) each, float32."""
        grid = values.transpose(1, 2).reshape(values.shape[0], -1, self.side, self.side)
        grid = grid.contiguous(memory_format=torch.channels_last)
        location, log_scale = self.decoder(grid).float().chunk(2, 1)
        shortcut = [min(channel, values.shape[2] - 1) for channel in range(self.channels)]
        # Indexed one by one: a list of indices would have to be copied to the device.
        colors = torch.stack([grid[:, channel] for channel in shortcut], 1)
        colors = colors.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return location + colors, (log_scale - 2).clamp(MIN_LOG_SCALE, MAX_LOG_SCALE)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, side², d) → the mean image (B, C, H, W), in [-1, 1]."""
        return logistic_mean(*self.pixel_parameters(self.quantizer.dequantize(tokens)))

    def log_likelihood(self, images: Tensor, tokens: Tensor) -> Tensor:
        """log p(image | tokens) in nats, (B,), of images with 256 levels."""
        log_probabilities = log_probability(images, *self.pixel_parameters(self.quantizer.dequantize(tokens)))
        return log_probabilities.flatten(1).sum(1)

    @torch.no_grad()
    def update_frequencies(self, tokens: Tensor, decay: float) -> None:
        """Count the codes of tokens (B, side², d), after multiplying the earlier counts by `decay`."""
        codes = self.quantizer.to_codes(tokens).flatten()
        counts = torch.bincount(codes, minlength=len(self.frequencies))
        self.frequencies.mul_(decay).add_(global_batch.sum_over_parts(counts))

    @property
    def usage(self) -> Tensor:
        """Fraction of the codes that occurred in the last fifty thousand or so images of training, a scalar."""
        return (self.frequencies > MIN_CODE_COUNT).float().mean()


def log_probability(images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of each pixel (B, C, H, W) under a discretized logistic (arXiv 1701.05517).

    The distribution is cut into 256 bins, of which the outer ones are open.
    """
    centered, inverse_scale = images.float() - location, torch.exp(-log_scale)
    above, below = (centered + HALF_LEVEL) * inverse_scale, (centered - HALF_LEVEL) * inverse_scale
    # log(σ(above) - σ(below)), in a form without cancellation.
    middle = above + torch.log(-torch.expm1(-2 * HALF_LEVEL * inverse_scale)) - softplus(above) - softplus(below)
    lowest, highest = -softplus(-above), -softplus(below)
    inner = torch.where(images > 1 - HALF_LEVEL, highest, middle)
    return torch.where(images < -1 + HALF_LEVEL, lowest, inner)


def logistic_mean(location: Tensor, log_scale: Tensor) -> Tensor:
    """The mean (B, C, H, W) of a logistic distribution whose samples are clamped to [-1, 1]."""
    scale = torch.exp(log_scale)
    mean = scale * (softplus((location + 1) / scale) - softplus((location - 1) / scale)) - 1
    return mean.clamp(-1, 1)


def edge_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighboring pixels, summed over three scales; a scalar."""
    total = decoded.new_zeros(())
    for scale in range(3):
        if scale:
            decoded, images = avg_pool2d(decoded, 2), avg_pool2d(images, 2)
        difference = decoded - images
        total = total + difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return total


def tokenizer_loss(
    tokenizer: Tokenizer, images: Tensor, edge_weight: float
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """`reconstruction_loss` of images (B, C, H, W): the loss, its parts and the tokens (B, side², d)."""
    latents = tokenizer.latents(images)
    parameters = tokenizer.pixel_parameters(tokenizer.quantizer(latents))
    loss, parts = reconstruction_loss(images, *parameters, edge_weight)
    return loss, parts, tokenizer.quantizer.quantize(latents.detach())


def reconstruction_loss(
    images: Tensor, location: Tensor, log_scale: Tensor, edge_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and its parts: nats per channel value, edge loss, and mean squared error for a pixel range of 1.

    The negative log-likelihood of each pixel is weighted by its scale, without a gradient through the weight (β-NLL,
    Seitzer et al. 2022, arXiv 2203.09168): otherwise flat areas, where the scale is small, dominate.
    """
    mean = logistic_mean(location, log_scale)
    negative_log_likelihood = -log_probability(images, location, log_scale)
    nats = negative_log_likelihood.mean()
    weighted = (negative_log_likelihood * log_scale.detach().exp()).mean()
    edges = edge_loss(mean, images)
    parts = {"nats": nats, "edges": edges, "error": (mean - images).square().mean() / 4}
    return weighted + edge_weight * edges, {name: part.detach() for name, part in parts.items()}
