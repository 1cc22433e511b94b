"""The generator and discriminator of DCGAN (Radford et al. 2015, arXiv 1511.06434)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imggen.models.batch_norm import BatchNorm2d
from imggen.models.gan.config import GanConfig
from imggen.models.hard_alpha import harden_alpha

INIT_STD = 0.02  # standard deviation of the weights at initialization
CLASS_BIAS_STD = 0.1  # of the biases that stand for a class, at initialization


class Generator(nn.Module):
    """z (B, z_dim), labels (B,) → images (B, C, H, W) in [-1, 1].

    The class is a bias of each channel after each batch norm, the shift of conditional batch norm (arXiv 1707.00683).
    As an input beside z, it alone can supply the variance that batch norm fixes; the generator then ignores z, and the
    images of a class are soon all the same.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        self.hard_alpha = config.hard_alpha
        widths = config.widths
        layers: list[nn.Module] = [nn.ConvTranspose2d(config.z_dim, widths[0], config.first_side, bias=False)]
        for before, after in zip(widths, [*widths[1:], None], strict=True):
            layers += [BatchNorm2d(before), nn.ReLU(inplace=True)]
            layers.append(nn.ConvTranspose2d(before, after or config.channels, 4, 2, 1, bias=after is None))
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(dcgan_init)
        tables = [nn.Embedding(len(config.classes), width) for width in widths if config.classes]
        for table in tables:
            nn.init.normal_(table.weight, 0.0, CLASS_BIAS_STD)
        self.class_biases = nn.ModuleList(tables)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images."""
        return self.finish(self.start(z, labels), labels)

    def start(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features of the first layer (B, C', first_side, first_side); they are the same for every class."""
        return self.layers[0](z[:, :, None, None])

    def finish(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images from the features of the first layer, which may be overwritten (unless they require a gradient)."""
        biases = iter(self.class_biases)
        for layer in self.layers[1:]:
            if labels is not None and self.class_biases and isinstance(layer, nn.ReLU):
                features = features + next(biases)(labels)[:, :, None, None]
            features = layer(features)
        return harden_alpha(features) if self.hard_alpha else features


class Discriminator(nn.Module):
    """Images (B, C, H, W), labels (B,) → logits (B,); a projection discriminator (arXiv 1802.05637) with classes."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip([config.channels, *widths[:-1]], widths, strict=True)):
            # No batch norm after the first layer: it makes training unstable (section 3 of the paper).
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=index == 0))
            layers += [BatchNorm2d(after)] if index else []
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.Sequential(*layers)
        self.logit = nn.Conv2d(widths[-1], 1, config.first_side)
        self.embed = nn.Embedding(len(config.classes), widths[-1]) if config.classes else None
        self.apply(dcgan_init)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The feature maps (B, C', h, w) after each activation, coarsest first."""
        x, maps = images, []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                maps.append(x.clone())  # the next layers may overwrite it
        return tuple(reversed(maps))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits: positive for real images."""
        features = self.layers(images)
        logits = self.logit(features).flatten()
        if self.embed is not None and labels is not None:
            logits = logits + (self.embed(labels) * features.mean((2, 3))).sum(1)
        return logits


@torch.no_grad()
def normalize_filters(network: nn.Module) -> None:
    """Scale every filter of the convolutions to the norm that it has on average at initialization.

    Forced weight normalization (Karras et al. 2023, arXiv 2312.02696, section 3.2): the learning rate then means the
    same change of direction throughout the training.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            dims = (0, 2, 3) if isinstance(module, nn.ConvTranspose2d) else (1, 2, 3)
            rms = module.weight.square().mean(dims, keepdim=True).sqrt()
            module.weight.mul_(INIT_STD / rms.clamp(min=1e-8))


def dcgan_init(module: nn.Module) -> None:
    """Initialize weights from Normal(0, 0.02), as in the paper; embeddings keep torch's Normal(0, 1)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
