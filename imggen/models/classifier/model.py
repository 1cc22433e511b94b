"""The classifier: a small residual network, and the linear layer that tells the classes apart."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from imggen.models.base import Features, Model
from imggen.models.classifier.config import ClassifierConfig


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, arXiv 1512.03385); the last norm begins at zero."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.shortcut = None if before == after else nn.Conv2d(before, after, 1, bias=False)
        self.stride = stride
        nn.init.zeros_(self.second_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) → (B, after, H / stride, W / stride), rounded up."""
        y = self.second_norm(self.second(self.first_norm(self.first(x)).relu()))
        x = x if self.stride == 1 else avg_pool2d(x, self.stride, ceil_mode=True)
        return ((x if self.shortcut is None else self.shortcut(x)) + y).relu()


class ResidualEyes(nn.Module):
    """Images (B, C, H, W) in [-1, 1] to the last feature map (B, `out_channels`, h, w)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        channels = config.channels
        for number in range(max(1, config.halvings)):
            stride = 2 if number < config.halvings else 1
            stem += [nn.Conv2d(channels, config.width, 3, stride, padding=1, bias=False)]
            stem += [nn.BatchNorm2d(config.width), nn.ReLU()]
            channels = config.width
        self.stem = nn.Sequential(*stem)
        blocks: list[nn.Module] = []
        for before, after in pairwise((config.width, *config.widths)):
            blocks.append(Block(before, after, 2))
            blocks += [Block(after, after, 1) for _ in range(config.blocks - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.out_channels = config.widths[-1]

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.blocks(self.stem(images))


class ClassifierModel(Model):
    """Images to classes.

    Row i of every result depends on image i alone: in eval mode BatchNorm is a fixed linear map.
    """

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.eyes = ResidualEyes(config)
        self.logits = nn.Linear(self.eyes.out_channels, max(1, len(config.classes)))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] → logits (B, classes)."""
        return self.logits(self.eyes(images).mean((2, 3)))

    def features(self, images: Tensor) -> Features:
        """The last feature map, and its mean over all places, which the classes are told apart by."""
        features = self.eyes(images).float()
        return Features(features.mean((2, 3)), (features,))

    def class_scores(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probability (B, classes) of each class. Raises ValueError for a mask, which it knows nothing of."""
        if mask is not None:
            raise ValueError("a classifier sees whole images: mask must be None")
        return torch.log_softmax(self(images).float(), 1)
