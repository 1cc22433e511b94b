"""The segmentation model: a U-Net whose maps are the scores of the classes."""

from __future__ import annotations

from torch import Tensor

from imggen.models.base import Features, Model
from imggen.models.mapper.segment.config import SegmentConfig
from imggen.models.mapper.unet import UNet
from imggen.models.pretrained import PRETRAINED


class SegmentModel(Model):
    """Images to the classes of their pixels. Row i of every result depends on image i alone."""

    config: SegmentConfig

    def __init__(self, config: SegmentConfig) -> None:
        super().__init__(config)
        classes, magnify = len(config.pixel_classes), config.magnify if config.features == PRETRAINED else None
        self.network = UNet(config.channels, classes, config.widths, config.blocks, magnify=magnify)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], of any size → scores (B, classes, H, W) of their pixels' classes."""
        scores: Tensor = self.network(images)
        return scores

    def features(self, images: Tensor) -> Features:
        """The encoder's maps; the vectors are the means of the coarsest one."""
        maps = [features.float() for features in reversed(self.network.maps(images))]
        return Features(maps[0].mean((2, 3)), tuple(maps))
