"""The classifier's options and presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from imggen.documents import COUNT, OBJECT, TEXT, DocumentError, optional, read_fields
from imggen.errors import DataError, UsageError
from imggen.models.config import ModelConfig, list_classes
from imggen.option import option

STEM_SIDE = 32  # larger images are halved until they are no larger, before the first residual block
LAST_SIDE = 4  # of the last feature map
MIN_IMAGES_OF_A_CLASS = 2
MAX_DIMENSIONS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(ModelConfig):
    """Architecture and training of a classifier; `backbone` describes that of another model, None is its own."""

    family: ClassVar[str] = "classify"

    features: str = option("own", "Backbone: own, pretrained, or a MODEL's", metavar="MODEL")
    width: int = option(16, "Channels of the first layer", low=4, high=1024)
    blocks: int = option(1, "Residual blocks per resolution", low=1, high=16)
    learning_rate: float = option(2e-3, "Initial learning rate of AdamW", low=1e-8, high=1.0)
    weight_decay: float = option(0.05, "Weight decay of AdamW", low=0.0, high=10.0)
    geometry: float = option(1.0, "Strength of shifts, turns and scaling; 0: none", low=0.0, high=4.0)
    color: float = option(1.0, "Strength of changes of color; 0: none", low=0.0, high=4.0)
    cutout: float = option(0.2, "Probability of a square cut out", low=0.0, high=1.0)
    mixup: float = option(0.0, "Mix pairs of images: alpha of mixup; 0: none", low=0.0, high=10.0)
    smoothing: float = option(0.05, "Label smoothing", low=0.0, high=0.9)
    ema_images: int = option(10_000, "EMA half-life in images; 0: none", low=0)
    # Of another backbone: name, hash, dimensions (of a vector), and model (a configuration, None for EfficientNet).
    backbone: dict[str, Any] | None = None
    tune: bool = False  # train the backbone, too

    objects: ClassVar[tuple[str, ...]] = ("backbone",)

    def __post_init__(self) -> None:
        """Check the values, and the description of the backbone."""
        super().__post_init__()
        if self.backbone is not None:
            try:
                read_fields(self.backbone, {"name": TEXT, "hash": TEXT, "dimensions": COUNT, "model": optional(OBJECT)})
            except DocumentError as error:
                raise UsageError(f"its backbone cannot be used: it {error}") from error
            self.check(1 <= self.backbone["dimensions"] <= MAX_DIMENSIONS, "its backbone has too many dimensions")

    @property
    def parts(self) -> tuple[dict[str, Any], ...]:
        """The configuration of the model whose backbone it has, if it has that of a model."""
        model = None if self.backbone is None else self.backbone["model"]
        return () if model is None else (model,)

    @property
    def dimensions(self) -> int:
        """The length of the vectors of the backbone."""
        return self.widths[-1] if self.backbone is None else self.backbone["dimensions"]

    def check_classes(self) -> None:
        """Raise DataError unless there are two classes or more, each with two images or more."""
        if len(self.classes) < 2:
            found = f"one class, {self.classes[0]}" if self.classes else "no classes"
            raise DataError(
                f"a classifier needs two classes or more: the data has {found}", "one folder for each class"
            )
        counts = zip(self.classes, self.class_counts, strict=True)
        few = [f"{name} ({count})" for name, count in counts if count < MIN_IMAGES_OF_A_CLASS]
        if few:
            raise DataError(
                f"too few images of {list_classes(few)}: each class needs {MIN_IMAGES_OF_A_CLASS} or more",
                "add images, or leave these folders out",
            )

    @property
    def halvings(self) -> int:
        """How often the image is halved before the first residual block."""
        return max(0, (self.size - 1) // STEM_SIDE).bit_length()

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after each halving by residual blocks: doubled each time, until the last side is reached."""
        side, widths = self.size >> self.halvings, [self.width]
        while side > LAST_SIDE:
            side, widths = (side + 1) // 2, [*widths, 2 * widths[-1]]
        return tuple(widths[1:] or widths)


PRESETS = {
    "tiny": ClassifierConfig(preset="tiny"),
    "head": ClassifierConfig(preset="head", weight_decay=0.5),
    "tuned": ClassifierConfig(preset="tuned", tune=True, learning_rate=3e-4),
    "base": ClassifierConfig(preset="base", width=64, blocks=2, ema_images=100_000),
}
DESCRIPTIONS = {
    "tiny": "residual network on augmented images: two CPU cores, minutes",
    "head": "logistic regression on what --features sees, which is not trained further",
    "tuned": "as head, but --features pretrained is trained further: photographs, half an hour",
    "base": "as tiny, wider and deeper: one GPU",
}
