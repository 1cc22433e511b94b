"""The DCGAN generator and discriminator (Radford et al. 2015, arXiv 1511.06434)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from imggen.models.gan.config import Config

CLASS_WIDTH = 32
SPREAD = 0.02  # standard deviation of the weights at the start


class Generator(nn.Module):
    """z (B, z_dim), labels (B,) → pictures (B, C, H, W) in [-1, 1]; the class is embedded beside z."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(config.classes), CLASS_WIDTH) if config.classes else None
        inputs = config.z_dim + (CLASS_WIDTH if config.classes else 0)
        widths = config.widths
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, widths[0], 4, 1, 0, bias=False)]
        for before, after in zip(widths, [*widths[1:], None], strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
            layers.append(nn.ConvTranspose2d(before, after or config.channels, 4, 2, 1, bias=after is None))
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(textbook_init)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw."""
        return self.finish(self.start(z, labels))

    def start(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The first map (B, C', 4, 4)."""
        if self.embed is not None and labels is not None:
            z = torch.cat([z, self.embed(labels)], dim=1)
        first: Tensor = self.layers[0](z[:, :, None, None])
        return first

    def finish(self, first: Tensor) -> Tensor:
        """Pictures from the first map, which is overwritten unless a gradient is asked of it."""
        picture: Tensor = self.layers[1:](first)
        return picture


class Spread(nn.Module):
    """A transposed convolution of a single pixel, (B, C, 1, 1) → (B, C', k, k), as one matrix product."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        inputs, self.channels, self.side, _ = layer.weight.shape
        assert layer.bias is not None
        self.weight = nn.Parameter(layer.weight.permute(2, 3, 1, 0).reshape(-1, inputs).contiguous(), False)
        self.bias = nn.Parameter(layer.bias.repeat(self.side**2), False)

    def forward(self, x: Tensor) -> Tensor:
        """The same as the layer's, in channels_last memory."""
        y = linear(x.flatten(1), self.weight, self.bias)
        return y.view(len(x), self.side, self.side, self.channels).permute(0, 3, 1, 2)


class Overlap(nn.Module):
    """A transposed convolution to few channels, kernel 4, stride 2, padding 1: one matrix product, then sums.

    Every input pixel becomes a 4x4 patch; patches lie two pixels apart, and where they overlap they add up.
    """

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        inputs, self.channels = layer.weight.shape[:2]
        assert layer.bias is not None
        self.weight = nn.Parameter(layer.weight.permute(2, 3, 1, 0).reshape(-1, inputs).contiguous(), False)
        self.bias = nn.Parameter(layer.bias.clone(), False)

    def forward(self, x: Tensor) -> Tensor:
        """The same as the layer's, in channels_last memory."""
        count, _, height, width = x.shape
        patches = linear(x.permute(0, 2, 3, 1), self.weight).view(count, height, width, 4, 4, self.channels)
        # Row 2i + k of the sum, one pixel of padding before it, is row k of the patches of row i.
        total = self.bias.expand(count, height + 1, 2, width + 1, 2, self.channels).contiguous()
        for down in (0, 1):
            for right in (0, 1):
                quarter = patches[:, :, :, 2 * down : 2 * down + 2, 2 * right : 2 * right + 2]
                total[:, down : down + height, :, right : right + width] += quarter.transpose(2, 3)
        whole = total.view(count, 2 * height + 2, 2 * width + 2, self.channels)
        return whole[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


class Discriminator(nn.Module):
    """Pictures (B, C, H, W), labels (B,) → logits (B,); the class enters by projection (arXiv 1802.05637)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = config.widths[::-1]
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip([config.channels, *widths[:-1]], widths, strict=True)):
            # The first layer sees raw pixels: normalising them there makes training oscillate (section 3).
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=index == 0))
            layers += [nn.BatchNorm2d(after)] if index else []
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.Sequential(*layers)
        self.logit = nn.Conv2d(widths[-1], 1, 4, bias=True)
        self.embed = nn.Embedding(len(config.classes), widths[-1]) if config.classes else None
        self.apply(textbook_init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Score: positive is real."""
        features = self.layers(images)
        logits: Tensor = self.logit(features).flatten()
        if self.embed is not None and labels is not None:
            logits = logits + (self.embed(labels) * features.mean((2, 3))).sum(1)
        return logits


@torch.no_grad()
def hold_lengths(network: nn.Module) -> None:
    """Give every filter of the convolutions the length that `textbook_init` gives it on average.

    Forced weight normalisation (Karras et al. 2023, arXiv 2312.02696, section 3.2): what a step changes of a filter is
    its direction, as much late in the training as early.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            places = (0, 2, 3) if isinstance(module, nn.ConvTranspose2d) else (1, 2, 3)
            length = module.weight.square().mean(places, keepdim=True).sqrt()
            module.weight.mul_(SPREAD / length.clamp(min=1e-8))


def textbook_init(module: nn.Module) -> None:
    """Normal(0, 0.02) weights, as the paper has them; embeddings of the generator stay at unit scale."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, SPREAD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
