"""The translator: a U-Net whose maps are added to the image."""

from __future__ import annotations

from torch import Tensor, nn

from imggen.models.base import Features, Model
from imggen.models.mapper.translate.channels import to_channels
from imggen.models.mapper.translate.config import TranslateConfig
from imggen.models.mapper.unet import UNet


class TranslateModel(Model):
    """Images to images. Row i of every result depends on image i alone."""

    config: TranslateConfig

    def __init__(self, config: TranslateConfig) -> None:
        super().__init__(config)
        sides = config.channels, config.target_channels
        self.network = UNet(*sides, config.widths, config.blocks, noise=config.noise)
        for parameter in self.network.leave.parameters():
            nn.init.zeros_(parameter)  # the model begins with images as they are

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], of any size → images (B, target_channels, H, W), not clipped to [-1, 1].

        With `config.hard_alpha`, alpha is -1 or 1. `noise` is (B, config.noise), standard normal; without it, it is 0.
        """
        return self.harden(self.with_maps(images, noise)[0])

    def with_maps(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The result, whose alpha is not hardened, and the encoder's maps of the images, the finest first."""
        maps = self.network.maps(images, noise)
        changes = self.network.decode(maps, images.shape[2:], noise)
        return to_channels(images, self.config.target_channels) + changes, maps

    def features(self, images: Tensor) -> Features:
        """The encoder's maps; the vectors are the means of the coarsest one."""
        maps = [features.float() for features in reversed(self.network.maps(images))]
        return Features(maps[0].mean((2, 3)), tuple(maps))
