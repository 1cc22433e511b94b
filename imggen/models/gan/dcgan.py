"""The DCGAN generator and discriminator (Radford et al. 2015, arXiv 1511.06434)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imggen.models.gan.config import GanConfig

CLASS_WIDTH = 32
SPREAD = 0.02  # standard deviation of the weights at the start


class Generator(nn.Module):
    """z (B, z_dim), labels (B,) → pictures (B, C, H, W) in [-1, 1]; the class is embedded beside z."""

    def __init__(self, config: GanConfig) -> None:
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


class Discriminator(nn.Module):
    """Pictures (B, C, H, W), labels (B,) → logits (B,); the class enters by projection (arXiv 1802.05637)."""

    def __init__(self, config: GanConfig) -> None:
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
