"""The backbone of a classifier (a network of its own, another model, or EfficientNet), and the head on it.

A backbone maps images (B, C, H, W) in [-1, 1] to `Features`, whose vectors have `dimensions` numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from imggen.models.base import Features, Model
from imggen.models.batch_norm import BatchNorm2d
from imggen.models.classifier.config import ClassifierConfig
from imggen.models.efficientnet import VECTOR_SIZE, EfficientNetLite0


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, arXiv 1512.03385); the last norm begins at zero."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.first_norm = BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = BatchNorm2d(after)
        self.shortcut = None if before == after else nn.Conv2d(before, after, 1, bias=False)
        self.stride = stride
        nn.init.zeros_(self.second_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) → (B, after, H / stride, W / stride), rounded up."""
        y = self.second_norm(self.second(self.first_norm(self.first(x)).relu()))
        x = x if self.stride == 1 else avg_pool2d(x, self.stride, ceil_mode=True)
        return ((x if self.shortcut is None else self.shortcut(x)) + y).relu()


class ResidualBackbone(nn.Module):
    """A residual network; its vectors are the means of its last map over all places."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        channels = config.channels
        for number in range(max(1, config.halvings)):
            stride = 2 if number < config.halvings else 1
            stem += [nn.Conv2d(channels, config.width, 3, stride, padding=1, bias=False)]
            stem += [BatchNorm2d(config.width), nn.ReLU()]
            channels = config.width
        self.stem = nn.Sequential(*stem)
        blocks: list[nn.Module] = []
        for before, after in pairwise((config.width, *config.widths)):
            blocks.append(Block(before, after, 2))
            blocks += [Block(after, after, 1) for _ in range(config.blocks - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.dimensions = config.widths[-1]

    def features(self, images: Tensor) -> Features:
        """The last map."""
        features = self.blocks(self.stem(images)).float()
        return Features(features.mean((2, 3)), (features,))


class PretrainedBackbone(nn.Module):
    """EfficientNet-Lite0 with ImageNet's weights, its BatchNorms folded."""

    dimensions = VECTOR_SIZE

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite0()
        self.network.eval()
        self.network.fold()

    def features(self, images: Tensor) -> Features:
        """Vectors (B, 1280), and the maps of a quarter of the side to a thirty-second, coarsest first."""
        maps = self.network.maps(images)
        return Features(self.network.head(maps[-1]).mean((2, 3)).float(), tuple(reversed(maps)))


class ModelBackbone(nn.Module):
    """Another model of imggen, which sees."""

    def __init__(self, model: Model, dimensions: int) -> None:
        super().__init__()
        self.model = model
        self.dimensions = dimensions

    def features(self, images: Tensor) -> Features:
        """What the model sees."""
        return self.model.features(images)


def build_backbone(
    config: ClassifierConfig, parts: Sequence[Model]
) -> ResidualBackbone | ModelBackbone | PretrainedBackbone:
    """The backbone that a configuration describes; `parts` has the model whose backbone it is, if there is one."""
    if config.backbone is None:
        return ResidualBackbone(config)
    return ModelBackbone(parts[0], config.dimensions) if parts else PretrainedBackbone()


class Head(nn.Module):
    """Vectors to logits: standardized by fixed numbers, then a linear layer (logistic regression)."""

    def __init__(self, dimensions: int, classes: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(dimensions))
        self.register_buffer("scale", torch.ones(dimensions))
        self.linear = nn.Linear(dimensions, max(1, classes))

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, dimensions) → (B, classes)."""
        return self.linear((vectors - self.mean) * self.scale)


class Memory(nn.Module):
    """The vectors of the last images, with their labels: extracting them takes longer than learning from them."""

    def __init__(self, dimensions: int, size: int) -> None:
        super().__init__()
        self.vectors: Tensor
        self.labels: Tensor
        self.seen: Tensor
        self.register_buffer("vectors", torch.zeros(size, dimensions, dtype=torch.float16))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))

    def add(self, vectors: Tensor, labels: Tensor) -> None:
        """Keep vectors (B, D) with labels (B,) in place of the oldest."""
        rows = (torch.arange(len(vectors), device=vectors.device) + self.seen) % len(self.vectors)
        self.vectors[rows], self.labels[rows] = vectors.to(self.vectors.dtype), labels
        self.seen += len(vectors)

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` random vectors with their labels, by torch's global generator."""
        filled = min(int(self.seen), len(self.vectors))
        rows = torch.randint(filled, (count,)).to(self.vectors.device)
        return self.vectors[rows].float(), self.labels[rows]
