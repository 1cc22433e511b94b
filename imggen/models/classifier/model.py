"""The classifier: a backbone, and a head that decides the class from its vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from imggen.models.base import Features, Model
from imggen.models.classifier.backbone import Head, build_backbone
from imggen.models.classifier.config import ClassifierConfig


class ClassifierModel(Model):
    """Images to classes; `parts` are the models that `config.parts` describes.

    Row i of every result depends on image i alone: in eval mode BatchNorm is a fixed linear map.
    """

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig, *parts: Model) -> None:
        super().__init__(config)
        self.backbone = build_backbone(config, parts)
        self.head = Head(config.dimensions, len(config.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] → logits (B, classes)."""
        return self.head(self.features(images).vectors)

    def features(self, images: Tensor) -> Features:
        """The features of the backbone; its vectors decide the class."""
        return self.backbone.features(images)

    def class_scores(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probability (B, classes) of each class. Raises ValueError for a mask, which it knows nothing of."""
        if mask is not None:
            raise ValueError("a classifier sees whole images: mask must be None")
        return torch.log_softmax(self(images).float(), 1)
